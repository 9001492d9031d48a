"""Figures from moments that are known."""

from __future__ import annotations

import pytest

from nanochat.testing.engine_timing import percentile, timing


def test_rows_in_lock_step() -> None:
    found = timing([[1.0, 1.5, 2.5], [1.0, 1.5, 2.5]])
    assert found.ttft_s == found.prefill_s == 1.0
    assert found.steps_s == [0.5, 1.0]
    assert found.mean_generated == 1.5  # one before the first step, two before the second


def test_decoding_begins_with_the_first_token_of_the_last_row() -> None:
    early = [1.0, 2.0, 3.0, 3.5, 4.0]  # its first steps carry the prompts of the others
    found = timing([early, [2.0, 3.0, 3.5, 4.0], [3.0, 3.5, 4.0]])
    assert (found.ttft_s, found.prefill_s) == (2.0, 3.0)
    assert found.steps_s == [0.5, 0.5]
    assert found.mean_generated == (3 + 2 + 1) / 3 + 0.5


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([*range(100, 0, -1)], share) == expected


def test_percentile_of_few() -> None:
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([3.0, 1.0], 0.5) == 1.0
