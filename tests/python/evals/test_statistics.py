from itertools import combinations

import pytest

from nanochat.evals.statistics import mean_interval, min_index, pass_at_k, wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_examples", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(num_correct: int, num_examples: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct, num_examples) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("num_correct", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(num_correct: int, k: int) -> None:
    draws = list(combinations([True] * num_correct + [False] * (6 - num_correct), k))
    assert pass_at_k(6, num_correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("k", [0, 7])
def test_pass_at_k_of_more_than_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be 1 to 6, the samples, got {k}"):
        pass_at_k(6, 1, k)


def test_mean_interval() -> None:
    assert mean_interval([0.5]) == (0.0, 1.0)  # one example says nothing
    low, high = mean_interval([0.0, 0.5, 0.5, 1.0])
    assert (low, high) == pytest.approx((0.5 - 0.4, 0.5 + 0.4), abs=0.001)  # 1.96 * 0.408 / 2
    assert mean_interval([0.0, 1.0, 1.0]) == (pytest.approx(0.0133, abs=1e-4), 1.0)


def test_the_first_of_equals() -> None:
    assert min_index([2.0, 1.0, 1.0]) == 1
