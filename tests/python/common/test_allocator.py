"""Keeping freed memory changes where it comes from, not what is in it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from nanochat.common.allocator import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        assert float(torch.ones(4_000_000).sum()) == 4_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_large_tensors_stop_faulting() -> None:
    def faults(call: str) -> int:
        program = PROGRAM.format(call=call)
        return int(subprocess.check_output([sys.executable, "-c", program], text=True))

    pages = 20 * 4_000_000 * 4 // resource.getpagesize()
    assert faults("keep_freed_memory()") < pages / 10
