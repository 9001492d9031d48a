"""What a contender of scripts/bench/engine.py generated, and figures from the moments of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median


@dataclass(frozen=True)
class Generated:
    """Tokens of each row and the seconds from the start at which they were there.

    Attributes:
        counters: By how much those of ours rose.
    """

    tokens: list[list[int]]
    arrivals_s: list[list[float]]
    counters: dict[str, float]


def moments(heard: Sequence[tuple[float, int]]) -> list[float]:
    """Moments of tokens that were heard of at times, so many at once: what a guess brought, or what
    came while this process was kept waiting.

    Those of one time share the span since the time before; those that came with the first token are
    dated back by steps of the later ones.
    """
    first_s, count = heard[0]
    later = []
    for (last_s, _), (now_s, num_tokens) in pairwise(heard):
        later += [last_s + (now_s - last_s) * (i + 1) / num_tokens for i in range(num_tokens)]
    step_s = first_s / count
    if later:
        step_s = min(step_s, median(b - a for a, b in pairwise([first_s, *later])))
    return [first_s - step_s * (count - 1 - i) for i in range(count)] + later


@dataclass(frozen=True)
class Timing:
    """Of one measurement.

    Attributes:
        ttft_s: From the start to the first token of a row, median over the rows.
        prefill_s: From the start until every row had its first token.
        steps_s: Each from then on: one token for every row.
        mean_generated: Tokens that a row had generated before a step, mean over rows and steps.
    """

    ttft_s: float
    prefill_s: float
    steps_s: list[float]
    mean_generated: float


def timing(arrivals_s: Sequence[Sequence[float]]) -> Timing:
    """Of the tokens of each row, in seconds from the start.

    The row that comes last decides when decoding begins, since those before it share their steps
    with prompts, and gives the steps: it gets one token in each.
    """
    first = [row[0] for row in arrivals_s]
    begin = max(first)
    last = min(arrivals_s, key=len)
    before = [sum(moment <= begin for moment in row) for row in arrivals_s]
    steps_s = [after - moment for moment, after in pairwise(last)]
    mean_generated = sum(before) / len(before) + (len(steps_s) - 1) / 2
    return Timing(median(first), begin, steps_s, mean_generated)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
