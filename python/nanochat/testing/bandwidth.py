"""How fast this machine reads memory: the roof of decoding, which reads all weights for a token.

    python -m nanochat.testing.bandwidth          a worker (worker.py), with OMP_NUM_THREADS 1

OpenBLAS's dot product of an array with itself reads each element once, in vectors and with several
sums. Measured on Zen 5, one thread, 256 MB: 38.0 GB/s; a C++ loop with AVX-512 and eight
accumulators 39.0, NumPy's own reductions 33.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np

from nanochat.common.errors import run_main
from nanochat.testing import worker

NUM_BYTES = 512 << 20  # beyond all caches that one core can use
_PASSES = 5


class MemoryReader:
    """Reads one block of memory, each thread its own part of it."""

    def __init__(self, num_threads: int, num_bytes: int = NUM_BYTES) -> None:
        block = np.ones(num_bytes // 4, np.float32)  # written: pages never touched are all one
        self._parts = np.array_split(block, num_threads)
        self._num_bytes = block.nbytes
        self._threads = ThreadPoolExecutor(num_threads)

    def gb_per_sec(self) -> float:
        """Median of a few passes, 1e9 bytes per second."""
        return self._num_bytes / 1e9 / median(self._pass_s() for _ in range(_PASSES))

    def _pass_s(self) -> float:
        started = time.perf_counter()
        for _ in self._threads.map(lambda part: np.dot(part, part), self._parts):
            pass  # NumPy holds no lock while it multiplies
        return time.perf_counter() - started


def _load(setup: dict[str, Any]) -> Callable[[Any], float]:
    reader = MemoryReader(setup["num_threads"])
    return lambda question: reader.gb_per_sec()


if __name__ == "__main__":
    run_main(lambda argv: worker.serve(_load))
