"""AdamW for tables, head and scalars: the update, and one tensor's share of it on one rank.

A tensor of some size is cut along dim 0 over the ranks: its gradient is reduce-scattered, the own
rows are updated in place, all rows are gathered. So each rank keeps 1 / world of both moments.
Moments and arithmetic are fp32 whatever the dtype of the parameter: with beta2 = 0.995 a step moves
the second moment by less than bf16 can hold, and it would stand still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.optim.collectives import Pending, World

# Below this a tensor is kept whole on every rank: cutting it costs more latency than it saves.
MIN_SHARDED_ELEMENTS = 1024


def adamw_update(
    grad: Tensor,
    param: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step in place on ``param`` and on both moments.

    Args:
        grad, param: Any shape, same shape.
        exp_avg, exp_avg_sq: Moments, fp32, same shape.
        step: Number of this step, from 1.
    Source: decoupled weight decay, arXiv:1711.05101; decay comes before the update.
    """
    beta1, beta2 = betas
    grad, param32 = grad.float(), param.float()  # no copy when they are fp32
    param32.mul_(1 - lr * weight_decay)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    param32.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
    if param32 is not param:
        param.copy_(param32)


class AdamWTensor:
    """One parameter, the part of it that this rank updates, and the moments of that part."""

    def __init__(
        self, name: str, param: nn.Parameter, settings: Mapping[str, Any], world: World
    ) -> None:
        self._name, self._param, self._settings = name, param, settings
        is_cut = param.numel() >= MIN_SHARDED_ELEMENTS and param.shape[0] % world.size == 0
        self._cut = world if is_cut else World(0, 1)  # ranks over which rows are spread
        self._world = world
        self._step = 0
        self._exp_avg = torch.zeros_like(self._own_rows(param), dtype=torch.float32)
        self._exp_avg_sq = torch.zeros_like(self._exp_avg)
        self._pending = Pending()

    def launch_reduce(self) -> None:
        grad = self._param.grad
        assert grad is not None
        if self._cut.size > 1:
            self._grad, self._pending = self._cut.reduce_scatter(grad.contiguous())
        else:
            self._grad, self._pending = grad, self._world.all_reduce(grad)

    def update(self) -> None:
        """Wait for the gradient, update the own part, launch the gather of the whole."""
        self._pending.wait()
        self._step += 1
        adamw_update(
            self._grad,
            self._own_rows(self._param),
            self._exp_avg,
            self._exp_avg_sq,
            step=self._step,
            lr=self._settings["lr"],
            betas=self._settings["betas"],
            eps=self._settings["eps"],
            weight_decay=self._settings["weight_decay"],
        )
        del self._grad
        self._pending = self._cut.all_gather(self._param.detach())

    def finish(self) -> None:
        self._pending.wait()

    def full_state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each state; collective."""
        yield f"{self._name}/step", torch.tensor(self._step)
        for key, own in self._moments():
            full = own.new_empty(self._param.shape)
            self._own_rows(full).copy_(own)
            self._cut.all_gather(full).wait()
            yield f"{self._name}/{key}", full

    def state_shapes(self) -> dict[str, torch.Size]:
        moments = {f"{self._name}/{key}": self._param.shape for key, _ in self._moments()}
        return {f"{self._name}/step": torch.Size([]), **moments}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._step = int(state[f"{self._name}/step"])
        for key, own in self._moments():
            own.copy_(self._own_rows(state[f"{self._name}/{key}"]))

    def _own_rows(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor[self._cut.share(tensor.shape[0])] if self._cut.size > 1 else tensor

    def _moments(self) -> tuple[tuple[str, Tensor], ...]:
        return ("exp_avg", self._exp_avg), ("exp_avg_sq", self._exp_avg_sq)
