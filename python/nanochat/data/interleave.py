"""One source out of several pools of conversations, each with the rows it gives to an epoch.

A pool is an endless line of rows: all of them in an order drawn from (seed, pool, pass), then all
again in another order. Each epoch takes the next ``count`` rows from the line of each pool, so
that no row comes k + 1 times before each other one has come k times, and lays them evenly:

    chats     |--c--c--c--c--c--c--|       count 6
    identity  |------i-----i-----i-|   ->  c c i c c i c c i, cut into blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanochat.data.rendering import TokenBatch, Tokens
from nanochat.data.shuffle import permutation, uniform

ROWS_PER_BLOCK = 1024  # packed together


@dataclass(frozen=True)
class Pool:
    """Rendered conversations, and how many of them an epoch takes."""

    tokens: TokenBatch  # with a mask
    count: int

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    def row(self, index: int) -> Tokens:
        start, stop = self.tokens.offsets[index : index + 2].tolist()
        assert self.tokens.mask is not None
        return Tokens(self.tokens.ids[start:stop], self.tokens.mask[start:stop])

    def rows_of(self, epoch: int, *key: int) -> npt.NDArray[np.int64]:
        """(count,) the rows of an epoch, in order."""
        n, start = len(self), epoch * self.count
        if n == 0 or self.count == 0:
            return np.zeros(0, np.int64)
        first, last = start // n, (start + self.count - 1) // n
        line = np.concatenate([permutation(n, *key, pass_) for pass_ in range(first, last + 1)])
        return line[start - first * n :][: self.count]


class InterleavedSource:
    """Implements :class:`nanochat.data.Source`; its items are :class:`Tokens`."""

    def __init__(self, pools: Sequence[Pool], *, seed: int, name: str) -> None:
        self.name = name
        self._pools = pools
        self._seed = seed
        self._epoch = -1  # of the order below
        self._order = np.zeros((0, 2), np.int64)  # pool and row

    def block(self, epoch: int, index: int) -> list[Tokens] | None:
        if epoch != self._epoch:
            self._order = self._order_of(epoch)
            self._epoch = epoch
        part = self._order[index * ROWS_PER_BLOCK : (index + 1) * ROWS_PER_BLOCK]
        if len(part) == 0:
            return None
        return [self._pools[pool].row(row) for pool, row in part.tolist()]

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        places, pairs = [np.zeros(0)], [np.zeros((0, 2), np.int64)]
        for number, pool in enumerate(self._pools):
            rows = pool.rows_of(epoch, self._seed, number)
            n = len(rows)
            # In [0, 1), shifted by chance: or all pools would begin at once.
            places.append((np.arange(n) + uniform(self._seed, number, epoch, 1)) / max(1, n))
            pairs.append(np.stack([np.full(n, number), rows], axis=1))
        return np.concatenate(pairs)[np.argsort(np.concatenate(places), kind="stable")]
