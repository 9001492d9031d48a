"""Which path serves which op on this machine, and why.

The rule: CPU tensors run the native kernels. CUDA tensors run the PyTorch reference, because the
CUDA kernels have not yet been verified on hardware; ``force("native")`` opts in. Other devices and
dtypes run the reference. A slow path that is taken without being asked for warns once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nanochat import _core

Path = Literal["native", "reference"]

OPS = ("prepass", "attention", "cross_entropy")
CPU_LEVELS = ("base", "avx2", "avx512")

# Constants of the machine and the build, read once so that torch.compile can look through choose().
_CPU_LEVEL = _core.cpu_level()
_CUDA_BUILT = _core.cuda_built()

_NATIVE_DTYPES = {
    "prepass": (torch.float32, torch.bfloat16, torch.float64),
    "cross_entropy": (torch.float32, torch.bfloat16),
}


@dataclass(frozen=True)
class Backend:
    """One row of :func:`backends`."""

    op: str
    device: str
    path: Path
    reason: str


@dataclass(frozen=True)
class _Forced:
    path: Path | None = None
    cpu_level: int | None = None


_forced = _Forced()
_warned: set[tuple[str, str]] = set()


@contextmanager
def force(path: Path | None = None, *, cpu_level: str | None = None) -> Iterator[None]:
    """Within the context take ``path``, or run CPU kernels at ``cpu_level`` (one of CPU_LEVELS).

    For tests and benchmarks: it holds for the whole process, not for one thread.
    Raises: ValueError for a level that this machine does not have.
    """
    global _forced
    level = None if cpu_level is None else CPU_LEVELS.index(cpu_level)
    if level is not None and level > _CPU_LEVEL:
        raise ValueError(
            f"ops: cpu_level must be at most {CPU_LEVELS[_CPU_LEVEL]} here, got {cpu_level}"
        )
    before, _forced = _forced, _Forced(path, level)
    try:
        yield
    finally:
        _forced = before


def cpu_level() -> int:
    """Index into CPU_LEVELS of the instruction set that CPU kernels run with."""
    return _CPU_LEVEL if _forced.cpu_level is None else _forced.cpu_level


def _choose(op: str, device: str) -> tuple[Path, str]:
    if op == "attention":
        return "reference", "native pre-pass, then PyTorch SDPA: the fused kernels are to come"
    if _forced.path is not None:
        return _forced.path, "forced"
    if device == "cpu":
        return "native", f"{CPU_LEVELS[cpu_level()]} instructions"
    if device != "cuda":
        return "reference", f"no native kernels for {device}"
    if not _CUDA_BUILT:
        return "reference", "this build has no CUDA kernels; install nvcc and build again"
    return "reference", "CUDA kernels not yet verified on hardware; opt in with ops.force('native')"


def choose(op: str, device: str, dtype: torch.dtype) -> Path:
    """The path of a call; warns once per reason if that is the slow one and nobody asked for it."""
    path, reason = _choose(op, device)
    if path == "native" and dtype not in _NATIVE_DTYPES[op]:
        path, reason = "reference", f"no native kernel for {dtype}"
    # Nobody runs fp64 for speed: it is what oracles are made of.
    if path == "reference" and reason != "forced" and dtype != torch.float64:
        _warn_once(op, reason)
    return path


def _warn_once(op: str, reason: str) -> None:
    if not torch.compiler.is_compiling() and (op, reason) not in _warned:
        _warned.add((op, reason))
        warnings.warn(f"nanochat: {op} runs the PyTorch reference: {reason}", stacklevel=4)


def backends() -> tuple[Backend, ...]:
    """The path of every op on every device of this machine, with the reason."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return tuple(Backend(op, device, *_choose(op, device)) for op in OPS for device in devices)
