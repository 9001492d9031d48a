"""Softcapped cross-entropy of a language-model head, chunked over rows.

Logits exist for one chunk at a time, in the dtype of ``x``; the row kernel (csrc/cross_entropy)
turns them into their own gradient, and two GEMMs fold that into dx and dW while it is hot. So the
gradient is ready when the forward returns, the backward only scales it, and memory beyond dx and
dW (fp32) is one chunk, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import native, reference
from nanochat.ops.backends import choose
from nanochat.ops.registration import register

_CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 28}  # logits of a chunk: 8 MB, 512 MB in bf16
# And this many at least: a chunk's share of dW, V x C numbers, is added to what is there. At
# V = 32768 on the CPU 256 rows at a time take 1.35x as long.
_MIN_CHUNK_ROWS = 1024
_ROW_ALIGNMENT = 64  # elements; rows of logits start at a cache line, and at 16 bytes on CUDA

Three = tuple[Tensor, Tensor, Tensor]


def _chunk_rows(N: int, V: int, device: str) -> int:
    """Rows of a chunk: a multiple of 256, all chunks of nearly equal length."""
    most = max(_MIN_CHUNK_ROWS, _CHUNK_ELEMENTS[device] // V)
    num_chunks = max(1, -(-N // most))
    return -(-N // (num_chunks * 256)) * 256


def _chunks(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields rows and their logits (rows, V); all logits share one buffer."""
    N, V = x.shape[0], weight.shape[0]
    rows = min(N, _chunk_rows(N, V, x.device.type))
    stride = -(-V // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
    buffer = x.new_empty((rows, stride))
    for begin in range(0, N, max(rows, 1)):
        part = slice(begin, min(begin + rows, N))
        logits = buffer[: part.stop - begin, :V]
        torch.mm(x[part], weight.t(), out=logits)
        yield part, logits


def _cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float,
    ignore_index: int,
    vocab_size: int,
    needs_dx: bool,
    needs_dw: bool,
) -> Three:
    native.check_same_device("cross_entropy", x, weight, targets)
    _, dx, dw = _allocate(x, weight, needs_dx, needs_dw)
    nats = x.new_empty(x.shape[0], dtype=torch.float32)
    where = native.placement(x)
    if needs_dw:
        dw.zero_()
    for part, logits in _chunks(x, weight):
        _core.cross_entropy_rows(
            where, native.view(logits), native.view(targets[part]), native.view(nats[part]),
            vocab_size=vocab_size, ignore_index=ignore_index, softcap=softcap,
            with_gradient=needs_dx or needs_dw,
        )  # fmt: skip
        if needs_dx:
            torch.mm(logits, weight, out=dx[part])
        if needs_dw:
            _add_product(dw, logits.t(), x[part])
    return nats.sum(), dx, dw


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, ``total`` in fp32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        # PyTorch's CPU has no product of bf16 into fp32, and one of fp32 takes 4.4x as long. So
        # each chunk's share is rounded, as dlogits were; the error does not grow with the chunks.
        total += torch.mm(a, b)


def _cross_entropy_rows(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float,
    ignore_index: int,
    vocab_size: int,
) -> Tensor:
    native.check_same_device("cross_entropy", x, weight, targets)
    nats = x.new_empty(x.shape[0], dtype=torch.float32)
    where = native.placement(x)
    for part, logits in _chunks(x, weight):
        _core.cross_entropy_rows(
            where, native.view(logits), native.view(targets[part]), native.view(nats[part]),
            vocab_size=vocab_size, ignore_index=ignore_index, softcap=softcap,
            with_gradient=False,
        )  # fmt: skip
    return nats


def _allocate(x: Tensor, weight: Tensor, needs_dx: bool, needs_dw: bool) -> Three:
    return (
        x.new_empty((), dtype=torch.float32),
        x.new_empty(x.shape if needs_dx else (0,)),
        weight.new_empty(weight.shape if needs_dw else (0,), dtype=torch.float32),
    )


def _save(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Three
) -> None:
    _, dx, dw = output
    ctx.save_for_backward(dx, dw)
    ctx.mark_non_differentiable(dx, dw)
    ctx.needs = keyword_only_inputs["needs_dx"], keyword_only_inputs["needs_dw"]
    ctx.weight_dtype = inputs[1].dtype


