"""The shape of the rates over long, short and tiny runs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nanochat.optim import Schedule


def test_learning_rate_of_a_long_run() -> None:
    schedule = Schedule(num_steps=2000)  # down from step 700
    rate = schedule.lr_multiplier
    assert rate(0) == 1 / 40
    assert rate(39) == rate(40) == rate(700) == 1.0
    assert rate(1350) == pytest.approx(0.525)  # half way
    assert rate(2000) == pytest.approx(0.05)
    assert all(rate(i) > rate(i + 1) for i in range(700, 2000))


def test_momentum_of_a_long_run() -> None:
    momentum = Schedule(num_steps=2000).muon_momentum
    assert momentum(0) == 0.85
    assert momentum(200) == pytest.approx(0.91)
    assert momentum(400) == momentum(700) == 0.97
    assert momentum(1350) == pytest.approx(0.935)
    assert momentum(2000) == pytest.approx(0.90)


@pytest.mark.parametrize("num_steps", [3, 20, 100, 500, 1142, 1143, 5000])
def test_short_runs_neither_jump_nor_overlap(num_steps: int) -> None:
    schedule = Schedule(num_steps=num_steps)
    start = num_steps - round(0.65 * num_steps)
    momentum = [schedule.muon_momentum(i) for i in range(num_steps + 1)]
    assert momentum[0] == 0.85
    assert momentum[start] == pytest.approx(0.97)
    assert momentum == sorted(momentum[: start + 1]) + sorted(momentum[start + 1 :], reverse=True)
    largest_step = max(0.12 / min(400, start), 0.07 / (num_steps - start))
    assert max(abs(b - a) for a, b in pairwise(momentum)) <= largest_step + 1e-12
    rates = [schedule.lr_multiplier(i) for i in range(num_steps)]
    assert max(rates) == rates[start] == 1.0
    assert min(rates) > 0


def test_one_step_run_takes_a_step() -> None:
    schedule = Schedule(num_steps=1)
    assert schedule.lr_multiplier(0) == 1.0
    assert schedule.weight_decay_multiplier(0) == 1.0


def test_weight_decay_is_a_cosine_to_zero() -> None:
    decay = Schedule(num_steps=100).weight_decay_multiplier
    assert [decay(0), decay(50), decay(100)] == pytest.approx([1, 0.5, 0], abs=1e-12)


def test_linear_schedule_for_finetuning() -> None:
    schedule = Schedule.linear(10, peak_lr=0.8)
    rates = [schedule.lr_multiplier(i) for i in range(11)]
    assert rates == pytest.approx([0.8 * (10 - i) / 10 for i in range(11)])
    assert {schedule.muon_momentum(i) for i in range(10)} == {0.90}


def test_apply_starts_from_the_initial_values_each_time() -> None:
    muon = {"kind": "muon", "initial_lr": 0.02, "initial_weight_decay": 0.28}
    adamw = {"kind": "adamw", "initial_lr": 0.3, "weight_decay": 0.01}
    schedule = Schedule(num_steps=100)
    for step in (0, 50, 99, 50):
        rate = schedule.apply([muon, adamw], step)
    assert rate == schedule.lr_multiplier(50)
    assert (muon["lr"], adamw["lr"]) == (0.02 * rate, 0.3 * rate)
    assert muon["momentum"] == schedule.muon_momentum(50)
    assert muon["weight_decay"] == pytest.approx(0.14)
    assert adamw["weight_decay"] == 0.01
    assert "momentum" not in adamw


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be positive, got 0"),
        ({"num_steps": 9, "warmdown_ratio": 1.5}, "warmdown_ratio must be 0 to 1, got 1.5"),
    ],
)
def test_mistakes(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^schedule: {message}$"):
        Schedule(**changes)
