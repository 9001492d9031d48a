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


def test_shares_of_samples_pair_as_answers_do() -> None:
    found = paired([0.5, 0.5, 1.0, 0.0], [0.75, 0.25, 1.0, 0.5])
    assert (found.gained, found.lost, found.value) == (2, 1, pytest.approx(0.125))
    assert found.low < 0.125 < found.high


def test_the_interval_by_hand() -> None:
    """Agresti and Min: of cells b = 5 and c = 1, n = 10, ((5 - 1) +- z sqrt(7 - 16 / 12)) / 12."""
    found = paired([False] * 9 + [True], [True] * 5 + [False] * 5)
    half = 1.959964 * math.sqrt(7 - 16 / 12)
    assert (found.low, found.high) == pytest.approx(((4 - half) / 12, (4 + half) / 12))


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
    answers = {i: Answer(f"q{i}", 1.0) for i in range(3)}
    three = accuracy(1.0, 0.4, 1.0, 3)
    assert is_same_exam(three, three, answers, answers)
    assert not is_same_exam(three, three, answers, {**answers, 2: Answer("other", 1.0)})
    assert not is_same_exam(three, three, answers, {0: answers[0]})
    assert not is_same_exam(three, three, {}, {})
    # Answers of an earlier run of the stage, with another number of examples.
    assert not is_same_exam(three, accuracy(1.0, 0.4, 1.0, 4), answers, answers)


def test_intervals_stay_within_what_is_possible() -> None:
    found = paired([False], [True])
    assert -1 <= found.low <= found.high <= 1
    assert math.isfinite(found.low)
