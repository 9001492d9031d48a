"""Numbers as people read them, at the edges where units change."""

from __future__ import annotations

import pytest

from nanochat.common.figures import count, dollars, duration, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.7, "1.00K"),
        (4096, "4.10K"),
        (36_700_242, "36.7M"),
        (999_600, "1.00M"),
        (1_384_122_122, "1.38B"),
        (5.22e11, "522B"),
        (2.788e19, "2.79e+19"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (5934, "1 h 39 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_dollars_and_percent() -> None:
    assert [dollars(v) for v in (0, 0.004, 9.5, 92.4, 1000)] == [
        "$0",
        "$0.00",
        "$9.50",
        "$92",
        "$1,000",
    ]
    assert percent(0.4751) == "47.5 %"