def _autograd(ctx: Any, dloss: Tensor, *_: Any) -> tuple[Any, ...]:
    dx, dw = ctx.saved_tensors
    needs_dx, needs_dw = ctx.needs
    return (
        (dx * dloss).to(dx.dtype) if needs_dx else None,
        (dw * dloss).to(ctx.weight_dtype) if needs_dw else None,
        None,
    )


def _autograd_rows(ctx: Any, *_: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "cross_entropy: reduction 'none' is for evaluation and has no gradient; "
        "train with reduction 'sum'"
    )


register(
    "cross_entropy(Tensor x, Tensor weight, Tensor targets, *, float softcap, int ignore_index, "
    "int vocab_size, bool needs_dx, bool needs_dw) -> (Tensor loss, Tensor dx, Tensor dw)",
    kernel=_cross_entropy,
    fake=lambda x, weight, targets, *, needs_dx, needs_dw, **_: _allocate(
        x, weight, needs_dx, needs_dw
    ),
    backward=_autograd,
    save=_save,
)
register(
    "cross_entropy_rows(Tensor x, Tensor weight, Tensor targets, *, float softcap, "
    "int ignore_index, int vocab_size) -> Tensor nats",
    kernel=_cross_entropy_rows,
    fake=lambda x, weight, targets, **_: x.new_empty(x.shape[0], dtype=torch.float32),
    backward=_autograd_rows,
)


def _check(x: Tensor, weight: Tensor, targets: Tensor, reduction: str, vocab_size: int) -> None:
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            "cross_entropy: x must be (N, C) and weight (V, C), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if x.dtype != weight.dtype:
        raise ValueError(
            f"cross_entropy: x and weight must have one dtype, got {x.dtype} and {weight.dtype}"
        )
    if targets.shape != x.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"cross_entropy: targets must be ({x.shape[0]},) int64, "
            f"got {tuple(targets.shape)} {targets.dtype}"
        )
    if not 0 < vocab_size <= weight.shape[0]:
        raise ValueError(
            f"cross_entropy: vocab_size must be between 1 and {weight.shape[0]}, got {vocab_size}"
        )
    if reduction not in ("sum", "none"):
        raise ValueError(f"cross_entropy: reduction must be 'sum' or 'none', got {reduction!r}")


def cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = 15.0,
    ignore_index: int = -1,
    vocab_size: int | None = None,
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """Cross-entropy of softcap * tanh(x @ weight.T / softcap) against ``targets``, in nats.

    Args:
        x: (N, C), bf16 or fp32.
        weight: (V, C), same dtype; rows from ``vocab_size`` on are padding and get no gradient.
        targets: (N,) int64 below ``vocab_size``, or ``ignore_index``: such a row counts nothing.
        softcap: Bound on the logits; None or 0 leaves them as they are.
        reduction: "sum" is a scalar; "none" is (N,), without a gradient, for evaluation.
    Returns: fp32, on the device of ``x``.
    Raises: ValueError if shapes or dtypes disagree; IndexError for a target out of range (on CUDA
        the loss is NaN instead); NotImplementedError from the backward of "none".
    Numerics: logits are rounded to the dtype of ``x``, rows computed in fp32, dW summed in fp32.
    Source: gradient in the forward, arXiv:2410.10989.
    """
    V = weight.shape[0] if vocab_size is None else vocab_size
    _check(x, weight, targets, reduction, V)
    if choose("cross_entropy", x.device.type, x.dtype) == "reference":
        return reference.cross_entropy(
            x, weight, targets,
            softcap=softcap, ignore_index=ignore_index, vocab_size=V, reduction=reduction,
        )  # fmt: skip
    cap = 0.0 if softcap is None else float(softcap)
    x, weight, targets = x.contiguous(), weight.contiguous(), targets.contiguous()
    if reduction == "none":
        nats: Tensor = torch.ops.nanochat.cross_entropy_rows(
            x, weight, targets, softcap=cap, ignore_index=ignore_index, vocab_size=V
        )
        return nats
    grad = torch.is_grad_enabled()
    loss: Tensor
    loss, _, _ = torch.ops.nanochat.cross_entropy(
        x, weight, targets,
        softcap=cap, ignore_index=ignore_index, vocab_size=V,
        needs_dx=grad and x.requires_grad, needs_dw=grad and weight.requires_grad,
    )  # fmt: skip
    return loss
