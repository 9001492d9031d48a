"""Differences: known answers, symmetry, and what makes two exams the same one."""

from __future__ import annotations

import math

import pytest

from nanochat.common.record import Measure
from nanochat.report.compare import difference, is_same_exam, paired, sign_test, unpaired
from nanochat.report.runs import Answer


def accuracy(value: float, low: float, high: float, n: int) -> Measure:
    return Measure(value=value, low=low, high=high, num_examples=n)


def test_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 3) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 8) == sign_test(8, 1) == pytest.approx(2 * (1 + 9) / 512)
    assert 0 < sign_test(900, 1100) < 1e-4  # 2 ** 2000 is no float


def test_paired_counts_what_changed() -> None:
    found = paired([True, True, False, False, False], [True, False, True, True, True])
    assert (found.gained, found.lost, found.value) == (3, 1, pytest.approx(0.4))
    back = paired([True, False, True, True, True], [True, True, False, False, False])
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert found.verdict == "not shown"


def test_verdicts() -> None:
    assert paired(20 * [False], 20 * [True]).verdict == "better"
    assert paired(20 * [True], 20 * [False]).verdict == "worse"
    assert paired(20 * [True], 20 * [True]).verdict == "not shown"


def test_unpaired_against_newcombe_s_table() -> None:
    """His case (a) of method 10: 56/70 against 48/80 differ by 0.2000, (0.0524, 0.3339)."""
    low = accuracy(0.6, 0.4904, 0.7004, 80)  # Wilson intervals
    high = accuracy(0.8, 0.6917, 0.8769, 70)
    found = unpaired(low, high)
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=2e-3)
    assert found.verdict == "better"


def test_no_interval_no_verdict() -> None:
    assert unpaired(Measure(value=0.5), accuracy(0.6, 0.5, 0.7, 9)) is None
    assert difference(Measure(value=0.5), Measure(value=0.6), {}, {}) is None


def test_the_same_exam_has_the_same_prompts_all_of_them() -> None:
    answers = {i: Answer(f"q{i}", True) for i in range(3)}
    three = accuracy(1.0, 0.4, 1.0, 3)
    assert is_same_exam(three, three, answers, answers)
    assert not is_same_exam(three, three, answers, {**answers, 2: Answer("other", True)})
    assert not is_same_exam(three, three, answers, {0: answers[0]})
    assert not is_same_exam(three, three, {}, {})
    # Answers of an earlier run of the stage, with another number of examples.
    assert not is_same_exam(three, accuracy(1.0, 0.4, 1.0, 4), answers, answers)


def test_intervals_stay_within_what_is_possible() -> None:
    found = paired([False], [True])
    assert -1 <= found.low <= found.high <= 1
    assert math.isfinite(found.low)
