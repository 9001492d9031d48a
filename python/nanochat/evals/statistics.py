"""What a number of right answers says: intervals, and the chance that one of k tries is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def wilson_interval(num_correct: int, num_examples: int) -> tuple[float, float]:
    """95 % interval of a proportion; sound for few examples and near 0 and 1.

    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    n, p = num_examples, num_correct / num_examples
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(rates: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of proportions, one of each example; everything if there is one."""
    if len(rates) < 2:
        return 0.0, 1.0
    half = Z * stdev(rates) / math.sqrt(len(rates))
    return max(0.0, fmean(rates) - half), min(1.0, fmean(rates) + half)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of ``k`` samples is right, without bias, from ``num_samples``.

    1 - C(n - c, k) / C(n, k). Source: Chen et al., arXiv:2107.03374, equation 1.
    Raises: ValueError unless 1 <= k <= num_samples.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass_at_k: k must be 1 to {num_samples}, the samples, got {k}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def min_index(values: Sequence[float]) -> int:
    """Index of the smallest, the first of equals."""
    return min(range(len(values)), key=values.__getitem__)
