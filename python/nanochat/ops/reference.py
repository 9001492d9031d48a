"""The plain PyTorch meaning of every op: oracle of tests, fallback, baseline of benchmarks.

Each function takes any floating dtype, is differentiable, and computes rows in at least fp32
before it rounds its result to the dtype of its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


# Odd quintics x -> a x + b x^3 + c x^5, applied in turn; safety factor 2e-2, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
_MIN_NORM = 1e-6  # a dead row or an all-zero gradient stays zero and does not become NaN


def _frobenius(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return norm  # (K, 1, 1)


def orthogonalize(g: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Nearest semi-orthogonal matrices, rows equilibrated first, Frobenius norm sqrt(min(m, n)).

    Args:
        g: (K, m, n).
        dtype: Of the matrix products.
    Returns: (K, m, n), of the dtype of ``g``.
    Numerics: singular values above a thousandth of the Frobenius norm land in 0.859 to 1.141, the
        range of the composed polynomial; the last rescaling moves all by a common factor near 1.
        Rows and norm are scaled in the dtype of ``g`` and rounded to ``dtype`` once; upstream
        rounds before and after each.
    Source: Polar Express, arXiv:2505.16932; MuonEq, arXiv:2603.28254; Muon+, arXiv:2602.21545.
    """
    # MuonEq: every row takes the root mean square of the row norms.
    row_norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)  # (K, m, 1)
    mean_norm = torch.linalg.vector_norm(row_norm, dim=-2, keepdim=True) / math.sqrt(g.shape[-2])
    x = g * (mean_norm / row_norm.clamp_min(_MIN_NORM))
    # The largest singular value is at most 1 / 1.01, inside the polynomials' interval.
    x = (x / (1.01 * _frobenius(x) + _MIN_NORM)).to(dtype)

    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if is_tall else x
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(x, x.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b A + c A^2
        x = torch.baddbmm(x, poly, x, beta=a)
    result: Tensor = (x.mT if is_tall else x).to(g.dtype)

    # Muon+: the Frobenius norm of an exactly semi-orthogonal matrix.
    return result * (math.sqrt(min(g.shape[-2:])) / _frobenius(result).clamp_min(_MIN_NORM))


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
    """See :func:`nanochat.ops.muon`; stacks gradients and parameters."""
    acc = momentum_buffer.dtype
    grad = torch.stack([g.to(acc) for g in grads])
    param = torch.stack([p.detach().to(acc) for p in params])
    momentum_buffer.lerp_(grad, 1 - momentum)
    g = orthogonalize(torch.lerp(grad, momentum_buffer, momentum), dtype=inner_dtype)

    # NorMuon: neurons whose updates are usually large are damped; the norm of the whole is kept.
    # There is no bias correction, because the rescaling removes any common factor.
    m, n = g.shape[-2:]
    norm = _frobenius(g)
    mean_square = g.square().mean(dim=-1 if m >= n else -2, keepdim=True)
    second_moment.lerp_(mean_square, 1 - beta2)
    g = g * second_moment.clamp_min(1e-10).rsqrt()
    g *= norm / _frobenius(g).clamp_min(1e-10)

    # Cautious decay: only weights that the update already moves towards zero.
    lr *= math.sqrt(max(1.0, m / n))
    shrinks = (g * param) >= 0
    param.sub_(lr * (g + weight_decay * param * shrinks))
    for p, updated in zip(params, param, strict=True):
        p.detach().copy_(updated)


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
    """See :func:`nanochat.ops.adamw`."""
    beta1, beta2 = betas
    for p, g, first, second in zip(params, grads, exp_avg, exp_avg_sq, strict=True):
        param, grad = p.detach().to(first.dtype), g.to(first.dtype)  # no copy if they are of it
        param.mul_(1 - lr * weight_decay)
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (second / (1 - beta2**step)).sqrt_().add_(eps)
        param.addcdiv_(first, denominator, value=-lr / (1 - beta1**step))
        p.detach().copy_(param)
