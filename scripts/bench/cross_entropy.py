"""Loss of the head, forward and backward, against PyTorch's softcap and cross-entropy.

    python scripts/bench/cross_entropy.py [--quick] [--device cuda]

"rows" times the row kernel alone on ready logits (reference: fp32 softcap, F.cross_entropy and its
backward); "head" the whole op, both GEMMs of the gradient included. Bytes of "rows": the logits in
and their gradient out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops import native, reference
from nanochat.testing import bench
from nanochat.testing.numerics import relative_error

SOFTCAP = 15.0
OPTIONS = {"softcap": SOFTCAP, "ignore_index": -1}
COLUMNS = ("what", "dtype", "rows", "V", "ours ms", "torch ms", "ratio", "ours GB/s")


def row_kernel(logits: Tensor, targets: Tensor, nats: Tensor) -> None:
    """Loss and, in place of the logits, the gradient."""
    _core.cross_entropy_rows(
        native.placement(logits), native.view(logits), native.view(targets), native.view(nats),
        vocab_size=logits.shape[1], with_gradient=True, **OPTIONS,
    )  # fmt: skip


def torch_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the same loss with respect to the logits."""
    leaf = logits.detach().requires_grad_()
    nats = reference.softcapped_nats(leaf, targets, vocab_size=leaf.shape[1], **OPTIONS)
    return torch.autograd.grad(nats.sum(), leaf)[0]


def bench_rows(N: int, V: int, dtype: torch.dtype, device: str, repeats: int) -> list[object]:
    logits = (3 * torch.randn(N, V, device=device)).to(dtype)
    targets = torch.randint(0, V, (N,), device=device)
    nats = torch.empty(N, device=device)
    ours = logits.clone()
    row_kernel(ours, targets, nats)
    check("rows", ours, torch_rows(logits, targets), dtype)
    # Overwritten again and again, the logits turn into small numbers: the kernel has no branches
    # on values, so its time does not change.
    times = bench.medians_ms(
        {
            "ours": lambda: row_kernel(ours, targets, nats),
            "torch": lambda: torch_rows(logits, targets),
        },
        device=device,
        repeats=repeats,
    )
    gb_per_s = 2 * N * V * logits.element_size() / times["ours"] / 1e6
    return [*row("rows", dtype, N, V, times), gb_per_s]


def bench_head(
    N: int, V: int, C: int, dtype: torch.dtype, device: str, repeats: int
) -> list[object]:
    x = torch.randn(N, C, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(V, C, device=device) * C**-0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (N,), device=device)

    def run(path: ops.Path) -> tuple[Tensor, ...]:
        with ops.force(path):
            loss = ops.cross_entropy(x, weight, targets, **OPTIONS)
        return torch.autograd.grad(loss, (x, weight))

    for ours, torchs in zip(run("native"), run("reference"), strict=True):
        check("head", ours, torchs, dtype)
    times = bench.medians_ms(
        {"ours": lambda: run("native"), "torch": lambda: run("reference")},
        device=device,
        repeats=repeats,
    )
    return [*row(f"head C={C}", dtype, N, V, times), None]


def row(what: str, dtype: torch.dtype, N: int, V: int, times: dict[str, float]) -> list[object]:
    name = str(dtype).removeprefix("torch.")
    return [what, name, N, V, times["ours"], times["torch"], times["torch"] / times["ours"]]


def check(what: str, ours: Tensor, reference: Tensor, dtype: torch.dtype) -> None:
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    error = relative_error(ours, reference)
    if not error <= limit:
        raise SystemExit(f"cross_entropy: {what} is wrong: relative error {error:.2g} > {limit:g}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.quick:
        sizes, repeats = [(64, 512, 32)], 1
    elif args.device == "cuda":
        sizes, repeats = [(8192, 32768, 768), (8192, 32768, 1536)], args.repeats
    else:
        sizes, repeats = [(2048, 4096, 256), (1024, 32768, 384)], args.repeats
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for N, V, C in sizes:
            rows.append(bench_rows(N, V, dtype, args.device, repeats))
            rows.append(bench_head(N, V, C, dtype, args.device, repeats))
    print(bench.report("cross_entropy", args.device, COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
