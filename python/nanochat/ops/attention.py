"""Causal attention, from the QKV projection to the output projection."""

from __future__ import annotations

from torch import Tensor

from nanochat.ops import reference

QK_NORM_EPS = 2.0**-23  # default eps of F.rms_norm in fp32


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
    """Rotary embedding and QK-norm of q and k, gated value embedding of v."""
    return reference.prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)


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
    """Causal windowed attention over rotated and normalised q and k."""
    q_hat, k_hat, v_hat = prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    return reference.causal_attention(q_hat, k_hat, v_hat, window=window)
