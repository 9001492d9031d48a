"""The optimizer against PyTorch: Muon for each shape of matrix, and whole steps of models.

    python scripts/bench/muon.py [--quick] [--device cuda] [--depths 4 12] [--no-compile]

"muon" is the step of a stack of K matrices: ours, the reference eager and under torch.compile, and
torch.optim.Muon, which does less (no row scaling, no NorMuon) but the same products. GFLOP/s count
5 (4 n^2 m + 2 n^3) for n <= m, all that dense products do; ours does two thirds of it. The errors
are those of a first update to the same one in fp64. "step" is MuonAdamW.step of a model whose
gradients are there; it takes the gigabytes of its depth.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nanochat import ops
from nanochat.common.ranks import compute_dtype
from nanochat.model import GPT, GPTConfig
from nanochat.ops import reference
from nanochat.optim import MuonAdamW, build_groups
from nanochat.testing import bench
from nanochat.testing.numerics import relative_error

SETTINGS: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "beta2": 0.9, "weight_decay": 0.1}
COLUMNS = (
    "what", "dtype", "ours ms", "reference ms", "ratio", "compiled ms", "torch.optim.Muon ms",
    "ours GFLOP/s", "ours error", "reference error",
)  # fmt: skip

Step = Callable[..., None]


def states(K: int, m: int, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_zeros(K, m, n), like.new_zeros((K, m, 1) if m >= n else (K, 1, n))


def first_update(step: Step, grad: Tensor, dtype: torch.dtype) -> Tensor:
    """What one step leaves in parameters that were zero."""
    param = torch.zeros_like(grad)
    m, n = grad.shape
    step([grad], [param], *states(1, m, n, grad), **SETTINGS, inner_dtype=dtype)
    return param


def native(*args: Any, **options: Any) -> None:
    with ops.force("native"):
        ops.muon(*args, **options)


def compiled_reference(arguments: tuple[Any, ...], options: dict[str, Any]) -> Step | None:
    """The reference under torch.compile, or None where that fails: it needs a C++ compiler."""
    torch.compiler.reset()
    step: Step = torch.compile(reference.muon, dynamic=False)
    try:
        step(*arguments, **options)
    except Exception as error:
        print(f"muon: torch.compile: {type(error).__name__}", file=sys.stderr)
        return None
    return step


def bench_stack(
    K: int, m: int, n: int, dtype: torch.dtype, *, device: str, repeats: int, compiles: bool
) -> list[object]:
    grads = [torch.randn(m, n, device=device) * 1e-3 for _ in range(K)]
    exact = first_update(reference.muon, grads[0].double(), torch.float64)
    errors = [
        relative_error(first_update(step, grads[0], dtype), exact)
        for step in (native, reference.muon)
    ]
    if not errors[0] <= 3 * errors[1] + 1e-5:
        raise SystemExit(f"muon: {m} x {n} is wrong: errors {errors[0]:.2g}, {errors[1]:.2g}")

    def arguments() -> tuple[Any, ...]:
        return grads, [torch.randn_like(g) for g in grads], *states(K, m, n, grads[0])

    options = SETTINGS | {"inner_dtype": dtype}
    steps: dict[str, Step] = {"ours": native, "reference": reference.muon}
    if compiles and (step := compiled_reference(arguments(), options)) is not None:
        steps["compiled"] = step
    candidates: dict[str, bench.Candidate] = {
        name: partial(step, *arguments(), **options) for name, step in steps.items()
    }
    if dtype == torch.bfloat16 and hasattr(torch.optim, "Muon"):
        params = [torch.nn.Parameter(torch.randn_like(g)) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        candidates["torch"] = torch.optim.Muon(params, lr=0.02).step
    times = bench.medians_ms(candidates, device=device, repeats=repeats)
    short, long = sorted((m, n))
    gflop = K * 5 * (4 * short**2 * long + 2 * short**3) / 1e9
    return [
        f"muon {K} x {m} x {n}", *compared(dtype, times), times.get("compiled"), times.get("torch"),
        gflop / times["ours"] * 1e3, *errors,
    ]  # fmt: skip


def bench_step(depth: int, vocab_size: int, *, device: str, repeats: int) -> list[object]:
    config = GPTConfig.from_depth(depth, vocab_size=vocab_size, seq_len=256)
    model = GPT(config).to(device)
    model.init_weights(seed=0)
    for param in model.parameters():
        param.grad = torch.randn_like(param) * 1e-3
    optimizer = MuonAdamW(build_groups(model, n_embd=config.n_embd))

    def run(path: ops.Path) -> None:
        with ops.force(path):
            optimizer.step()

    times = bench.medians_ms(
        {"ours": lambda: run("native"), "reference": lambda: run("reference")},
        device=device,
        repeats=repeats,
    )
    dtype = compute_dtype(device)
    return [f"step d{depth}", *compared(dtype, times), None, None, None, None, None]


def compared(dtype: torch.dtype, times: dict[str, float]) -> list[object]:
    name = str(dtype).removeprefix("torch.")
    return [name, times["ours"], times["reference"], times["reference"] / times["ours"]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--depths", type=int, nargs="+", help="models whose step is timed")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    vocab_size, repeats = 4096, args.repeats
    if args.quick:
        stacks, depths, vocab_size, repeats = [(2, 24, 40)], [1], 64, 1
    elif args.device == "cuda":  # the groups of d24
        stacks, depths = [(96, 1536, 1536), (24, 6144, 1536), (24, 1536, 6144)], [24]
        vocab_size = 32768
    else:  # a layer of d4, a layer of d12
        stacks = [(4, 256, 256), (1, 1024, 256), (1, 256, 1024)]
        stacks += [(4, 768, 768), (1, 3072, 768), (1, 768, 3072)]
        depths = [4, 12]
    options = {"device": args.device, "repeats": repeats}
    dtypes = [torch.bfloat16] if args.device == "cuda" else [torch.bfloat16, torch.float32]
    rows = [
        bench_stack(*stack, dtype, compiles=not (args.quick or args.no_compile), **options)
        for dtype in dtypes
        for stack in stacks
    ]
    rows += [bench_step(depth, vocab_size, **options) for depth in args.depths or depths]
    print(bench.report("muon", args.device, COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
