"""AdamW for tables, head and scalars: one rank's share of the tensors of a group.

A tensor of some size is cut along dim 0 over the ranks: its gradient is reduce-scattered, the own
rows are updated in place, all rows are gathered. So each rank keeps 1 / world of both moments. All
tensors of a group are updated in one pass (:func:`nanochat.ops.adamw`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanochat import ops
from nanochat.optim.collectives import Pending, World

# Below this a tensor is kept whole on every rank: cutting it costs more latency than it saves.
MIN_SHARDED_ELEMENTS = 1024


class AdamWList:
    """Parameters with one step count and one set of settings."""

    def __init__(
        self,
        names: Sequence[str],
        params: Sequence[nn.Parameter],
        settings: Mapping[str, Any],
        world: World,
    ) -> None:
        self._settings = settings
        self._tensors = [_Tensor(*pair, world) for pair in zip(names, params, strict=True)]
        self._step = 0

    def launch_reduce(self) -> None:
        for tensor in self._tensors:
            tensor.launch_reduce()

    def update(self) -> None:
        """Wait for the gradients, update the own parts, launch the gathers of the wholes."""
        self._step += 1
        grads = [tensor.reduced_grad() for tensor in self._tensors]
        ops.adamw(
            [tensor.own_rows(tensor.param) for tensor in self._tensors],
            grads,
            [tensor.exp_avg for tensor in self._tensors],
            [tensor.exp_avg_sq for tensor in self._tensors],
            step=self._step,
            lr=self._settings["lr"],
            betas=self._settings["betas"],
            eps=self._settings["eps"],
            weight_decay=self._settings["weight_decay"],
        )
        for tensor in self._tensors:
            tensor.launch_gather()

    def finish(self) -> None:
        for tensor in self._tensors:
            tensor.finish()

    def full_state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each state; collective."""
        for tensor in self._tensors:
            yield f"{tensor.name}/step", torch.tensor(self._step)
            yield from tensor.full_moments()

    def state_shapes(self) -> dict[str, torch.Size]:
        shapes: dict[str, torch.Size] = {}
        for tensor in self._tensors:
            shapes[f"{tensor.name}/step"] = torch.Size([])
            shapes |= {f"{tensor.name}/{key}": tensor.param.shape for key, _ in tensor.moments()}
        return shapes

    def load(self, state: Mapping[str, Tensor]) -> None:
        for tensor in self._tensors:
            self._step = int(state[f"{tensor.name}/step"])
            tensor.load(state)


class _Tensor:
    """One parameter, the part of it that this rank updates, and the moments of that part."""

    def __init__(self, name: str, param: nn.Parameter, world: World) -> None:
        self.name, self.param = name, param
        is_cut = param.numel() >= MIN_SHARDED_ELEMENTS and param.shape[0] % world.size == 0
        self._cut = world if is_cut else World(0, 1)  # ranks over which rows are spread
        self._world = world
        self.exp_avg = torch.zeros_like(self.own_rows(param), dtype=torch.float32)
        self.exp_avg_sq = torch.zeros_like(self.exp_avg)
        self._pending = Pending()

    def launch_reduce(self) -> None:
        grad = self.param.grad
        assert grad is not None
        if self._cut.size > 1:
            self._grad, self._pending = self._cut.reduce_scatter(grad.contiguous())
        else:
            self._grad, self._pending = grad, self._world.all_reduce(grad)

    def reduced_grad(self) -> Tensor:
        """The own rows of the sum; waits for it, and lets go of it."""
        self._pending.wait()
        grad = self._grad
        del self._grad
        return grad

    def launch_gather(self) -> None:
        self._pending = self._cut.all_gather(self.param.detach())

    def finish(self) -> None:
        self._pending.wait()

    def own_rows(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor[self._cut.share(tensor.shape[0])] if self._cut.size > 1 else tensor

    def moments(self) -> tuple[tuple[str, Tensor], ...]:
        return ("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)

    def full_moments(self) -> Iterator[tuple[str, Tensor]]:
        for key, own in self.moments():
            full = own.new_empty(self.param.shape)
            self.own_rows(full).copy_(own)
            self._cut.all_gather(full).wait()
            yield f"{self.name}/{key}", full

    def load(self, state: Mapping[str, Tensor]) -> None:
        for key, own in self.moments():
            own.copy_(self.own_rows(state[f"{self.name}/{key}"]))
