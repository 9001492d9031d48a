"""Random orders that are a pure function of their key.

The raw words of PCG64 behind SeedSequence are frozen by numpy's compatibility policy, the methods
of Generator are not; sorting raw words therefore gives the same order on every machine and version.
"""

from __future__ import annotations

import numpy as np


def random_words(n: int, *key: int) -> np.ndarray:
    """(n,) uint64, uniform; ``key`` is any number of non-negative integers."""
    return np.random.PCG64(np.random.SeedSequence(list(key))).random_raw(n)


def permutation(n: int, *key: int) -> np.ndarray:
    """(n,) int64: the numbers below ``n`` in an order drawn from ``key``."""
    return np.argsort(random_words(n, *key), kind="stable")


def uniform(*key: int) -> float:
    """One number in [0, 1)."""
    return float(random_words(1, *key)[0] >> np.uint64(11)) / 2.0**53
