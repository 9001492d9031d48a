"""Fair timing: warm up, interleave the candidates, take medians; a table and one line of JSON.

On CUDA a call is timed with events after a flush of the L2 cache; on the CPU with the wall clock.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

Candidate = Callable[[], object]

_L2_BYTES = 256 << 20  # more than the L2 of any GPU so far


def host() -> dict[str, Any]:
    """What the numbers of a run without torch depend on."""
    return {"cpu": _cpu_name(), "python": platform.python_version(), "commit": _commit()}


def machine(device: str) -> dict[str, Any]:
    """What the numbers of a run depend on."""
    facts = host() | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "cuda": torch.version.cuda, "clocks": _clocks()}
    return facts


def medians_ms(
    candidates: dict[str, Candidate], *, device: str, repeats: int, warmup: int = 2
) -> dict[str, float]:
    """Median time of each candidate in milliseconds; round by round, all of them in turn."""
    clock = _CudaClock() if device == "cuda" else _wall_ms
    for _ in range(warmup):
        for candidate in candidates.values():
            candidate()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            samples[name].append(clock(candidate))
    return {name: median(times) for name, times in samples.items()}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned: text to the left, numbers to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(c), *(len(row[i]) for row in texts)) for i, c in enumerate(columns)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True))]
    for row, cells in zip(texts, rows, strict=True):
        lines.append(
            "  ".join(
                text.ljust(width) if isinstance(cell, str) else text.rjust(width)
                for text, cell, width in zip(row, cells, widths, strict=True)
            )
        )
    return "\n".join(line.rstrip() for line in lines)


def report(name: str, device: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Header, table, and one JSON document on the last line."""
    facts = machine(device)
    document = {
        "benchmark": name,
        "machine": facts,
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
    }
    header = f"{name}: " + ", ".join(f"{key} {value}" for key, value in facts.items())
    return "\n".join((header, table(columns, rows), json.dumps(document)))


class _CudaClock:
    def __init__(self) -> None:
        self._flush = torch.empty(_L2_BYTES, dtype=torch.uint8, device="cuda")

    def __call__(self, candidate: Candidate) -> float:
        events: Any = torch.cuda.Event  # untyped in PyTorch
        start, end = events(enable_timing=True), events(enable_timing=True)
        self._flush.zero_()
        start.record()
        candidate()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def _wall_ms(candidate: Candidate) -> float:
    start = time.perf_counter()
    candidate()
    return (time.perf_counter() - start) * 1e3


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} x{os.cpu_count()}"


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _commit() -> str:
    return _run("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")


def _clocks() -> str:
    return _run("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader")
