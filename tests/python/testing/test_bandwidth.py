"""The rate of reading: every thread reads its part, and the figure is of the right size."""

from __future__ import annotations

import pytest

from nanochat.testing.bandwidth import MemoryReader


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_rate_that_memory_can_have(num_threads: int) -> None:
    reader = MemoryReader(num_threads, num_bytes=16 << 20)
    assert 0.1 < reader.gb_per_sec() < 20_000


def test_half_the_bytes_take_half_the_time_not_half_the_rate() -> None:
    large, small = MemoryReader(1, num_bytes=64 << 20), MemoryReader(1, num_bytes=32 << 20)
    ratios = sorted(large.gb_per_sec() / small.gb_per_sec() for _ in range(5))
    assert 0.2 < ratios[2] < 5
