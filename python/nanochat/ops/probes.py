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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops import reference

if TYPE_CHECKING:
    from nanochat.ops.backends import Path

Function = Callable[..., Sequence[Tensor]]


class Problem(NamedTuple):
    """Two functions that should agree; what they take; how far they may be apart.

    That is relative, in Frobenius norms, and for bf16: kernels that are wrong are far off.
    """

    ours: Function
    theirs: Function
    inputs: list[Tensor]
    max_error: float = 2e-2


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
        warnings.warn(f"nanochat: {op} passes over its {path} path: {failed}", stacklevel=7)
    return reason


def in_this_thread() -> tuple[str, Path] | None:
    """The op and the path that this thread is probing."""
    return getattr(_this_thread, "probed", None)


def launch(op: str, path: Path, device: torch.device) -> str:
    """Run the problem of ``op``; returns what went wrong."""
    outcome = ["the probe ended without a verdict"]

    def run() -> None:
        _this_thread.probed = op, path
        try:
            # Backward in this thread, too, where in_this_thread() knows the path.
            with torch.autograd.set_multithreading_enabled(False):
                outcome[0] = _solve(PROBLEMS[op](device))
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


def _solve(problem: Problem) -> str:
    """Compare outputs and, where there is one, the gradient of a weighted sum of them."""
    results = []
    for function in (problem.ours, problem.theirs):
        leaves = [x.detach().requires_grad_() for x in problem.inputs]
        outputs = function(*leaves)
        weights = [torch.linspace(-1, 2, y.numel(), device=y.device).view(y.shape) for y in outputs]
        weights = [w.to(y.dtype) for w, y in zip(weights, outputs, strict=True)]
        has_gradient = outputs[0].requires_grad
        gradients = torch.autograd.grad(outputs, leaves, weights) if has_gradient else ()
        results.append([*outputs, *gradients])
    for a, b in zip(*results, strict=True):
        error = ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-9)).item()
        if not error <= problem.max_error:
            return f"the probe got a wrong result, relative error {error:.2g}"
    return ""


def _random(device: torch.device) -> Callable[..., Tensor]:
    """Standard normal bf16 tensors from a generator of its own: the caller's draws stay his."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device="cpu")
        return values.to(device, torch.bfloat16)

    return draw


def _rotary(draw: Callable[..., Tensor], T: int, D: int) -> tuple[Tensor, Tensor]:
    angle = draw(T, D // 2).float()
    return angle.cos(), angle.sin()


def _prepass(device: torch.device) -> Problem:
    T, D = 5, 64
    draw = _random(device)
    cos, sin = _rotary(draw, T, D)
    options = {"qk_scale": 1.2, "eps": 1e-6}

    def ours(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> Sequence[Tensor]:
        return ops.prepass(q, k, v, cos, sin, ve=ve, gate=gate, **options)

    def theirs(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> Sequence[Tensor]:
        return reference.prepass(q, k, v, cos, sin, ve=ve, gate=gate, **options)

    values = [draw(2, T, 2, D) for _ in range(3)]
    return Problem(ours, theirs, [draw(2, T, 4, D), *values, draw(2, T, 2)])


def _attention(device: torch.device) -> Problem:
    """More than one tile of queries, either head_dim, with and without a window."""
    T, window = 150, 70
    draw = _random(device)
    tables = {D: _rotary(draw, T, D) for D in (64, 128)}
    options: dict[str, Any] = {"qk_scale": 1.2, "eps": 1e-6}

    def run(attention: Callable[..., Tensor]) -> Function:
        return lambda *x: [
            attention(*x[i : i + 3], *tables[x[i].shape[-1]], window=w, **options)
            for i in (0, 3)
            for w in (None, window)
        ]

    inputs = [draw(1, T, H, D) for D in tables for H in (2, 1, 1)]
    return Problem(run(ops.attention), run(reference.attention), inputs)


def _cross_entropy(device: torch.device) -> Problem:
    N, C, V = 3, 64, 1000
    draw = _random(device)
    targets = torch.tensor([0, -1, V - 4], device=device)
    options: dict[str, Any] = {"softcap": 15.0, "ignore_index": -1, "vocab_size": V - 3}

    def ours(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return (ops.cross_entropy(x, weight, targets, reduction="sum", **options),)

    def theirs(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return (reference.cross_entropy(x, weight, targets, reduction="sum", **options),)

    return Problem(ours, theirs, [draw(N, C), draw(V, C)])


def _muon(device: torch.device) -> Problem:
    """A step of a stack of two; what moved, and both states."""
    shape = (2, 256, 128)
    draw = _random(device)
    options = {"lr": 0.1, "momentum": 0.9, "beta2": 0.9, "weight_decay": 0.1}

    def step(function: Callable[..., None], inner_dtype: torch.dtype) -> Function:
        def run(grad: Tensor, param: Tensor, momentum_buffer: Tensor) -> Sequence[Tensor]:
            grads = list(grad.detach())
            params = [p.float() for p in param.detach()]
            states = momentum_buffer.detach().float(), grad.new_ones(*shape[:2], 1).float()
            function(grads, params, *states, inner_dtype=inner_dtype, **options)
            return torch.stack(params) - param.detach(), *states

        return run

    inputs = [draw(*shape) for _ in range(3)]
    # Five polynomials in bf16, as the CPU has them, end 5 % from those in fp32.
    return Problem(
        step(ops.muon, torch.bfloat16), step(reference.muon, torch.float32), inputs, max_error=0.1
    )


def _adamw(device: torch.device) -> Problem:
    draw = _random(device)
    options = {"step": 3, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}

    def step(function: Callable[..., None]) -> Function:
        def run(*inputs: Tensor) -> Sequence[Tensor]:
            param, grad, first, second = (x.detach().float().clone() for x in inputs)
            second.abs_()
            function([param], [grad], [first], [second], **options)
            return param - inputs[0].detach(), first, second

        return run

    return Problem(step(ops.adamw), step(reference.adamw), [draw(1000) for _ in range(4)])


PROBLEMS: dict[str, Callable[[torch.device], Problem]] = {
    "prepass": _prepass,
    "attention": _attention,
    "cross_entropy": _cross_entropy,
    "muon": _muon,
    "adamw": _adamw,
}
