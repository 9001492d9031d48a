"""Causal attention, from the QKV projection to the output projection.

On the native path it is one op (csrc/attention): pre-pass and attention forward, and a backward of
both, in which gradients of prepared q and k never reach memory. The pre-pass is an op of its own as
well, for callers that keep keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import attention_peers, native, reference
from nanochat.ops.backends import allows_any_order, choose
from nanochat.ops.native import view, view_or_none
from nanochat.ops.registration import register

QK_NORM_EPS = 2.0**-23  # default eps of F.rms_norm in fp32
_MAX_SCORE_BOUND = 40.0  # attention.h
_DQ_SUM_ROWS = 64  # attention.h

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Seven = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _allocate_forward(q: Tensor, k: Tensor, ve: Tensor | None) -> Five:
    statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        k.new_empty(k.shape if ve is not None else (0,)),
        q.new_empty(q.shape[:3], dtype=statistics),
        k.new_empty(k.shape[:3], dtype=statistics),
    )


def _allocate_gate(ve: Tensor | None, k_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ve and gate; empty without them."""
    return (
        k_hat.new_empty(k_hat.shape if ve is not None else (0,)),
        k_hat.new_empty(k_hat.shape[:3] if ve is not None else (0,)),
    )


def _allocate_backward(q_hat: Tensor, k_hat: Tensor, ve: Tensor | None) -> Four:
    return q_hat.new_empty(q_hat.shape), k_hat.new_empty(k_hat.shape), *_allocate_gate(ve, k_hat)


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
    dq, dk = q_hat.new_empty(q_hat.shape), k_hat.new_empty(k_hat.shape)
    batch = q_hat.shape[0]
    # Bound to names: a view does not keep a copy alive.
    dq_hat, dk_hat = _rows(dq_hat), _rows(dk_hat)
    _core.prepass_backward(
        native.placement(q_hat),
        view(dq_hat), view(dk_hat), view(q_hat), view(k_hat), view(q_inv_rms), view(k_inv_rms),
        view(_table(cos, batch)), view(_table(sin, batch)), view(dq), view(dk),
        qk_scale=qk_scale,
    )  # fmt: skip
    return dq, dk, *_gate_backward(dv_hat, k_hat, ve, gate)


def _gate_backward(
    dv_hat: Tensor | None, k_hat: Tensor, ve: Tensor | None, gate: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of ve and gate, from that of v_hat."""
    dve, dgate = _allocate_gate(ve, k_hat)
    if dv_hat is not None and ve is not None and gate is not None:
        dv_hat = _rows(dv_hat)
        _core.gate_backward(
            native.placement(ve), view(dv_hat), view(ve), view(gate), view(dve), view(dgate)
        )
    return dve, dgate


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
    Raises: ValueError if shapes disagree.
    Numerics: rows in fp32; error against fp64 at most twice that of ``reference.prepass``.
    """
    if (ve is None) != (gate is None):
        raise ValueError("prepass: ve and gate must be given together, got one of them")
    if choose("prepass", q.device.type, q.dtype, head_dim=q.shape[-1]) == "reference":
        return reference.prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    q_hat, k_hat, v_hat, _, _ = torch.ops.nanochat.prepass(
        q, k, cos, sin, None if ve is None else v, ve, gate, qk_scale=qk_scale, eps=eps
    )
    return q_hat, k_hat, v if ve is None else v_hat


def _visible(window: int | None, T: int) -> int:
    return T if window is None else min(window, T)


def _score_bound(qk_scale: float, D: int) -> float:
    """Of |q_hat . k_hat| / sqrt(D), rows being normed; 0 where it is of no use as a maximum."""
    bound = qk_scale**2 * math.sqrt(D)
    return bound if bound <= _MAX_SCORE_BOUND else 0.0


def _dq_sum(q: Tensor) -> Tensor:
    """Workspace of the backward that adds up dq in any order."""
    B, T, H, D = q.shape
    return q.new_empty((B, H, math.ceil(T / _DQ_SUM_ROWS) * _DQ_SUM_ROWS, D), dtype=torch.float32)


def _allocate_attention(q: Tensor, k: Tensor, ve: Tensor | None) -> Seven:
    B, T, H, _ = q.shape
    prepared = _allocate_forward(q, k, ve)
    return q.new_empty(q.shape), *prepared, q.new_empty((B, H, T), dtype=prepared[3].dtype)


def _allocate_attention_backward(q_hat: Tensor, k_hat: Tensor, ve: Tensor | None) -> Five:
    dq, dk, dve, dgate = _allocate_backward(q_hat, k_hat, ve)
    return dq, dk, k_hat.new_empty(k_hat.shape), dve, dgate


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    ve: Tensor | None,
    gate: Tensor | None,
    *,
    window: int | None,
    qk_scale: float,
    eps: float,
) -> Seven:
    native.check_same_device("attention", q, k, v, cos, sin, ve, gate)
    prepared = _prepass(
        q, k, cos, sin, None if ve is None else v, ve, gate, qk_scale=qk_scale, eps=eps
    )
    q_hat, k_hat, v_hat = prepared[:3]
    B, T, H, D = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty((B, H, T), dtype=prepared[3].dtype)
    _core.attention_forward(
        native.placement(q, "attention"),
        view(q_hat), view(k_hat), view(v if ve is None else v_hat), view(out), view(lse),
        window=_visible(window, T), scale=D**-0.5, score_bound=_score_bound(qk_scale, D),
    )  # fmt: skip
    return out, *prepared, lse


