"""AdamW of a list against torch.optim.AdamW where both are defined; moments stay fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops.backends import CPU_LEVELS
from nanochat.testing.numerics import same_bits

LEVELS = CPU_LEVELS[: _core.cpu_level() + 1]

SETTINGS: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.96), "eps": 1e-10, "weight_decay": 0.1}
SHAPES = [(7, 13), (), (1,), (3, 5, 2), (0, 4), (64,)]

State = tuple[list[Tensor], list[Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def start(dtype: torch.dtype = torch.float32, shapes: list[Any] = SHAPES) -> State:
    params = [torch.randn(shape).to(dtype) for shape in shapes]
    return params, [torch.zeros(s) for s in shapes], [torch.zeros(s) for s in shapes]


def step(grads: list[Tensor], state: State, number: int = 1, **changes: Any) -> None:
    params, exp_avg, exp_avg_sq = state
    ops.adamw(params, grads, exp_avg, exp_avg_sq, step=number, **(SETTINGS | changes))


@pytest.mark.parametrize("level", [*LEVELS, "reference"])
def test_matches_torch(level: str) -> None:
    state = start()
    references = [torch.nn.Parameter(p.clone()) for p in state[0]]
    optimizer = torch.optim.AdamW(references, **SETTINGS)
    forced = ops.force("reference") if level == "reference" else ops.force(cpu_level=level)
    with forced:
        for number in range(1, 11):
            grads = [torch.randn(shape) for shape in SHAPES]
            for reference, grad in zip(references, grads, strict=True):
                reference.grad = grad.clone()
            optimizer.step()
            step(grads, state, number)
    for reference, param, exp_avg, exp_avg_sq in zip(references, *state, strict=True):
        torch.testing.assert_close(param, reference.detach(), rtol=2e-6, atol=4e-7)
        torch.testing.assert_close(
            exp_avg, optimizer.state[reference]["exp_avg"], rtol=1e-5, atol=1e-7
        )
        torch.testing.assert_close(
            exp_avg_sq, optimizer.state[reference]["exp_avg_sq"], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_step_is_that_of_the_reference(dtype: torch.dtype, level: str) -> None:
    states, grads = [], [torch.randn(shape).to(dtype) for shape in SHAPES]
    for path in ("native", "reference"):
        torch.manual_seed(1)
        state = start(dtype)
        with ops.force(path, cpu_level=level):
            step(grads, state)
        states.append(state)
    for kinds in zip(*states, strict=True):
        for ours, reference in zip(*kinds, strict=True):
            rtol = 1e-6 if ours.dtype == torch.float32 else 2**-8
            torch.testing.assert_close(ours, reference, rtol=rtol, atol=1e-7)


def test_zero_gradient_only_decays() -> None:
    state = ([torch.ones(5)], [torch.zeros(5)], [torch.zeros(5)])
    step([torch.zeros(5)], state)
    torch.testing.assert_close(state[0][0], torch.full((5,), 1 - 0.03 * 0.1))


def test_bf16_parameters_keep_moving_moments() -> None:
    state = ([torch.randn(64).bfloat16()], [torch.zeros(64)], [torch.ones(64)])
    grad = torch.full((64,), 1.1, dtype=torch.bfloat16)
    before = state[0][0].clone()
    step([grad], state, betas=(0.8, 0.995))
    # 0.1 % above one: a bf16 moment would have stayed at one.
    expected = 0.995 + 0.005 * float(grad[0]) ** 2
    torch.testing.assert_close(state[2][0], torch.full((64,), expected))
    assert not torch.equal(state[0][0], before)


def test_threads_do_not_change_bits_and_nan_stays_in_its_element() -> None:
    n = 3 * 2**16 + 5  # several pieces, the last of them short
    params, grad = torch.randn(n), torch.randn(n)
    grad[70_000] = torch.nan
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            state = ([params.clone()], [torch.zeros(n)], [torch.zeros(n)])
            step([grad], state)
            results.append(state)
    finally:
        torch.set_num_threads(before)
    for result in results:
        for (ours,), (first,) in zip(result, results[0], strict=True):
            assert same_bits(ours, first)
            assert ours.isnan().nonzero().tolist() == [[70_000]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grads": [torch.zeros(3)]}, "params need a gradient and two moments each, got 2, 1, 2"),
        ({"grads": [torch.zeros(3), torch.zeros(4)]}, r"grads must have shape \(3\), got \(4\)"),
        ({"exp_avg": [torch.zeros(3).bfloat16()] * 2}, "exp_avg must be float32, got bfloat16"),
        (
            {"params": [torch.zeros(3), torch.zeros(6)[::2]]},
            "params must be contiguous, got stride",
        ),
        ({"params": [torch.zeros(3), torch.zeros(3).bfloat16()]}, "params must be float32, got bf"),
        ({"step": 0}, "step must count from 1, got 0"),
    ],
)
def test_names_the_broken_rule(change: dict[str, object], message: str) -> None:
    lists = {
        name: [torch.zeros(3), torch.zeros(3)]
        for name in ("params", "grads", "exp_avg", "exp_avg_sq")
    }
    with pytest.raises(ValueError, match=message):
        ops.adamw(**({**lists, "step": 1} | SETTINGS | change))
