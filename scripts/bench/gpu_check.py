"""Everything that a machine with a GPU has to say about the CUDA kernels, in one run.

    python scripts/bench/gpu_check.py --out results/

Correctness against fp64 over odd shapes, 20 bitwise repeats (not of the fused attention backward,
whose sums have no fixed order), the replay of a CUDA graph, compute-sanitizer on tiny shapes where
it is installed, then timings against PyTorch. Writes gpu_check.json and gpu_check.txt into --out;
exits 1 if a check fails, 2 without a CUDA device.
Needs a build with nvcc.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.testing import bench
from nanochat.testing.numerics import assert_as_good_as, max_error, same_bits

DTYPES = (torch.float32, torch.bfloat16)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SANITIZER_TIMEOUT_S = 60
REPEATS = 20

# (B, T, H, Hkv, D): one row; rows that fill no block; GQA; windows of a fused projection come apart
PREPASS_SHAPES = [(1, 1, 1, 1, 64), (1, 7, 3, 3, 128), (2, 33, 8, 2, 128), (3, 65, 6, 1, 64)]
# (N, C, V, vocab_size): one row; a vocabulary that ends inside of a 16-byte vector; many blocks
HEAD_SHAPES = [(1, 64, 64, 64), (9, 64, 1000, 997), (515, 128, 4096, 4090), (64, 64, 50304, 50257)]

# (B, T, H, Hkv, D): ends inside of every tile, GQA 1, 2 and 4; with each of the windows; scores
# that have a bound with plain values, those that need a running maximum with value embeddings. The
# gradients are of what the op takes, so dq and dk have gone back through norm and rope.
ATTENTION_SHAPES = [
    (B, T, 4, Hkv, D)
    for D in (64, 128)
    for B, T, Hkv in [(3, 1, 4), (2, 64, 4), (2, 127, 2), (2, 200, 1), (1, 333, 2), (1, 640, 4)]
]
ATTENTION_WINDOWS = (0, 1, 127, 128, 512, None)
ATTENTION_KINDS = ((1.2, False), (2.5, True))  # qk_scale, whether there are value embeddings
TINY_ATTENTION_SHAPES = [(1, 150, 2, 1, 64), (1, 150, 2, 1, 128)]


@dataclass(frozen=True)
class Case:
    """From a path ("native", "reference", or "oracle") to outputs and gradients."""

    run: Callable[[str], list[Tensor]]
    has_fixed_order: bool = True  # of sums: the same bits in every run


def prepass_case(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[str], list[Tensor]]:
    """A function from a path ("native", "reference", or "oracle") to outputs and gradients."""
    B, T, H, Hkv, D = shape
    fused = torch.randn(B, T, H + 2 * Hkv, D, device="cuda").to(dtype)
    q, k, v = fused.split((H, Hkv, Hkv), dim=2)
    ve = torch.randn(B, T, Hkv, D, device="cuda").to(dtype)
    gate = torch.randn(B, T, Hkv, device="cuda").to(dtype)
    angle = 6 * torch.rand(T, D // 2, device="cuda")
    weights = [torch.randn_like(x) for x in (q, k, v)]

    def run(path: str) -> list[Tensor]:
        kind = torch.float64 if path == "oracle" else dtype
        leaves = [x.detach().to(kind).requires_grad_() for x in (q, k, v, ve, gate)]
        with ops.force("native" if path == "native" else "reference"):
            if path == "native":
                require("prepass", "portable")
            outputs = ops.prepass(
                *leaves[:3], angle.cos(), angle.sin(), ve=leaves[3], gate=leaves[4]
            )
        cotangents = [w.to(kind) for w in weights]
        return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]

    return run


def head_case(
    shape: tuple[int, ...], softcap: float | None, dtype: torch.dtype
) -> Callable[[str], list[Tensor]]:
    N, C, V, vocab_size = shape
    x = torch.randn(N, C, device="cuda").to(dtype)
    weight = (3 * torch.randn(V, C, device="cuda") / C**0.5).to(dtype)
    targets = torch.randint(0, vocab_size, (N,), device="cuda")
    targets[N // 2 :: 3] = -1

    def run(path: str) -> list[Tensor]:
        kind = torch.float64 if path == "oracle" else dtype
        leaves = [t.to(kind).requires_grad_() for t in (x, weight)]
        options = {"softcap": softcap, "vocab_size": vocab_size}
        with ops.force("native" if path == "native" else "reference"):
            if path == "native":
                require("cross_entropy", "portable")
            loss = ops.cross_entropy(*leaves, targets, **options)
            nats = ops.cross_entropy(*leaves, targets, reduction="none", **options)
        return [loss.detach(), nats.detach(), *torch.autograd.grad(loss, leaves)]

    return run


def attention_case(
    forced: ops.Path,
    kernels: ops.Path,
    shape: tuple[int, ...],
    window: int | None,
    qk_scale: float,
    has_values: bool,
) -> Callable[[str], list[Tensor]]:
    B, T, H, Hkv, D = shape
    fused = torch.randn(B, T, H + 2 * Hkv, D, device="cuda").to(torch.bfloat16)
    q, k, v = fused.split((H, Hkv, Hkv), dim=2)
    angle = 6 * torch.rand(T, D // 2, device="cuda")
    weight = torch.randn(B, T, H, D, device="cuda").to(torch.bfloat16)
    inputs = {"q": q, "k": k, "v": v}
    if has_values:
        inputs["ve"] = torch.randn(B, T, Hkv, D, device="cuda").to(torch.bfloat16)
        inputs["gate"] = torch.randn(B, T, Hkv, device="cuda").to(torch.bfloat16)

    def run(path: str) -> list[Tensor]:
        kind = torch.float64 if path == "oracle" else torch.bfloat16
        leaves = {name: x.detach().to(kind).requires_grad_() for name, x in inputs.items()}
        with ops.force(forced if path == "native" else "reference"):
            if path == "native":
                require("attention", kernels)
            out = ops.attention(
                **leaves, cos=angle.cos(), sin=angle.sin(), window=window, qk_scale=qk_scale
            )
            return [out, *torch.autograd.grad(out, [*leaves.values()], weight.to(kind))]

    return run


def require(op: str, kernels: ops.Path) -> None:
    """Raises RuntimeError where others than ``kernels`` would run."""
    row = next(row for row in ops.backends() if (row.op, row.device) == (op, "cuda"))
    if row.path != kernels:
        raise RuntimeError(f"{row.path} would run: {row.reason}")


def attention_cases(tiny: bool) -> dict[str, Case]:
    is_hopper = torch.cuda.get_device_capability() == (9, 0)
    forms: list[tuple[str, ops.Path, ops.Path]] = [("portable", "portable", "portable")]
    if is_hopper:  # with the backward in two kernels, and in one
        forms = [("hopper", "native", "hopper"), ("hopper fused", "hopper", "hopper"), *forms]
    found = {}
    for form, forced, kernels in forms:
        for shape in TINY_ATTENTION_SHAPES if tiny else ATTENTION_SHAPES:
            for window in (37,) if tiny else ATTENTION_WINDOWS:
                for qk_scale, has_values in ATTENTION_KINDS:
                    name = f"attention {form} {shape} window {window} qk_scale {qk_scale}"
                    run = attention_case(forced, kernels, shape, window, qk_scale, has_values)
                    found[name] = Case(run, has_fixed_order=form != "hopper fused")
    return found


def cases(tiny: bool) -> dict[str, Case]:
    found = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for shape in PREPASS_SHAPES[1:2] if tiny else PREPASS_SHAPES:
            found[f"prepass {name} {shape}"] = Case(prepass_case(shape, dtype))
        for shape in HEAD_SHAPES[1:2] if tiny else HEAD_SHAPES:
            for cap in (15.0, 60.0, None):
                found[f"cross_entropy {name} {shape} cap {cap}"] = Case(
                    head_case(shape, cap, dtype)
                )
    return found | attention_cases(tiny)


def check(case: Case) -> dict[str, object]:
    """Largest error relative to the oracle's largest value, and whether repeats agree.

    Without a fixed order a repeat and the replay need be as good as the reference, no more.
    """
    run = case.run
    try:
        ours = run("native")
    except RuntimeError as error:
        return {"error": None, "same bits": False, "failure": str(error)}
    theirs, oracle = run("reference"), run("oracle")
    worst, failure = compare(ours, theirs, oracle)
    if not case.has_fixed_order:
        for other in (run("native"), replay(run)):
            error, other_failure = compare(other, theirs, oracle)
            worst, failure = max(worst, error), failure or other_failure
        return {"error": worst, "same bits": "no fixed order", "failure": failure}
    repeats = (run("native") for _ in range(REPEATS - 1))
    is_same = all(
        all(same_bits(a, b) for a, b in zip(ours, again, strict=True)) for again in repeats
    )
    if not failure and not is_same:
        failure = "repeats differ in their bits"
    replayed = replay(run)
    if not failure and not all(same_bits(a, b) for a, b in zip(ours, replayed, strict=True)):
        failure = "the replay of a CUDA graph differs in its bits"
    return {"error": worst, "same bits": is_same, "failure": failure}


def compare(ours: list[Tensor], theirs: list[Tensor], oracle: list[Tensor]) -> tuple[float, str]:
    """Largest error relative to the oracle's largest value, and what is wrong, if anything."""
    worst, failure = 0.0, ""
    for i, (a, b, c) in enumerate(zip(ours, theirs, oracle, strict=True)):
        scale = max(float(c.detach().abs().max()), 1e-3)  # what is 0 by right has none
        worst = max(worst, max_error(a, c) / scale)
        try:
            assert_as_good_as(a, b, c, f"result {i}", scale=max(scale, 1.0))
        except AssertionError as error:
            failure = failure or str(error)
    return worst, failure


