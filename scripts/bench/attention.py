"""Causal attention from the QKV projection on: rope, QK-norm, value gate, softmax, values.

    python scripts/bench/attention.py [--quick] [--device cuda]

Every candidate does the whole of it. "reference" is plain PyTorch with its fused SDPA, "products"
two batched matrix products around a softmax; "flex" and "flash_attn" stand behind our pre-pass.
FLOP, forward: 4 D for each pair of a query and a key that it sees, the triangle itself and not
whole tiles; backward 2.5 times that. The roof is PyTorch's product of two 2048 x 2048 matrices in
the same run. Errors are relative (Frobenius norms), against fp64 on the rounded inputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nanochat import ops
from nanochat.ops import attention_peers, reference
from nanochat.testing import bench
from nanochat.testing.numerics import relative_error

OPTIONS = {"qk_scale": 1.2, "eps": 2.0**-23}
LEAVES = ("q", "k", "v", "ve", "gate")
COLUMNS = (
    "pass", "dtype", "B", "T", "H", "D", "window", "candidate", "ms", "ratio", "TFLOP/s", "roof",
    "error",
)  # fmt: skip
Attention = Callable[..., Tensor]


def inputs(B: int, T: int, H: int, D: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """q, k and v are views of one projection, as in the model that fuses it."""
    projected = torch.randn(B, T, 3, H, D, device=device).to(dtype)
    angle = torch.rand(T, D // 2, device=device) * 6.28
    return {
        **dict(zip("qkv", (x.detach().requires_grad_() for x in projected.unbind(2)), strict=True)),
        "cos": angle.cos(),
        "sin": angle.sin(),
        "ve": torch.randn(B, T, H, D, device=device).to(dtype).requires_grad_(),
        "gate": torch.randn(B, T, H, device=device).to(dtype).requires_grad_(),
    }


def products(*, window: int | None, **x: Tensor) -> Tensor:
    """All T x T scores at once."""
    q, k, v = reference.prepass(**x, **OPTIONS)
    B, T, H, D = q.shape
    queries, keys, values = (y.transpose(1, 2).reshape(B * H, T, D) for y in (q, k, v))
    visible = reference.causal_window_mask(T, T if window is None else window, q.device)
    hidden = torch.zeros(T, T, dtype=q.dtype, device=q.device).masked_fill_(~visible, -torch.inf)
    scores = torch.baddbmm(hidden, queries, keys.transpose(1, 2), alpha=D**-0.5)
    out = torch.bmm(scores.softmax(dim=-1), values)
    return out.view(B, H, T, D).transpose(1, 2)


def behind_prepass(attend: Attention, *, window: int | None, **x: Tensor) -> Tensor:
    return attend(*ops.prepass(**x, **OPTIONS), window=window)


def ours(*, window: int | None, **x: Tensor) -> Tensor:
    with ops.force("native"):
        return ops.attention(**x, window=window, **OPTIONS)


def candidates(T: int, window: int | None, dtype: torch.dtype, device: str) -> dict[str, Attention]:
    """Ours and every peer that can run here."""
    found: dict[str, Attention] = {
        "ours": ours,
        "reference": partial(reference.attention, **OPTIONS),
        "products": products,
    }
    if device == "cuda" and dtype == torch.bfloat16:
        if window is not None and window < T - 1:
            found["flex"] = partial(behind_prepass, attention_peers.flex)
        if find_spec("flash_attn_interface") or find_spec("flash_attn"):
            flash = partial(attention_peers.attend, "flash_attn")
            found["flash_attn"] = partial(behind_prepass, flash)
    return found


def roof(dtype: torch.dtype, device: str, size: int) -> float:
    """TFLOP/s of a product of two matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = bench.medians_ms({"mm": lambda: a @ b}, device=device, repeats=5)
    return 2 * size**3 / times["mm"] / 1e9


def step(attend: Attention, x: dict[str, Tensor], dout: Tensor, window: int | None) -> list[Tensor]:
    """Output and gradients."""
    out = attend(**x, window=window)
    return [out, *torch.autograd.grad(out, [x[name] for name in LEAVES], dout.to(out.dtype))]


def errors(
    found: dict[str, Attention], x: dict[str, Tensor], dout: Tensor, window: int | None
) -> dict[str, tuple[float, float]]:
    """Of the output, and the largest of any gradient's; stops where a result is wrong."""
    exact = {name: y.detach().double().requires_grad_(name in LEAVES) for name, y in x.items()}
    oracle = step(partial(reference.attention, **OPTIONS), exact, dout, window)
    limit = 1e-5 if dout.dtype == torch.float32 else 2e-2
    result = {}
    for name, attend in found.items():
        got = step(attend, x, dout, window)
        each = [relative_error(a, b) for a, b in zip(got, oracle, strict=True)]
        if name == "ours" and not max(each) <= limit:
            raise SystemExit(f"attention: wrong result: relative error {max(each):.2g} > {limit:g}")
        result[name] = each[0], max(each[1:])
    return result


def measure(
    shape: tuple[int, int, int, int],
    window: int | None,
    dtype: torch.dtype,
    device: str,
    top: float,
    repeats: int,
) -> list[list[object]]:
    B, T, H, D = shape
    x = inputs(B, T, H, D, dtype, device)
    dout = torch.randn(B, T, H, D, device=device).to(dtype)
    found = candidates(T, window, dtype, device)
    error = errors(found, x, dout, window)
    seen = T if window is None else min(window + 1, T)  # keys of a query far from the start
    pairs = B * H * (seen * (seen + 1) // 2 + (T - seen) * seen)

    def forward(attend: Attention) -> Any:
        with torch.no_grad():
            return attend(**x, window=window)

    rows: list[list[object]] = []
    for index, (name, run, flops) in enumerate(
        (
            ("forward", forward, 4 * D * pairs),
            ("both", lambda attend: step(attend, x, dout, window), 14 * D * pairs),
        )
    ):
        times = bench.medians_ms(
            {peer: partial(run, attend) for peer, attend in found.items()},
            device=device,
            repeats=repeats,
        )
        for peer, elapsed_ms in times.items():
            rate = flops / elapsed_ms / 1e9
            rows.append([
                name, str(dtype).removeprefix("torch."), B, T, H, D, window, peer, elapsed_ms,
                elapsed_ms / times["ours"], rate, rate / top, error[peer][index],
            ])  # fmt: skip
    return rows


def cases(device: str, quick: bool) -> list[tuple[tuple[int, int, int, int], int | None]]:
    """Shapes (B, T, H, D) and windows: the cpu preset, then d12 with narrow and wide heads."""
    if quick:
        return [((1, 40, 2, 64), None), ((1, 40, 2, 64), 7)]
    if device == "cuda":
        return [((16, 2048, H, D), w) for H, D in ((12, 64), (6, 128)) for w in (None, 512)]
    heads = ((12, 64), (6, 128))
    d12 = [((1, T, H, D), w) for T in (512, 1024, 2048) for H, D in heads for w in (None, T // 4)]
    return [((8, 256, 4, 64), None), ((8, 256, 4, 64), 64), ((4, 512, 4, 64), None), *d12]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    repeats = 1 if args.quick else args.repeats
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        if args.device == "cuda" and dtype == torch.float32:
            continue  # our kernels there take bf16
        top = roof(dtype, args.device, 64 if args.quick else 2048)
        for shape, window in cases(args.device, args.quick):
            rows += measure(shape, window, dtype, args.device, top, repeats)
    print(bench.report("attention", args.device, COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
