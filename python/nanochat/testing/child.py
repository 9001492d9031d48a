"""Measurements in a process of their own: nothing is warm from before, and the peak of memory is
that of the measured call."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanochat.common.errors import UserError

T = TypeVar("T")

_THREADS = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS")  # read once by their libraries, at the start


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        cpu_s: Of all threads.
        peak_bytes: By which resident memory rose above what it was before; None where the system
            does not tell (it takes Linux, and a /proc that may be written).
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int | None


def measure(call: Callable[[], T]) -> tuple[T, Cost]:
    """The result of ``call`` and what it cost."""
    gc.collect()
    before = _resident_bytes("VmRSS") if _reset_peak() else None
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = None if before is None else _resident_bytes("VmHWM") - before
    return result, Cost(wall, cpu, peak)


def run(*arguments: str, num_threads: int) -> Any:
    """What Python with ``arguments`` prints on its last line, as JSON.

    Args:
        num_threads: Of Rust's and OpenMP's pools in it.
    Raises: UserError with the last line of stderr if it fails.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | dict.fromkeys(_THREADS, str(num_threads)),
    )
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise UserError(f"bench: a measurement failed: {reason.removeprefix('error: ')}")
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])


def _reset_peak() -> bool:
    """Set VmHWM to VmRSS; see proc_pid_clear_refs(5)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")
