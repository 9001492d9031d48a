"""Whether a path on CUDA works here: a tiny problem, launched for real, against the reference.

A probe runs once, before the first use of its path, in a thread of its own: the modes of the caller
(tracing, fake tensors, a default device, no gradients) and its stream do not reach that far. What
it cannot contain is a kernel that takes the whole device down, as an illegal address does.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat import _core
from nanochat.ops import reference

if TYPE_CHECKING:
    from nanochat.ops.backends import Path

Function = Callable[..., Sequence[Tensor]]
Problem = tuple[Function, Function, list[Tensor]]  # ours, the reference, what both are applied to

MAX_ERROR = 2e-2  # Frobenius norms, bf16; kernels that are wrong are far off

_CAPTURING = "not probed before the capture of a CUDA graph; call it once outside of it"

_verdicts: dict[tuple[str, Path], str] = {}
_lock = threading.Lock()
_this_thread = threading.local()


def verdict(op: str, path: Path) -> str:
    """Why ``path`` cannot serve ``op`` on the current device; empty if it can.

    Warns if a launch says so. Devices of a process are taken to be alike.
    """
    with _lock:
        if (op, path) in _verdicts:
            return _verdicts[op, path]
        reason = _missing(path)
        failed = ""
        if not reason:
            if torch.cuda.is_current_stream_capturing():
                return _CAPTURING
            reason = failed = launch(op, path, torch.device("cuda", torch.cuda.current_device()))
        _verdicts[op, path] = reason
    if failed:
        warnings.warn(f"nanochat: {op} passes over its {path} path: {failed}", stacklevel=6)
    return reason


def path_in_this_thread() -> Path | None:
    """The path that is being probed by this thread."""
    return getattr(_this_thread, "path", None)


def launch(op: str, path: Path, device: torch.device) -> str:
    """Run the problem of ``op``; returns what went wrong."""
    outcome = ["the probe ended without a verdict"]

    def run() -> None:
        _this_thread.path = path
        try:
            # Backward in this thread, too, where path_in_this_thread() knows the path.
            with torch.autograd.set_multithreading_enabled(False):
                outcome[0] = _solve(*PROBLEMS[op](device))
        except Exception as error:
            outcome[0] = f"the probe failed: {type(error).__name__}: {error}"

    thread = threading.Thread(target=run, name=f"nanochat probe of {op}")
    thread.start()
    thread.join()
    return outcome[0]


def _missing(path: Path) -> str:
    """What this machine or build lacks for ``path``, seen without a launch."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if path == "flash_attn":
        found = find_spec("flash_attn_interface") or find_spec("flash_attn")
        return "" if found else "not installed"
    if not _core.cuda_built():
        return "this build has no CUDA kernels; install nvcc and build again"
    capability = torch.cuda.get_device_capability()
    if path == "hopper" and capability != (9, 0):
        return f"needs compute capability 9.0, got {capability[0]}.{capability[1]}"
    if capability < (8, 0):
        return f"needs compute capability 8.0 or more, got {capability[0]}.{capability[1]}"
    return ""


def _solve(ours: Function, theirs: Function, inputs: list[Tensor]) -> str:
    """Compare outputs and gradients of a weighted sum of them."""
    results = []
    for function in (ours, theirs):
        leaves = [x.detach().requires_grad_() for x in inputs]
        outputs = [y for y in function(*leaves) if y.requires_grad]
        weights = [torch.linspace(-1, 2, y.numel(), device=y.device).view(y.shape) for y in outputs]
        weights = [w.to(y.dtype) for w, y in zip(weights, outputs, strict=True)]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    for a, b in zip(*results, strict=True):
        error = ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-9)).item()
        if not error <= MAX_ERROR:
            return f"the probe got a wrong result, relative error {error:.2g}"
    return ""


def _random(device: torch.device) -> Callable[..., Tensor]:
    """Standard normal bf16 tensors from a generator of its own: the caller's draws stay his."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device="cpu")
        return values.to(device, torch.bfloat16)

    return draw


def _prepass(device: torch.device) -> Problem:
    T, D = 5, 64
    draw = _random(device)
    angle = draw(T, D // 2).float()
    cos, sin = angle.cos(), angle.sin()
    options = {"qk_scale": 1.2, "eps": 1e-6}

    def ours(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> Sequence[Tensor]:
        outputs = torch.ops.nanochat.prepass(q, k, cos, sin, v, ve, gate, **options)
        return tuple(outputs[:3])

    def theirs(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> Sequence[Tensor]:
        return reference.prepass(q, k, v, cos, sin, ve=ve, gate=gate, **options)

    values = [draw(2, T, 2, D) for _ in range(3)]
    return ours, theirs, [draw(2, T, 4, D), *values, draw(2, T, 2)]


def _cross_entropy(device: torch.device) -> Problem:
    N, C, V = 3, 64, 1000
    draw = _random(device)
    targets = torch.tensor([0, -1, V - 4], device=device)
    options: dict[str, Any] = {"softcap": 15.0, "ignore_index": -1, "vocab_size": V - 3}

    def ours(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        outputs = torch.ops.nanochat.cross_entropy(
            x, weight, targets, needs_dx=True, needs_dw=True, **options
        )
        return tuple(outputs[:1])

    def theirs(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return (reference.cross_entropy(x, weight, targets, reduction="sum", **options),)

    return ours, theirs, [draw(N, C), draw(V, C)]


PROBLEMS: dict[str, Callable[[torch.device], Problem]] = {
    "prepass": _prepass,
    "cross_entropy": _cross_entropy,
}
