"""The depth dial against the published runs, and overrides for runs that are not published."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nanochat.model.config import GPTConfig
from nanochat.optim import Plan, plan
from nanochat.optim.scaling import REFERENCE_DEPTH

# depth, ratio, tokens in billions, log2 of the batch, steps, weight decay, FLOPs.
RUNS = [
    (4, 12, 0.138, 18, 528, 1.890, 1.1e16),
    (6, 12, 0.278, 18, 1062, 0.940, 4.7e16),
    (8, 12, 0.503, 18, 1920, 0.520, 1.5e17),
    (12, 12, 1.321, 19, 2520, 0.280, 1.00e18),
    (16, 12, 2.819, 19, 5376, 0.131, 4.47e18),
    (20, 12, 5.222, 20, 4980, 0.1002, 1.51e19),
    (22, 12, 6.834, 20, 6517, 0.0766, 2.57e19),
    (24, 8, 5.838, 20, 5568, 0.0597, 2.788e19),
    (24, 12, 8.758, 20, 8352, 0.0597, 4.18e19),
    (26, 12, 11.02, 20, 10510, 0.0475, 6.60e19),
    (32, 12, 20.13, 21, 9600, 0.0368, 2.17e20),
]


def dial(depth: int, *, vocab_size: int = 32768, **options: Any) -> Plan:
    config = GPTConfig.from_depth(depth, vocab_size=vocab_size, seq_len=2048)
    reference = GPTConfig.from_depth(REFERENCE_DEPTH, vocab_size=vocab_size, seq_len=2048)
    return plan(
        num_scaling_params=config.num_scaling_params(),
        reference_params=reference.num_scaling_params(),
        flops_per_token=config.flops_per_token(),
        **options,
    )


@pytest.mark.parametrize(
    ("depth", "ratio", "billions", "log_batch", "steps", "decay", "flops"), RUNS
)
def test_published_runs(
    depth: int,
    ratio: float,
    billions: float,
    log_batch: int,
    steps: int,
    decay: float,
    flops: float,
) -> None:
    run = dial(depth, param_data_ratio=ratio)
    assert run.total_batch_size == 2**log_batch
    assert run.num_steps == steps
    assert run.num_tokens == pytest.approx(billions * 1e9, rel=4e-3)
    assert run.lr_scale == pytest.approx(math.sqrt(2 ** (log_batch - 19)))
    assert run.weight_decay == pytest.approx(decay, rel=2e-3)
    assert run.total_flops == pytest.approx(flops, rel=1.5e-2)


def test_steps_win_over_flops_and_flops_over_ratio() -> None:
    by_ratio = dial(12)
    assert dial(12, target_flops=1e17).num_steps == round(1e17 / (7.597e8 * 2**19))
    assert dial(12, target_flops=1e17, num_iterations=7).num_steps == 7
    # Batch and decay stay those of the ratio.
    assert dial(12, num_iterations=7).weight_decay == by_ratio.weight_decay


def test_batch_given_scales_rates_and_steps() -> None:
    run = dial(4, vocab_size=4096, total_batch_size=8192)
    assert run.lr_scale == 0.125
    config = GPTConfig.from_depth(4, vocab_size=4096, seq_len=2048)
    assert run.num_steps == 12 * config.num_scaling_params() // 8192
    assert run.num_tokens == run.num_steps * 8192


def test_overrides_are_taken_as_they_are() -> None:
    run = dial(4, total_batch_size=5000, num_iterations=3, lr_scale=1.0, weight_decay=0.0)
    assert run == Plan(
        total_batch_size=5000,
        num_steps=3,
        lr_scale=1.0,
        weight_decay=0.0,
        flops_per_token=run.flops_per_token,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_iterations": 0}, "num_iterations must be positive, got 0"),
        ({"total_batch_size": -1}, "total_batch_size must be positive, got -1"),
        ({"param_data_ratio": 0.0}, "param_data_ratio must be positive, got 0.0"),
        ({"target_flops": 1.0}, "the run must have a step, got less than one batch"),
        ({"total_batch_size": 2**40}, "the run must have a step"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^scaling: {message}"):
        dial(12, **options)