def _attention_backward(
    dout: Tensor,
    out: Tensor,
    lse: Tensor,
    q_hat: Tensor,
    k_hat: Tensor,
    v_hat: Tensor,
    q_inv_rms: Tensor,
    k_inv_rms: Tensor,
    cos: Tensor,
    sin: Tensor,
    ve: Tensor | None,
    gate: Tensor | None,
    *,
    window: int | None,
    qk_scale: float,
) -> Five:
    dout = _rows(dout)
    dq, dk = q_hat.new_empty(q_hat.shape), k_hat.new_empty(k_hat.shape)
    dv = k_hat.new_empty(k_hat.shape)
    delta = lse.new_empty(lse.shape)
    batch, T, _, D = q_hat.shape
    where = native.placement(q_hat, "attention")
    dq_sum = _dq_sum(q_hat) if native.may_run_on_hopper(where) and allows_any_order() else None
    _core.attention_backward(
        where,
        view(dout), view(q_hat), view(k_hat), view(v_hat), view(out), view(lse),
        view(q_inv_rms), view(k_inv_rms), view(_table(cos, batch)), view(_table(sin, batch)),
        view(delta), view(dq), view(dk), view(dv), view_or_none(dq_sum),
        window=_visible(window, T), scale=D**-0.5, qk_scale=qk_scale,
        is_deterministic=dq_sum is None,
    )  # fmt: skip
    return dq, dk, dv, *_gate_backward(dv, k_hat, ve, gate)


def _save_attention(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Seven
) -> None:
    _, _, v, cos, sin, ve, gate = inputs
    out, q_hat, k_hat, v_hat, q_inv_rms, k_inv_rms, lse = output
    ctx.save_for_backward(
        out, lse, q_hat, k_hat, v if ve is None else v_hat, q_inv_rms, k_inv_rms, cos, sin, ve, gate
    )
    ctx.mark_non_differentiable(*output[1:])
    ctx.window, ctx.qk_scale = keyword_only_inputs["window"], keyword_only_inputs["qk_scale"]


def _autograd_attention(ctx: Any, dout: Tensor, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors  # may be asked for once only, under activation checkpointing
    dq, dk, dv, dve, dgate = torch.ops.nanochat.attention_backward(
        dout, *saved, window=ctx.window, qk_scale=ctx.qk_scale
    )
    return dq, dk, dv, None, None, *((dve, dgate) if saved[-1] is not None else (None, None))


# v_hat, dve and dgate are empty without value embeddings.
register(
    "attention(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor? ve, Tensor? gate, *, "
    "int? window, float qk_scale, float eps) -> (Tensor out, Tensor q_hat, Tensor k_hat, "
    "Tensor v_hat, Tensor q_inv_rms, Tensor k_inv_rms, Tensor lse)",
    kernel=_attention,
    fake=lambda q, k, _v, _cos, _sin, ve, _gate, **_: _allocate_attention(q, k, ve),
    backward=_autograd_attention,
    save=_save_attention,
)
register(
    "attention_backward(Tensor dout, Tensor out, Tensor lse, Tensor q_hat, Tensor k_hat, "
    "Tensor v_hat, Tensor q_inv_rms, Tensor k_inv_rms, Tensor cos, Tensor sin, Tensor? ve, "
    "Tensor? gate, *, int? window, float qk_scale) "
    "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dve, Tensor dgate)",
    kernel=_attention_backward,
    fake=lambda _dout, _out, _lse, q_hat, k_hat, _v, _rq, _rk, _cos, _sin, ve, _gate, **_: (
        _allocate_attention_backward(q_hat, k_hat, ve)
    ),
)


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
        window: Keys visible to the left of a query besides its own; None means all. What is outside
            of it costs nothing.
    Returns: (B, T, H, D), dtype and device of ``q``; scores are scaled by 1 / sqrt(D).
    Raises: ValueError if shapes disagree or the window is negative.
    Numerics: sums in fp32, weights rounded to the dtype of ``q``; error against fp64 at most twice
        that of ``reference.attention``. Same bits whatever the number of threads and in every run,
        but for the gradient of q under ``ops.force("hopper")``.
    Source: FlashAttention-2, arXiv:2307.08691.
    """
    if window is not None and window < 0:
        raise ValueError(f"attention: window must not be negative, got {window}")
    path = choose("attention", q.device.type, q.dtype, head_dim=q.shape[-1])
    if path == "native":
        if (ve is None) != (gate is None):
            raise ValueError("attention: ve and gate must be given together, got one of them")
        out: Tensor = torch.ops.nanochat.attention(
            q, k, v, cos, sin, ve, gate, window=window, qk_scale=qk_scale, eps=eps
        )[0]
        return out
    q_hat, k_hat, v_hat = prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    if path == "reference":
        return reference.causal_attention(q_hat, k_hat, v_hat, window=window)
    return attention_peers.attend(path, q_hat, k_hat, v_hat, window=window)
