"""The plain PyTorch meaning of every op: oracle of tests, fallback, baseline of benchmarks.

Each function takes any floating dtype, is differentiable, and computes rows in at least fp32
before it rounds its result to the dtype of its input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (d, d + D / 2) of ``x`` (B, T, H, D) by -theta; cos, sin ([B,] T, D / 2)."""
    x1, x2 = x.chunk(2, dim=-1)
    c, s = cos[..., None, :], sin[..., None, :]  # ([B,] T, 1, D / 2)
    return torch.cat((x1 * c + x2 * s, x2 * c - x1 * s), dim=-1)


def prepass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    qk_scale: float,
    eps: float,
    ve: Tensor | None = None,
    gate: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`nanochat.ops.prepass`."""
    acc = torch.promote_types(q.dtype, torch.float32)

    def rope_norm(x: Tensor) -> Tensor:
        y = rotate(x.to(acc), cos.to(acc), sin.to(acc))
        inv_rms = torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
        return (y * inv_rms * qk_scale).to(x.dtype)

    v_hat = v
    if ve is not None and gate is not None:
        weight = 3 * torch.sigmoid(gate.to(acc))[..., None]  # (B, T, Hkv, 1)
        v_hat = (v.to(acc) + weight * ve.to(acc)).to(v.dtype)
    return rope_norm(q), rope_norm(k), v_hat


def causal_window_mask(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool, true where query i sees key j: i - window <= j <= i."""
    i = torch.arange(T, device=device)
    distance = i[:, None] - i[None, :]
    return (distance >= 0) & (distance <= window)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int | None) -> Tensor:
    """Scaled dot-product attention of prepared q (B, T, H, D) and k, v (B, T, Hkv, D)."""
    T = q.shape[1]
    mask = None
    if window is not None and window < T - 1:
        mask = causal_window_mask(T, window, q.device)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    window: int | None,
    qk_scale: float,
    eps: float,
    ve: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """See :func:`nanochat.ops.attention`."""
    q_hat, k_hat, v_hat = prepass(q, k, v, cos, sin, qk_scale=qk_scale, eps=eps, ve=ve, gate=gate)
    return causal_attention(q_hat, k_hat, v_hat, window=window)


def softcapped_nats(
    logits: Tensor, targets: Tensor, *, softcap: float | None, ignore_index: int, vocab_size: int
) -> Tensor:
    """Loss of each row in nats (N,), 0 where ignored; columns >= ``vocab_size`` do not count."""
    acc = torch.promote_types(logits.dtype, torch.float32)
    z = logits[:, :vocab_size].to(acc)
    if softcap is not None and softcap > 0:
        z = softcap * torch.tanh(z / softcap)
    return F.cross_entropy(z, targets, ignore_index=ignore_index, reduction="none")


def cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None,
    ignore_index: int,
    vocab_size: int | None = None,
    reduction: str,
) -> Tensor:
    """See :func:`nanochat.ops.cross_entropy`; materialises all logits."""
    nats = softcapped_nats(
        x @ weight.t(),
        targets,
        softcap=softcap,
        ignore_index=ignore_index,
        vocab_size=weight.shape[0] if vocab_size is None else vocab_size,
    )
    return nats.sum() if reduction == "sum" else nats
