"""How much memory tensors hold at once while something runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch


def peak_bytes(run: Callable[[], object], *, device: str = "cpu") -> int:
    """Most bytes of tensors, beyond those of before; what PyTorch does not allocate is not seen."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        peak: int = torch.cuda.max_memory_allocated() - before
        return peak
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held: list[int] = [event.nbytes() for event in events]
    return max(itertools.accumulate(held, initial=0))
