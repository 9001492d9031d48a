"""Causal attention, from the QKV projection to the output projection.

Two parts for now: the pre-pass, native (csrc/attention), and PyTorch's SDPA, or matrix products for
short rows on the CPU. The second is the portable path until the fused kernels land; a window costs
a mask there, not less work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import native, reference
from nanochat.ops.backends import choose
from nanochat.ops.native import view, view_or_none
from nanochat.ops.registration import register

# Rows this short, in bf16 on the CPU, take plain matrix products: forward and backward together
# they need 2.4x less time than PyTorch's fused kernel at T = 256, 2.6x at 512, 1.5x at 1024.
MAX_PRODUCT_LEN = 1024
QK_NORM_EPS = 2.0**-23  # default eps of F.rms_norm in fp32

Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _allocate_forward(q: Tensor, k: Tensor, ve: Tensor | None) -> Five:
    statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        k.new_empty(k.shape if ve is not None else (0,)),
        q.new_empty(q.shape[:3], dtype=statistics),
        k.new_empty(k.shape[:3], dtype=statistics),
    )


def _allocate_backward(q_hat: Tensor, k_hat: Tensor, ve: Tensor | None) -> Four:
    return (
        q_hat.new_empty(q_hat.shape),
        k_hat.new_empty(k_hat.shape),
        k_hat.new_empty(k_hat.shape if ve is not None else (0,)),
        k_hat.new_empty(k_hat.shape[:3] if ve is not None else (0,)),
    )


def _table(table: Tensor, batch: int) -> Tensor:
    """A rotary table as (B, T, D / 2); one that all rows share gets batch stride 0."""
    return table.expand(batch, *table.shape) if table.dim() == 2 else table


def _prepass(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    v: Tensor | None,
    ve: Tensor | None,
    gate: Tensor | None,
    *,
    qk_scale: float,
    eps: float,
) -> Five:
    native.check_same_device("prepass", q, k, cos, sin, v, ve, gate)
    out = _allocate_forward(q, k, ve)
    q_hat, k_hat, v_hat, q_inv_rms, k_inv_rms = map(view, out)
    batch = q.shape[0]
    _core.prepass_forward(
        native.placement(q),
        view(q), view(k), view(_table(cos, batch)), view(_table(sin, batch)),
        view_or_none(v), view_or_none(ve), view_or_none(gate),
        q_hat, k_hat, None if ve is None else v_hat, q_inv_rms, k_inv_rms,
        qk_scale=qk_scale, eps=eps,
    )  # fmt: skip
    return out


def _prepass_backward(
    dq_hat: Tensor,
    dk_hat: Tensor,
    q_hat: Tensor,
    k_hat: Tensor,
    q_inv_rms: Tensor,
    k_inv_rms: Tensor,
    cos: Tensor,
    sin: Tensor,
    dv_hat: Tensor | None,
    ve: Tensor | None,
    gate: Tensor | None,
    *,
    qk_scale: float,
) -> Four:
    out = _allocate_backward(q_hat, k_hat, ve)
    dq, dk, dve, dgate = map(view, out)
    batch = q_hat.shape[0]
    # Bound to names: a view does not keep a copy alive.
    dq_hat, dk_hat = _rows(dq_hat), _rows(dk_hat)
    dv_hat = None if dv_hat is None else _rows(dv_hat)
    _core.prepass_backward(
        native.placement(q_hat),
        view(dq_hat), view(dk_hat),
        view(q_hat), view(k_hat), view(q_inv_rms), view(k_inv_rms),
        view(_table(cos, batch)), view(_table(sin, batch)),
        view_or_none(dv_hat), view_or_none(ve), view_or_none(gate),
        dq, dk, None if ve is None else dve, None if ve is None else dgate,
        qk_scale=qk_scale,
    )  # fmt: skip
    return out


def _rows(gradient: Tensor) -> Tensor:
    """Autograd may hand over expanded gradients (of a sum, say), whose rows are not in memory."""
    return gradient if gradient.stride(-1) == 1 else gradient.contiguous()


def _save(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Five
) -> None:
    _, _, cos, sin, _, ve, gate = inputs
    q_hat, k_hat, _, q_inv_rms, k_inv_rms = output
    ctx.save_for_backward(q_hat, k_hat, q_inv_rms, k_inv_rms, cos, sin, ve, gate)
    ctx.mark_non_differentiable(q_inv_rms, k_inv_rms)
    ctx.qk_scale = keyword_only_inputs["qk_scale"]


def _autograd(ctx: Any, dq_hat: Tensor, dk_hat: Tensor, dv_hat: Tensor, *_: Any) -> tuple[Any, ...]:
    q_hat, k_hat, q_inv_rms, k_inv_rms, cos, sin, ve, gate = ctx.saved_tensors
    dv = None if ve is None else dv_hat
    dq, dk, dve, dgate = torch.ops.nanochat.prepass_backward(
        dq_hat, dk_hat, q_hat, k_hat, q_inv_rms, k_inv_rms, cos, sin, dv, ve, gate,
        qk_scale=ctx.qk_scale,
    )  # fmt: skip
    if ve is None:
        return dq, dk, None, None, None, None, None
    return dq, dk, None, None, dv, dve, dgate


# The optional tensors come together; v_hat, dve and dgate are empty without them.
register(
    "prepass(Tensor q, Tensor k, Tensor cos, Tensor sin, Tensor? v, Tensor? ve, Tensor? gate, *, "
    "float qk_scale, float eps) "
    "-> (Tensor q_hat, Tensor k_hat, Tensor v_hat, Tensor q_inv_rms, Tensor k_inv_rms)",
    kernel=_prepass,
    fake=lambda q, k, cos, sin, v, ve, gate, **_: _allocate_forward(q, k, ve),
    backward=_autograd,
    save=_save,
)
register(
    "prepass_backward(Tensor dq_hat, Tensor dk_hat, Tensor q_hat, Tensor k_hat, Tensor q_inv_rms, "
    "Tensor k_inv_rms, Tensor cos, Tensor sin, Tensor? dv_hat, Tensor? ve, Tensor? gate, *, "
    "float qk_scale) -> (Tensor dq, Tensor dk, Tensor dve, Tensor dgate)",
    kernel=_prepass_backward,
    fake=lambda _dq, _dk, q_hat, k_hat, _rq, _rk, _cos, _sin, _dv, ve, _gate, **_: (
        _allocate_backward(q_hat, k_hat, ve)
    ),
)


def prepass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    qk_scale: float = 1.2,
    eps: float = QK_NORM_EPS,
    ve: Tensor | None = None,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotary embedding and QK-norm of q and k, gated value embedding of v.

    q_hat = qk_scale * rms_norm(rope(q)), the same for k, and v_hat = v + 3 * sigmoid(gate) * ve.
    Half-split rotation by -theta: y1 = x1 cos + x2 sin, y2 = -x1 sin + x2 cos.

    Args:
        q: (B, T, H, D), bf16 or fp32 (fp64 on the CPU), D even and contiguous; on CUDA 64 or 128.
        k, v: (B, T, Hkv, D), same dtype; any may be views of one fused projection.
        cos, sin: (T, D / 2) fp32, or (B, T, D / 2) for rows at different positions.
        ve, gate: (B, T, Hkv, D) and logits (B, T, Hkv), both or neither; without them v_hat is v.
    Returns: q_hat, k_hat, v_hat in the shapes and dtype of q, k, v.
    Raises: ValueError if shapes disagree; NotImplementedError for another D on CUDA.
    Numerics: rows in fp32; error against fp64 at most twice that of ``reference.prepass``.
    """
    if (ve is None) != (gate is None):
        raise ValueError("prepass: ve and gate must be given together, got one of them")
    if choose("prepass", q.device.type, q.dtype) == "reference":
        return reference.prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    q_hat, k_hat, v_hat, _, _ = torch.ops.nanochat.prepass(
        q, k, cos, sin, None if ve is None else v, ve, gate, qk_scale=qk_scale, eps=eps
    )
    return q_hat, k_hat, v if ve is None else v_hat


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    window: int | None = None,
    qk_scale: float = 1.2,
    eps: float = QK_NORM_EPS,
    ve: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """Causal attention over q, k and v as :func:`prepass` makes them; arguments as there.

    Args:
        window: Keys visible to the left of a query besides its own; None means all.
    Returns: (B, T, H, D), dtype and device of ``q``; scores are scaled by 1 / sqrt(D).
    Raises: ValueError if shapes disagree or the window is negative.
    """
    if window is not None and window < 0:
        raise ValueError(f"attention: window must not be negative, got {window}")
    q_hat, k_hat, v_hat = prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[1] <= MAX_PRODUCT_LEN:
        return _attend_by_products(q_hat, k_hat, v_hat, window)
    return reference.causal_attention(q_hat, k_hat, v_hat, window=window)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Attention as two batched matrix products around a softmax; holds all T x T scores."""
    B, T, H, D = q.shape
    if k.shape[2] != H:
        k, v = (x.repeat_interleave(H // k.shape[2], dim=2) for x in (k, v))
    queries, keys, values = (x.transpose(1, 2).reshape(B * H, T, D) for x in (q, k, v))
    visible = reference.causal_window_mask(T, T if window is None else window, q.device)
    hidden = torch.zeros(T, T, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
    scores = torch.baddbmm(hidden, queries, keys.transpose(1, 2), alpha=D**-0.5)  # (B H, T, T)
    out = torch.bmm(scores.softmax(dim=-1), values)
    return out.view(B, H, T, D).transpose(1, 2)
