"""Muon against a matrix-by-matrix transcription of the algorithm in fp64, and its promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops.backends import CPU_LEVELS
from nanochat.ops.reference import POLAR_EXPRESS, orthogonalize
from nanochat.testing.numerics import relative_error, same_bits

LEVELS = CPU_LEVELS[: _core.cpu_level() + 1]

# Square, wide, tall; sides one past a vector, a strip, a tile of strips; one pair that is padded to
# a square; and the gate of value embeddings: a few rows 12 wide, down to one.
SHAPES = [(32, 32), (65, 65), (24, 96), (96, 24), (49, 33), (33, 49), (12, 10), (4, 12), (1, 12)]

SETTINGS = {"lr": 0.02, "momentum": 0.9, "beta2": 0.9, "weight_decay": 0.3}

State = tuple[list[Tensor], Tensor, Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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


def start(shape: tuple[int, int], count: int) -> State:
    return [torch.randn(shape) for _ in range(count)], *zero_states(shape, count)


def step(grads: list[Tensor], state: State, **changes: Any) -> None:
    ops.muon(grads, *state, **(SETTINGS | {"inner_dtype": torch.float32} | changes))


def flat(state: State) -> list[Tensor]:
    return [*state[0], *state[1:]]


@pytest.mark.parametrize("level", [*LEVELS, "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_match_the_fp64_oracle(shape: tuple[int, int], level: str) -> None:
    state = start(shape, 3)
    expected = [(p.double(), b.double(), s.double()) for p, b, s in zip(*state, strict=True)]
    forced = ops.force("reference") if level == "reference" else ops.force(cpu_level=level)
    with forced:
        for _ in range(4):
            grads = [torch.randn(shape) * 1e-2 for _ in range(3)]
            step(grads, state)
            expected = [oracle(g.double(), *e) for g, e in zip(grads, expected, strict=True)]
    for got, want in zip(zip(*state, strict=True), expected, strict=True):
        for tensor, oracles in zip(got, want, strict=True):
            torch.testing.assert_close(tensor.double(), oracles, rtol=2e-4, atol=2e-6)


def update_of_one_step(g: Tensor, dtype: torch.dtype) -> Tensor:
    """The update itself, seen through parameters that are zero."""
    state = ([torch.zeros_like(g)], *zero_states((g.shape[0], g.shape[1]), 1))
    lr = 1 / math.sqrt(max(1.0, g.shape[0] / g.shape[1]))
    ops.muon([g], *state, lr=lr, momentum=0.0, beta2=0.9, weight_decay=0.0, inner_dtype=dtype)
    return -state[0][0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (200, 65)])
def test_bf16_is_as_close_to_fp64_as_the_reference(shape: tuple[int, int], level: str) -> None:
    g = torch.randn(shape)
    with ops.force("reference"):
        exact = update_of_one_step(g.double(), torch.float64)
        reference = update_of_one_step(g, torch.bfloat16)
    with ops.force(cpu_level=level):
        ours = update_of_one_step(g, torch.bfloat16)
    assert relative_error(ours, exact) <= 1.2 * relative_error(reference, exact)
    assert relative_error(ours, exact) < 2e-2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 24)])
def test_elements_are_those_of_the_reference(shape: tuple[int, int], level: str) -> None:
    """fp32, where both orthogonalisations agree to 1e-6: what stands around the products, too."""
    grads = [torch.randn(shape) * 1e-3 for _ in range(2)]
    states = []
    for path in ("native", "reference"):
        torch.manual_seed(1)
        state = start(shape, 2)
        with ops.force(path, cpu_level=level):
            step(grads, state)
        states.append(state)
    torch.testing.assert_close(states[0][1], states[1][1], rtol=3e-7, atol=0)  # momentum
    for ours, reference in zip(*map(flat, states), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-5, 1e-7, 1e-9])
def test_tiny_gradients_are_guarded_as_in_the_reference(scale: float) -> None:
    """Where the guards of 1e-6 weigh in: the update shrinks, and is not blown up."""
    for shape in ((8, 24), (24, 8)):
        g = torch.randn(shape) * scale
        g[1] = 0
        ours = update_of_one_step(g, torch.float32)
        with ops.force("reference"):
            exact = update_of_one_step(g.double(), torch.float64)
        assert relative_error(ours, exact) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", LEVELS)
def test_threads_and_neighbours_do_not_change_bits(level: str, dtype: torch.dtype) -> None:
    grads = [torch.randn(72, 200) * 1e-2 for _ in range(5)]
    params = [torch.randn(72, 200) for _ in range(5)]
    before = torch.get_num_threads()
    results = []
    try:
        for threads, count in ((1, 5), (2, 5), (5, 5), (2, 1)):
            torch.set_num_threads(threads)
            state = ([p.clone() for p in params[:count]], *zero_states((72, 200), count))
            with ops.force(cpu_level=level):
                for _ in range(2):
                    step(grads[:count], state, inner_dtype=dtype)
            results.append([*state[0], *state[1], *state[2]])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        count = len(result) // 3
        for kind in range(3):
            for k in range(count):
                assert same_bits(result[kind * count + k], results[0][kind * 5 + k])


def test_writes_nothing_beside_its_rows() -> None:
    memory = torch.full((3, 7 * 13 + 40), math.nan)
    params = [row[20 : 20 + 7 * 13].view(7, 13) for row in memory]
    for p in params:
        p.normal_()
    step([torch.randn(7, 13) for _ in params], (params, *zero_states((7, 13), 3)))
    assert all(p.isfinite().all() for p in params)
    assert memory[:, :20].isnan().all() and memory[:, 20 + 7 * 13 :].isnan().all()


@pytest.mark.parametrize("shape", [(20, 36), (36, 20)])
def test_bf16_gradients_and_parameters(shape: tuple[int, int]) -> None:
    grads = [torch.randn(shape[::-1]).bfloat16().t() for _ in range(2)]  # not contiguous
    params = [torch.randn(shape).bfloat16() for _ in range(2)]
    expected = ([p.float() for p in params], *zero_states(shape, 2))
    step([g.float() for g in grads], expected)
    state = (params, *zero_states(shape, 2))
    step(grads, state)
    for ours, want in zip(flat(state), flat(expected), strict=True):
        assert torch.equal(ours, want.to(ours.dtype))


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


def test_zero_gradient_only_decays() -> None:
    for shape in ((8, 16), (16, 8)):
        state = start(shape, 1)
        before = state[0][0].clone()
        step([torch.zeros(shape)], state)
        lr = 0.02 * math.sqrt(max(1.0, shape[0] / shape[1]))
        torch.testing.assert_close(state[0][0], before * (1 - lr * 0.3), rtol=1e-6, atol=0)


def test_a_dead_row_stays_put() -> None:
    grad = torch.randn(8, 16)
    grad[3] = 0
    update = update_of_one_step(grad, torch.float32)
    assert (update[3] == 0).all()
    assert update.isfinite().all() and update[:3].abs().min() > 0


def test_cautious_decay_spares_weights_that_move_outwards() -> None:
    param, grad = torch.randn(16, 16), torch.randn(16, 16)
    results = []
    for decay in (0.0, 0.5):
        state = ([param.clone()], *zero_states((16, 16), 1))
        step([grad], state, weight_decay=decay)
        results.append(state[0][0])
    plain, decayed = results
    inwards = (param - plain) * param >= 0
    assert 0 < inwards.sum() < inwards.numel()
    assert torch.equal(plain[~inwards], decayed[~inwards])
    torch.testing.assert_close(
        (plain - decayed)[inwards], 0.02 * 0.5 * param[inwards], rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_spoils_its_own_matrix_alone(dtype: torch.dtype, bad: float) -> None:
    for shape in ((8, 16), (16, 8)):
        state = start(shape, 3)
        grads = [torch.randn(shape) for _ in range(3)]
        grads[1][2, 3] = bad
        step(grads, state, inner_dtype=dtype)
        assert state[0][1].isnan().all() and state[2][1].isnan().all()
        for part in state:
            assert all(part[k].isfinite().all() for k in (0, 2))


def test_an_empty_stack_is_no_step() -> None:
    step([], start((3, 4), 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grads": [torch.zeros(3, 4)]}, "params need a gradient each, got 2 and 1"),
        ({"grads": [torch.zeros(3, 4), torch.zeros(4, 3)]}, r"grads must have shape \(3, 4\), got"),
        (
            {"params": [torch.zeros(3, 4), torch.zeros(4, 3).t()]},
            "params must be contiguous, got stride 3 in dimension 1",
        ),
        ({"params": [torch.zeros(12), torch.zeros(12)]}, r"must be matrices, got \(12\)"),
        (
            {"params": [torch.zeros(3, 4, dtype=torch.float64)] * 2},
            "params must be float32 or bfloat16, got float64",
        ),
        ({"momentum_buffer": torch.zeros(3, 3, 4)}, r"momentum_buffer must have shape \(2, 3, 4\)"),
        ({"second_moment": torch.zeros(2, 3, 1)}, r"second_moment must have shape \(2, 1, 4\)"),
        (
            {"momentum_buffer": torch.zeros(2, 3, 4).bfloat16()},
            "momentum_buffer must be float32, got bfloat16",
        ),
    ],
)
def test_names_the_broken_rule(change: dict[str, object], message: str) -> None:
    params, buffer, second = start((3, 4), 2)
    grads = [torch.randn(3, 4) for _ in range(2)]
    arguments: dict[str, Any] = {
        "grads": grads, "params": params, "momentum_buffer": buffer, "second_moment": second,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ops.muon(**(arguments | change), **SETTINGS, inner_dtype=torch.float32)
    assert not buffer.any() and not second.any()
