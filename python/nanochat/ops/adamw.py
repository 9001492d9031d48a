"""One AdamW step of a list of tensors (csrc/muon/adamw.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import native, reference
from nanochat.ops.backends import choose
from nanochat.ops.native import view


def adamw(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step in place on ``params`` and on both moments; not for compiled regions.

    Moments and arithmetic are fp32 whatever the dtype of the parameter: with beta2 = 0.995 a step
    moves the second moment by less than bf16 can hold, and it would stand still.

    Args:
        params, grads: Of any shapes, fp32 or bf16, all of a list alike; parameters contiguous.
        exp_avg, exp_avg_sq: Moments, fp32 and contiguous.
        step: Number of this step, from 1.
    Raises: ValueError if shapes, dtypes or strides break these rules; nothing is changed then.
    Source: decoupled weight decay, arXiv:1711.05101; decay comes before the update.
    """
    if not params:
        return
    native.check_same_device("adamw", *params, *grads, *exp_avg, *exp_avg_sq)
    dtype = torch.promote_types(params[0].dtype, grads[0].dtype)
    if choose("adamw", params[0].device.type, dtype) == "reference":
        reference.adamw(
            params, grads, exp_avg, exp_avg_sq,
            step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip
        return
    grads = [grad.contiguous() for grad in grads]  # bound to a name: a view keeps no copy alive
    _core.adamw_step(
        native.placement(params[0]),
        [view(param) for param in params], [view(grad) for grad in grads],
        [view(moment) for moment in exp_avg], [view(moment) for moment in exp_avg_sq],
        step=step, lr=lr, beta1=betas[0], beta2=betas[1], eps=eps, weight_decay=weight_decay,
    )  # fmt: skip
