"""One Muon step of a stack of matrices (csrc/muon)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import native, reference
from nanochat.ops.backends import choose
from nanochat.ops.native import view


def muon(
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    momentum_buffer: Tensor,
    second_moment: Tensor,
    *,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
    inner_dtype: torch.dtype,
) -> None:
    """One Muon step in place on ``params`` and on both states; not for compiled regions.

    Momentum with a look ahead, row equilibration, five Polar Express polynomials, rescaling to the
    Frobenius norm of a semi-orthogonal matrix, NorMuon, cautious decay, update.

    Args:
        grads, params: K matrices (m, n) each, fp32 or bf16; parameters contiguous.
        momentum_buffer: (K, m, n), fp32.
        second_moment: (K, m, 1) if m >= n, else (K, 1, n); fp32.
        lr: Before the factor sqrt(max(1, m / n)) of tall matrices.
        inner_dtype: Of the matrix products, fp32 or bf16. The kernels of CUDA take fp16 for bf16:
            as fast, and ten times closer to the exact iteration.
    Raises: ValueError if shapes, dtypes or strides break these rules; nothing is changed then.
    Numerics: a NaN or infinity in one gradient makes that matrix and its states NaN and leaves the
        other matrices alone. The same bits for any number of threads and any stack around a matrix.
    Source: Muon, kellerjordan.github.io/posts/muon; Polar Express, arXiv:2505.16932; MuonEq,
        arXiv:2603.28254; Muon+, arXiv:2602.21545; NorMuon, arXiv:2510.05491.
    """
    native.check_same_device("muon", momentum_buffer, second_moment, *grads, *params)
    path = choose("muon", momentum_buffer.device.type, inner_dtype)
    if path == "reference":
        reference.muon(
            grads, params, momentum_buffer, second_moment,
            lr=lr, momentum=momentum, beta2=beta2, weight_decay=weight_decay,
            inner_dtype=inner_dtype,
        )  # fmt: skip
        return
    workspace = None
    if momentum_buffer.device.type == "cuda":
        size = _core.muon_workspace_size(*momentum_buffer.shape)
        workspace = momentum_buffer.new_empty(size)
    grads = [grad.contiguous() for grad in grads]  # bound to a name: a view keeps no copy alive
    _core.muon_step(
        native.placement(momentum_buffer, "muon"),
        [view(grad) for grad in grads], [view(param) for param in params],
        view(momentum_buffer), view(second_moment), native.view_or_none(workspace),
        is_bf16=inner_dtype == torch.bfloat16,
        lr=lr, momentum=momentum, beta2=beta2, weight_decay=weight_decay,
    )  # fmt: skip
