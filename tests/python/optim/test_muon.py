"""Muon against a matrix-by-matrix transcription of the algorithm in fp64, and its promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanochat.optim.muon import POLAR_EXPRESS, muon_update, orthogonalize, reduced_dim

# Square, wide, tall, and the gate of value embeddings: a few rows 12 wide, down to one.
SHAPES = [(32, 32), (24, 96), (96, 24), (4, 12), (1, 12)]

SETTINGS = {"lr": 0.02, "momentum": 0.9, "beta2": 0.9, "weight_decay": 0.3}


def oracle(
    grad: Tensor, param: Tensor, buffer: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of one matrix, fp64, by the eight numbered lines of the description."""
    lr, mu, beta2, decay = SETTINGS.values()
    m, n = param.shape
    buffer = mu * buffer + (1 - mu) * grad  # 1
    x = (1 - mu) * grad + mu * buffer
    norms = [float(row.norm()) for row in x]  # 2 is the cast; 3
    target_norm = float(x.norm()) / math.sqrt(m)
    x = torch.stack(
        [row * target_norm / max(norm, 1e-6) for row, norm in zip(x, norms, strict=True)]
    )
    x = x / (1.01 * x.norm() + 1e-6)  # 4
    for a, b, c in POLAR_EXPRESS:  # 5
        if m > n:
            gram = x.T @ x
            x = a * x + x @ (b * gram + c * gram @ gram)
        else:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
    x = x * math.sqrt(min(m, n)) / max(float(x.norm()), 1e-6)  # 6
    before = x.norm()  # 7
    second = beta2 * second + (1 - beta2) * x.pow(2).mean(dim=1 if m >= n else 0, keepdim=True)
    x = x / second.clamp(min=1e-10).sqrt()
    x = x * before / x.norm().clamp(min=1e-10)
    lr = lr * math.sqrt(max(1, m / n))  # 8
    agrees = (x * param >= 0).double()
    return param - lr * decay * param * agrees - lr * x, buffer, second


def zero_states(shape: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    m, n = shape
    second = (count, m, 1) if m >= n else (count, 1, n)
    return torch.zeros(count, m, n), torch.zeros(second)


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_match_the_fp64_oracle(shape: tuple[int, int]) -> None:
    params = torch.randn(3, *shape)
    buffers, seconds = zero_states(shape, 3)
    expected = [
        (p.double(), b.double(), s.double())
        for p, b, s in zip(params, buffers, seconds, strict=True)
    ]
    for _ in range(4):
        grads = torch.randn(3, *shape) * 1e-2
        muon_update(grads, params, buffers, seconds, **SETTINGS, inner_dtype=torch.float32)
        expected = [oracle(g.double(), *state) for g, state in zip(grads, expected, strict=True)]
    for got, want in zip(zip(params, buffers, seconds, strict=True), expected, strict=True):
        for tensor, reference in zip(got, want, strict=True):
            torch.testing.assert_close(tensor.double(), reference, rtol=2e-4, atol=2e-6)


def test_reduced_dim_of_tall_square_and_wide() -> None:
    assert [reduced_dim(s) for s in ((8, 4), (4, 4), (4, 8))] == [-1, -1, -2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (4, 12), (1, 12)])
def test_first_update_has_singular_values_in_a_narrow_band(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, *shape), dtype=dtype))
    assert values.min() > 0.8
    assert values.max() < 1.2
    # Muon+: the Frobenius norm is exactly that of a semi-orthogonal matrix.
    torch.testing.assert_close(
        values.square().sum(-1), torch.full((3,), float(min(shape))), rtol=1e-5, atol=0
    )


def test_singular_values_down_to_a_thousandth_are_lifted() -> None:
    left, _ = torch.linalg.qr(torch.randn(8, 8))
    right, _ = torch.linalg.qr(torch.randn(8, 8))
    spectrum = torch.logspace(0, -2.5, 8)
    values = torch.linalg.svdvals(
        orthogonalize((left * spectrum @ right)[None], dtype=torch.float32)
    )
    assert values.min() > 0.8


def test_sign_and_subspace_of_the_polar_factor() -> None:
    g = torch.randn(2, 16, 64)
    g = g / g.norm(dim=-1, keepdim=True)  # equal rows: equilibration changes nothing
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    x = orthogonalize(g, dtype=torch.float32)
    alignment = (x * (u @ vh)).sum(dim=(-2, -1)) / 16  # mean singular value along the polar factor
    assert (alignment > 0.95).all()


def test_bf16_stays_close_to_fp32() -> None:
    g = torch.randn(4, 64, 256)
    exact = orthogonalize(g, dtype=torch.float32)
    rounded = orthogonalize(g, dtype=torch.bfloat16)
    assert (rounded - exact).norm() / exact.norm() < 0.02


def test_the_scale_of_the_gradient_does_not_matter() -> None:
    g = torch.randn(2, 16, 32)
    small = orthogonalize(g * 1e-2, dtype=torch.float32)
    torch.testing.assert_close(small, orthogonalize(g, dtype=torch.float32), rtol=1e-3, atol=1e-4)


def test_a_matrix_does_not_depend_on_its_neighbours_in_the_stack() -> None:
    g = torch.randn(5, 32, 48)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(orthogonalize(g, dtype=dtype)[:2], orthogonalize(g[:2], dtype=dtype))


def test_zero_gradient_only_decays() -> None:
    params = torch.randn(1, 8, 16)
    before = params.clone()
    buffers, seconds = zero_states((8, 16), 1)
    muon_update(
        torch.zeros_like(params), params, buffers, seconds, **SETTINGS, inner_dtype=torch.float32
    )
    torch.testing.assert_close(params, before * (1 - 0.02 * 0.3), rtol=1e-6, atol=0)


def test_a_dead_row_stays_put() -> None:
    grads = torch.randn(1, 8, 16)
    grads[0, 3] = 0
    x = orthogonalize(grads, dtype=torch.float32)
    assert (x[0, 3] == 0).all()
    assert x.isfinite().all()


def test_cautious_decay_spares_weights_that_move_outwards() -> None:
    params = torch.randn(1, 16, 16)
    grads = torch.randn(1, 16, 16)
    results = []
    for decay in (0.0, 0.5):
        copy = params.clone()
        buffers, seconds = zero_states((16, 16), 1)
        settings = SETTINGS | {"weight_decay": decay}
        muon_update(grads, copy, buffers, seconds, **settings, inner_dtype=torch.float32)
        results.append(copy)
    plain, decayed = results
    inwards = (params - plain) * params >= 0
    assert 0 < inwards.sum() < inwards.numel()
    assert torch.equal(plain[~inwards], decayed[~inwards])
    torch.testing.assert_close(
        (plain - decayed)[inwards], 0.02 * 0.5 * params[inwards], rtol=1e-3, atol=1e-6
    )


def test_nan_spoils_its_own_matrix_alone() -> None:
    params, grads = torch.randn(3, 8, 16), torch.randn(3, 8, 16)
    grads[1, 2, 3] = float("nan")
    buffers, seconds = zero_states((8, 16), 3)
    muon_update(grads, params, buffers, seconds, **SETTINGS, inner_dtype=torch.float32)
    assert params[1].isnan().all()
    for tensor in (params, buffers, seconds):
        assert tensor[[0, 2]].isfinite().all()