def replay(run: Callable[[str], list[Tensor]]) -> list[Tensor]:
    """What a CUDA graph of the native run leaves when it is replayed."""
    stream = torch.cuda.Stream()  # torch.cuda.graph captures from a stream that is not the default
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run("native")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run("native")
    with torch.no_grad():
        for output in outputs:
            output.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    return outputs


def sanitize() -> dict[str, str]:
    """Verdict of each tool of compute-sanitizer over this script's tiny cases."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return dict.fromkeys(TOOLS, "compute-sanitizer not found")
    verdicts = {}
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
        command += [sys.executable, __file__, "--tiny"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SANITIZER_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            verdicts[tool] = f"no verdict in {SANITIZER_TIMEOUT_S} s"
            continue
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        verdicts[tool] = "clean" if done.returncode == 0 else f"exit {done.returncode}: {last}"
    return verdicts


def timings() -> list[str]:
    """The output of each op's benchmark."""
    outputs = []
    for name in ("prepass", "attention", "cross_entropy"):
        text = StringIO()
        with redirect_stdout(text):
            runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["main"](
                ["--device", "cuda"]
            )
        outputs.append(text.getvalue())
    return outputs


def check_engine() -> tuple[bool, str]:
    """Whether the engine's CUDA model is right, and what engine_cuda.py says of it."""
    script = str(Path(__file__).with_name("engine_cuda.py"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="run tiny cases once, write nothing")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device", file=sys.stderr)
        raise SystemExit(2)
    if not _core.cuda_built():
        print("gpu_check: this build has no CUDA kernels; install nvcc and build", file=sys.stderr)
        raise SystemExit(1)
    torch.manual_seed(0)
    if args.tiny:
        for case in cases(tiny=True).values():
            case.run("native")
        torch.cuda.synchronize()
        return

    results = {name: check(case) for name, case in cases(tiny=False).items()}
    rows = [
        [name, result["error"], str(result["same bits"]), str(result["failure"]) or "ok"]
        for name, result in results.items()
    ]
    text = [bench.table(("case", "error", "same bits", "verdict"), rows)]
    verdicts = sanitize()
    text.append(bench.table(("compute-sanitizer", "verdict"), [*verdicts.items()]))
    is_right = not any(result["failure"] for result in results.values())
    benchmarks = timings() if is_right else []
    text += benchmarks or ["no timings: a wrong result has no speed"]
    is_engine_right, said = check_engine()
    is_right = is_right and is_engine_right
    text.append(said)

    args.out.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": bench.machine("cuda"),
        "cases": results,
        "sanitizer": verdicts,
        "benchmarks": [json.loads(output.splitlines()[-1]) for output in benchmarks],
        "engine": {"is right": is_engine_right, "said": said},
    }
    (args.out / "gpu_check.json").write_text(json.dumps(document, indent=1) + "\n")
    (args.out / "gpu_check.txt").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))
    raise SystemExit(0 if is_right else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
