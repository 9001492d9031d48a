"""Whether two accuracies differ by more than chance would make them.

Where both runs kept their answers and were asked the same examples, the examples decide: what one
gained and lost, McNemar's exact test, an interval of paired proportions. Else the two proportions
are taken as independent, which is blunter. Nothing is adjusted for the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nanochat.common.record import Measure
from nanochat.evals.statistics import Z
from nanochat.report.runs import Answer

Verdict = Literal["better", "worse", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Theirs minus ours, accuracies from 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float
    gained: int | None = None  # examples that only theirs has right; None if not paired
    lost: int | None = None
    p: float | None = None

    @property
    def verdict(self) -> Verdict:
        is_shown = self.p < 0.05 if self.p is not None else self.low > 0 or self.high < 0
        if not is_shown:
            return "not shown"
        return "better" if self.value > 0 else "worse"


def difference(
    ours: Measure,
    theirs: Measure,
    our_answers: Mapping[int, Answer],
    their_answers: Mapping[int, Answer],
) -> Difference | None:
    """The difference of two accuracies; None if one of them is no accuracy with an interval."""
    if is_same_exam(ours, theirs, our_answers, their_answers):
        return paired(
            [our_answers[i].share for i in sorted(our_answers)],
            [their_answers[i].share for i in sorted(their_answers)],
        )
    return unpaired(ours, theirs)


def is_same_exam(
    ours: Measure,
    theirs: Measure,
    our_answers: Mapping[int, Answer],
    their_answers: Mapping[int, Answer],
) -> bool:
    """Whether the answers are those behind both measures, to the same prompts."""
    if not our_answers or our_answers.keys() != their_answers.keys():
        return False
    if not ours.num_examples == theirs.num_examples == len(our_answers):
        return False
    return all(our_answers[i].prompt == their_answers[i].prompt for i in our_answers)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Of the same examples in the same order: 1 if right, or the share of samples that are.

    Source: McNemar, Psychometrika 12 (1947), exact form, which for shares is the sign test;
    interval of Agresti and Min, Statistics in Medicine 24 (2005): half an example more in each of
    the four cells, which adds 2 to their number and 1 to the sum of squares.
    """
    changes = [t - o for o, t in zip(ours, theirs, strict=True)]
    n, total = len(changes) + 2, sum(changes)
    variance = (sum(change * change for change in changes) + 1) / n - (total / n) ** 2
    half = Z * math.sqrt(variance / n)
    gained, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    return Difference(
        value=total / len(changes),
        low=max(-1.0, total / n - half),
        high=min(1.0, total / n + half),
        gained=gained,
        lost=lost,
        p=sign_test(gained, lost),
    )


def sign_test(gained: int, lost: int) -> float:
    """Two-sided probability of a split at least as uneven, were both equally likely."""
    n, k = gained + lost, min(gained, lost)
    # In logarithms: 2 ** n and the binomials overflow at a thousand examples.
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2))
        for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def unpaired(ours: Measure, theirs: Measure) -> Difference | None:
    """Of two measures with Wilson intervals, as if of different examples.

    Source: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return None
    value = theirs.value - ours.value
    below = math.hypot(theirs.value - theirs.low, ours.high - ours.value)
    above = math.hypot(theirs.high - theirs.value, ours.value - ours.low)
    return Difference(value=value, low=value - below, high=value + above)
