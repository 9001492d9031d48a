"""The rate of reading is of the right size, whatever the number of threads."""

from __future__ import annotations

import itertools

import pytest

from nanochat.testing.bandwidth import MemoryReader


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_rate_that_memory_can_have(num_threads: int) -> None:
    reader = MemoryReader(num_threads, num_bytes=16 << 20)
    assert 0.1 < reader.gb_per_sec() < 20_000


@pytest.mark.parametrize("num_threads", [1, 3])
def test_all_bytes_count_once(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MemoryReader(num_threads, num_bytes=3_000_000)
    seconds = itertools.count()
    monkeypatch.setattr("nanochat.testing.bandwidth.time.perf_counter", lambda: next(seconds))
    assert reader.gb_per_sec() == pytest.approx(0.003)  # a second for each pass
