"""Errors against an oracle, and the one tolerance rule of the project.

The oracle is the reference in fp64 on inputs that were rounded to the working dtype first. A kernel
may be at most twice as far from it as the reference in the working dtype is, plus a floor for
results that the reference happens to hit exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOORS = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float64: 1e-12}  # of the largest value


def max_error(actual: Tensor, oracle: Tensor) -> float:
    """Largest absolute difference; NaN, or a shape that differs, is an infinite error."""
    if actual.shape != oracle.shape:
        return float("inf")
    if actual.numel() == 0:
        return 0.0
    error = float((actual.detach().double() - oracle.detach().double()).abs().max())
    return error if error == error else float("inf")


def relative_error(actual: Tensor, oracle: Tensor) -> float:
    """Frobenius norm of the difference over that of the oracle."""
    difference = (actual.detach().double() - oracle.detach().double()).norm()
    return float(difference / oracle.detach().double().norm().clamp_min(1e-300))


def assert_as_good_as(
    actual: Tensor, reference: Tensor, oracle: Tensor, what: str, *, scale: float | None = None
) -> None:
    """Fail unless ``actual`` errs at most twice as much as ``reference``, plus a rounding floor.

    The floor is relative to ``scale``, the size of the numbers that the result is made of; without
    one, to the oracle's largest value. Its fraction follows from the dtype of ``reference``.
    """
    if scale is None:
        scale = oracle.detach().abs().max().item() if oracle.numel() else 0.0
    error = max_error(actual, oracle)
    allowed = 2 * max_error(reference, oracle) + FLOORS[reference.dtype] * scale
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g} (scale {scale:.3g})"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if two tensors agree in dtype, shape and every bit, NaN payloads included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.detach().contiguous().view(-1), b.detach().contiguous().view(-1)
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
