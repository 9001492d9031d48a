"""Figures from moments that are known."""

from __future__ import annotations

import pytest

from nanochat.testing.engine_timing import moments, percentile, timing


def test_tokens_heard_of_one_by_one_keep_their_times() -> None:
    assert moments([(1.0, 1), (1.5, 1), (3.0, 1)]) == [1.0, 1.5, 3.0]


def test_tokens_heard_of_together_share_the_time_since_the_last() -> None:
    assert moments([(1.0, 1), (2.0, 4), (3.0, 1)]) == [1.0, 1.25, 1.5, 1.75, 2.0, 3.0]


def test_the_first_token_is_as_much_older_as_later_steps_are_long() -> None:
    assert moments([(10.0, 3), (10.5, 1), (11.0, 1)]) == [9.0, 9.5, 10.0, 10.5, 11.0]
    assert moments([(1.0, 2), (9.0, 1)]) == [0.5, 1.0, 9.0]  # but not from before the start
    assert moments([(1.0, 4)]) == [0.25, 0.5, 0.75, 1.0]


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
