"""Muon for the matrices inside the blocks: one rank's share of those of one shape.

The momentum is replaced by the nearest semi-orthogonal matrix, so that every direction of the input
learns at one rate (:func:`nanochat.ops.muon`; its cost is in csrc/muon/README.md). Matrices of one
shape are updated together; over several ranks each owns ceil(K / world) whole matrices of the K,
since the iteration needs all rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanochat import ops
from nanochat.optim.collectives import Pending, World


class MuonStack:
    """Matrices of one shape, those that this rank owns, and their states."""

    def __init__(
        self,
        names: Sequence[str],
        params: Sequence[nn.Parameter],
        settings: Mapping[str, Any],
        world: World,
        *,
        inner_dtype: torch.dtype,
    ) -> None:
        self._names, self._params, self._settings = list(names), list(params), settings
        self._world, self._inner_dtype = world, inner_dtype
        num_padded = math.ceil(len(params) / world.size) * world.size
        share = world.share(num_padded)
        self._padded_shape = (num_padded, *params[0].shape)
        self._owned = slice(min(share.start, len(params)), min(share.stop, len(params)))
        num_owned = self._owned.stop - self._owned.start
        m, n = params[0].shape
        second_shape = (m, 1) if m >= n else (1, n)  # NorMuon averages the longer side
        self._momentum = params[0].new_zeros((num_owned, m, n), dtype=torch.float32)
        self._second_moment = self._momentum.new_zeros((num_owned, *second_shape))
        self._pending = Pending()

    def launch_reduce(self) -> None:
        grads = []
        for param in self._params:
            assert param.grad is not None
            grads.append(param.grad)
        if self._world.size == 1:
            self._grads = grads
            return
        self._stack = grads[0].new_zeros(self._padded_shape)
        torch.stack(grads, out=self._stack[: len(grads)])
        own, self._pending = self._world.reduce_scatter(self._stack)
        self._grads = list(own)

    def update(self) -> None:
        """Wait for the gradients, update the own matrices, launch the gather of all."""
        self._pending.wait()
        own = [param.detach() for param in self._params[self._owned]]
        if own:
            ops.muon(
                self._grads[: len(own)],
                own,
                self._momentum,
                self._second_moment,
                lr=self._settings["lr"],
                momentum=self._settings["momentum"],
                beta2=self._settings["beta2"],
                weight_decay=self._settings["weight_decay"],
                inner_dtype=self._inner_dtype,
            )
        del self._grads
        if self._world.size > 1:
            for i, param in enumerate(own, self._owned.start):
                self._stack[i] = param  # the sum has left it: it carries parameters now
            self._pending = self._world.all_gather(self._stack)

    def finish(self) -> None:
        if self._world.size == 1:
            return
        self._pending.wait()
        for param, updated in zip(self._params, self._stack, strict=False):  # padding comes last
            param.detach().copy_(updated)
        del self._stack

    def full_state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each state; collective."""
        for key, own in self._states():
            full = own.new_zeros(self._padded_shape[0], *own.shape[1:])
            full[self._owned] = own
            self._world.all_gather(full).wait()
            for name, matrix in zip(self._names, full, strict=False):
                yield f"{name}/{key}", matrix

    def state_shapes(self) -> dict[str, torch.Size]:
        return {f"{n}/{key}": own.shape[1:] for key, own in self._states() for n in self._names}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for key, own in self._states():
            for name, matrix in zip(self._names[self._owned], own, strict=True):
                matrix.copy_(state[f"{name}/{key}"])

    def _states(self) -> tuple[tuple[str, Tensor], ...]:
        return ("momentum", self._momentum), ("second_moment", self._second_moment)
