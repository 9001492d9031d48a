"""Rope, QK-norm and value gate before attention, forward and backward, against plain PyTorch.

    python scripts/bench/prepass.py [--quick] [--device cuda]

Bytes, forward: q, k, v read and written and ve read, (4 B T D (H + Hkv) + 2 B T D Hkv) / 2 elements
of the dtype; backward: two rows read for each one written. Tables and statistics do not count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat import ops
from nanochat.testing import bench
from nanochat.testing.numerics import relative_error

COLUMNS = ("pass", "dtype", "B", "T", "H", "D", "ours ms", "torch ms", "ratio", "ours GB/s")


def inputs(B: int, T: int, H: int, D: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype).requires_grad_()

    angle = torch.rand(T, D // 2, device=device) * 6.28
    return {
        "q": rows(B, T, H, D),
        "k": rows(B, T, H, D),
        "v": rows(B, T, H, D),
        "cos": angle.cos(),
        "sin": angle.sin(),
        "ve": rows(B, T, H, D),
        "gate": rows(B, T, H),
    }


def forward(path: ops.Path, x: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with ops.force(path):
        return ops.prepass(**x)


def measure(
    B: int, T: int, H: int, D: int, dtype: torch.dtype, device: str, repeats: int
) -> list[list[object]]:
    x = inputs(B, T, H, D, dtype, device)
    leaves = [x[name] for name in ("q", "k", "v", "ve", "gate")]
    outputs = {path: forward(path, x) for path in ("native", "reference")}
    gradient = [torch.randn_like(y) for y in outputs["native"]]

    def backward(path: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs[path], leaves, gradient, retain_graph=True)

    limit = 1e-5 if dtype == torch.float32 else 1e-2
    pairs = [*zip(outputs["native"], outputs["reference"], strict=True)]
    pairs += zip(backward("native"), backward("reference"), strict=True)
    for ours, torchs in pairs:
        error = relative_error(ours, torchs)
        if not error <= limit:
            raise SystemExit(f"prepass: wrong result: relative error {error:.2g} > {limit:g}")

    def forward_without_graph(path: ops.Path) -> None:
        with torch.no_grad():
            forward(path, x)

    row_bytes = B * T * H * D * x["q"].element_size()
    rows: list[list[object]] = []
    for name, run, num_rows in (
        ("forward", forward_without_graph, 7),  # q, k, v, ve in; q_hat, k_hat, v_hat out
        ("backward", backward, 9),  # dq_hat, q_hat, dk_hat, k_hat, dv_hat, ve in; dq, dk, dve out
    ):
        times = bench.medians_ms(
            {"ours": lambda run=run: run("native"), "torch": lambda run=run: run("reference")},
            device=device,
            repeats=repeats,
        )
        rows.append([
            name, str(dtype).removeprefix("torch."), B, T, H, D, times["ours"], times["torch"],
            times["torch"] / times["ours"], num_rows * row_bytes / times["ours"] / 1e6,
        ])  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.quick:
        sizes, repeats = [(1, 32, 2, 64)], 1
    elif args.device == "cuda":
        sizes, repeats = [(32, 2048, 6, 128), (16, 2048, 12, 128), (32, 2048, 12, 64)], args.repeats
    else:
        sizes, repeats = [(8, 256, 2, 128), (16, 512, 4, 64)], args.repeats
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for B, T, H, D in sizes:
            rows += measure(B, T, H, D, dtype, args.device, repeats)
    print(bench.report("prepass", args.device, COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
