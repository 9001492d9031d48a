"""Which path serves which op on this machine, and why.

Every op has a ladder of paths on a device, best first, and takes the first rung that nothing speaks
against. On the CPU that is the native kernels. On CUDA our kernels are a default only where
VERIFIED says that they passed on hardware; until then :func:`force` opts in. Before its first use
a path on CUDA is probed by a real launch (probes.py), and one that fails is passed over with a
warning and a reason in the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from nanochat import _core
from nanochat.ops import probes

Path = Literal["hopper", "portable", "native", "flash_attn", "torch", "reference"]
Choice = Literal["native", "flash_attn", "torch", "reference"]

# From the top of all ladders to the bottom. Native are our kernels of the CPU, hopper and portable
# those of CUDA: sm_90a alone, and sm_80 and up.
_ORDER: tuple[Path, ...] = ("hopper", "portable", "native", "flash_attn", "torch", "reference")
OURS = _ORDER[:3]

_CPU_LADDER: tuple[Path, ...] = ("native", "reference")
_CUDA_LADDERS: dict[str, tuple[Path, ...]] = {
    "prepass": ("portable", "reference"),
    "attention": ("hopper", "portable", "flash_attn", "torch", "reference"),
    "cross_entropy": ("portable", "reference"),
    "muon": ("portable", "reference"),
    "adamw": ("portable", "reference"),
}
OPS = tuple(_CUDA_LADDERS)

# What scripts/bench/gpu_check.py passed on a GPU, as (op, path). None yet.
VERIFIED: frozenset[tuple[str, Path]] = frozenset()

_FP32_BF16: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
_CPU_DTYPES = dict.fromkeys(OPS, _FP32_BF16)
_CPU_DTYPES |= dict.fromkeys(("prepass", "attention"), (*_FP32_BF16, torch.float64))
_CUDA_DTYPES = dict.fromkeys(OPS, _FP32_BF16)
_CUDA_DTYPES |= dict.fromkeys(("attention", "muon"), (torch.bfloat16,))
_HEAD_DIMS = (64, 128)  # of our kernels on CUDA

CPU_LEVELS = ("base", "avx2", "avx512", "avx512_bf16")  # cpu_level.h
_CPU_LEVEL = _core.cpu_level()


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
    """Within the context ops start at ``path``, or CPU kernels run at ``cpu_level``.

    "native" starts at the best of our kernels on any device, "portable" passes over those for
    Hopper, and so on down the ladder; an op without that path takes its next one. Kernels that no
    hardware has verified are allowed; a path that fails its probe is still passed over, so look at
    :func:`backends` to know what runs.

    "hopper" starts where "native" does on CUDA, and takes the backward of attention in one kernel,
    which adds up dq in another order in every run, unless ``torch.use_deterministic_algorithms``
    forbids that. All other paths give the same bits in every run.

    For tests, benchmarks and who opts in: it holds for the whole process, not for one thread.
    Raises: ValueError for a name that is none, or a level (of CPU_LEVELS) that is not here.
    """
    global _forced
    if path is not None and path not in _ORDER:
        raise ValueError(f"ops: path must be one of {', '.join(_ORDER)}, got {path!r}")
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


def choose(op: str, device: str, dtype: torch.dtype, *, head_dim: int | None = None) -> Choice:
    """The path of a call, "native" for any kernels of ours.

    Warns once per reason if that is the reference and nobody asked for it.
    """
    fits = head_dim is None or head_dim in _HEAD_DIMS
    path = _choose_and_warn(op, device, dtype, fits, _forced.path)
    return "native" if path == "hopper" or path == "portable" else path


def allows_hopper(op: str) -> bool:
    """True if a native call of ``op`` on CUDA may take the kernels for Hopper."""
    return _select(op, "cuda", None, True, _forced.path)[0] == "hopper"


def allows_any_order() -> bool:
    """True if kernels may add in an order that differs from run to run; see :func:`force`."""
    return _forced.path == "hopper" and not torch.are_deterministic_algorithms_enabled()


# Looked up for real while torch.compile traces: the probe's launch and the warning stay out of the
# graph. What the answer depends on comes as an argument, so that a change of it compiles anew.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _choose_and_warn(
    op: str, device: str, dtype: torch.dtype, fits: bool, forced: Path | None
) -> Path:
    path, reason = _select(op, device, dtype, fits, forced)
    # Nobody runs fp64 for speed: it is what oracles are made of.
    if path == "reference" and forced != "reference" and dtype != torch.float64:
        _warn_once(op, reason)
    return path


def _select(
    op: str, device: str, dtype: torch.dtype | None, fits: bool, forced: Path | None
) -> tuple[Path, str]:
    """The first rung that nothing speaks against, and what spoke against those above it."""
    probed = probes.in_this_thread()
    if probed is not None:
        return probed[1] if op == probed[0] else "reference", "probed"
    objections: dict[str, list[str]] = {}
    start = 0 if forced in (None, "native") else _ORDER.index(forced)
    for path in _ladder(op, device):
        if _ORDER.index(path) < start:
            continue
        objection = _objection(op, path, device, dtype, fits, forced)
        if objection == "":
            break
        objections.setdefault(objection, []).append(path)
    reasons = [] if forced is None else ["forced"]
    reasons += [f"{' and '.join(paths)}: {why}" for why, paths in objections.items()]
    if path == "native":
        reasons.append(f"{CPU_LEVELS[cpu_level()]} instructions")
    elif device not in ("cpu", "cuda"):
        reasons.append(f"no native kernels for {device}")
    elif path in OURS and forced is None:
        reasons.append("verified on hardware")
    return path, "; ".join(reasons)


def _ladder(op: str, device: str) -> tuple[Path, ...]:
    if device == "cpu":
        return _CPU_LADDER
    return _CUDA_LADDERS[op] if device == "cuda" else ("reference",)


def _objection(
    op: str, path: Path, device: str, dtype: torch.dtype | None, fits: bool, forced: Path | None
) -> str:
    """What speaks against a path, or nothing; what costs a launch is asked last."""
    if path in ("torch", "reference"):
        return ""
    if device == "cpu":
        return "" if dtype in (None, *_CPU_DTYPES[op]) else f"no kernel for {dtype}"
    if path == "flash_attn":
        if dtype not in (None, torch.bfloat16, torch.float16):
            return f"no kernel for {dtype}"
    else:
        if dtype not in (None, *_CUDA_DTYPES[op]):
            return f"no kernel for {dtype}"
        if not fits:
            return f"no kernel for this head_dim, only for {_HEAD_DIMS}"
        if forced is None and (op, path) not in VERIFIED:
            return "not verified on hardware yet, opt in with ops.force('native')"
    return probes.verdict(op, path)


def _warn_once(op: str, reason: str) -> None:
    if (op, reason) not in _warned:
        _warned.add((op, reason))
        warnings.warn(f"nanochat: {op} runs the PyTorch reference: {reason}", stacklevel=5)


def backends() -> tuple[Backend, ...]:
    """The path of every op on every device of this machine, with the reason."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return tuple(
        Backend(op, device, *_select(op, device, None, True, _forced.path))
        for op in OPS
        for device in devices
    )
