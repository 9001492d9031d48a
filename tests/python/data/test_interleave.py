"""Pools laid evenly, with exact counts, each row in its turn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nanochat.data import interleave, lay_end_to_end
from nanochat.data.interleave import InterleavedSource, Pool
from nanochat.data.rendering import Tokens


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "ROWS_PER_BLOCK", 7)


def pool(first: int, size: int, count: int) -> Pool:
    """Rows of one or two tokens that begin with first, first + 1, ..."""
    rows = [
        Tokens(np.full(1 + i % 2, first + i, np.uint16), np.ones(1 + i % 2, np.bool_))
        for i in range(size)
    ]
    return Pool(lay_end_to_end(rows), count)


def epoch(source: InterleavedSource, number: int) -> list[int]:
    found: list[int] = []
    index = 0
    while (block := source.block(number, index)) is not None:
        assert len(block) <= interleave.ROWS_PER_BLOCK
        found += [int(row.ids[0]) for row in block]
        index += 1
    return found


def source(*pools: Pool, seed: int = 3) -> InterleavedSource:
    return InterleavedSource(pools, seed=seed, name="a test")


@pytest.mark.parametrize(("size", "count"), [(10, 10), (10, 30), (10, 4), (10, 23), (1, 5), (7, 1)])
def test_each_row_has_its_turn(size: int, count: int) -> None:
    mixed = source(pool(0, size, count), pool(100, 5, 5))
    seen: Counter[int] = Counter(dict.fromkeys(range(size), 0))
    for number in range(6):
        rows = [i for i in epoch(mixed, number) if i < 100]
        assert len(rows) == count
        for row in rows:
            seen[row] += 1
            assert max(seen.values()) - min(seen.values()) <= 1 or count > size
        assert max(seen.values()) - min(seen.values()) <= 1
    assert sum(seen.values()) == 6 * count


def test_pools_are_laid_evenly() -> None:
    rows = epoch(source(pool(0, 60, 60), pool(100, 30, 30), pool(200, 2, 10)), 0)
    assert len(rows) == 100
    for start in range(0, 100, 20):
        share = Counter(row // 100 for row in rows[start : start + 20])
        assert abs(share[0] - 12) <= 1
        assert abs(share[1] - 6) <= 1
        assert abs(share[2] - 2) <= 1


def test_rows_come_back_as_they_were() -> None:
    block = source(pool(5, 4, 4)).block(0, 0)
    assert block is not None
    assert sorted((row.ids.tolist(), row.mask.tolist()) for row in block) == [
        ([5], [True]),
        ([6, 6], [True, True]),
        ([7], [True]),
        ([8, 8], [True, True]),
    ]


def test_order_is_drawn_from_seed_and_epoch() -> None:
    pools = pool(0, 50, 50), pool(100, 50, 50)
    first = epoch(source(*pools), 0)
    assert first == epoch(source(*pools), 0)
    assert first != epoch(source(*pools), 1)
    assert first != epoch(source(*pools, seed=4), 0)
    assert first != sorted(first)


def test_blocks_are_random_access() -> None:
    mixed = source(pool(0, 50, 50))
    wanted = {number: epoch(mixed, number) for number in range(2)}
    for number, index in [(1, 3), (0, 2), (0, 0), (1, 7), (0, 7)]:
        block = mixed.block(number, index)
        assert block is not None
        assert [int(row.ids[0]) for row in block] == wanted[number][7 * index : 7 * (index + 1)]
    assert mixed.block(0, 8) is None


def test_empty_pools() -> None:
    assert source(pool(0, 0, 0)).block(0, 0) is None
    assert epoch(source(pool(0, 0, 0), pool(100, 1, 2)), 0) == [100, 100]
