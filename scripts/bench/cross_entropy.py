"""Loss of the head, forward and backward, against what else computes it.

    python scripts/bench/cross_entropy.py [--quick] [--device cuda]

"rows" times the row kernel alone on ready logits, "head" the whole op, both GEMMs of the gradient
included. Beside each time stand the error of the gradients against fp64, relative in Frobenius
norms, and the most memory that tensors held at once, results included. Bytes of "rows": the logits
in and their gradient out.

Peers: "eager" and "compiled" PyTorch, fp32 softcap and F.cross_entropy; F.linear_cross_entropy of
PyTorch 2.13, which has no softcap (so it does less, and its error is against its own loss); Liger
where it is installed (pip install liger-kernel; CUDA alone).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops import native, reference
from nanochat.testing import bench
from nanochat.testing.memory import peak_bytes
from nanochat.testing.numerics import relative_error

SOFTCAP = 15.0
OPTIONS = {"softcap": SOFTCAP, "ignore_index": -1}
PAIRS = ("ms", "error", "peak MB")
COLUMNS = (
    "what", "dtype", "rows", "V", "C", "peer", "ratio",
    *(f"{who} {what}" for what in PAIRS for who in ("ours", "peer")), "ours GB/s",
)  # fmt: skip
ORACLE_ROWS = 256  # at a time, in fp64

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Gradients = Callable[[], Sequence[Tensor]]


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
    oracle = torch_rows(logits.double(), targets)
    theirs = torch_rows(logits, targets)
    errors = [relative_error(ours, oracle), relative_error(theirs, oracle)]
    check("rows", errors[0], dtype)
    # Overwritten again and again, the logits turn into small numbers: the kernel has no branches
    # on values, so its time does not change.
    times = bench.medians_ms(
        {
            "ours": lambda: row_kernel(ours, targets, nats),
            "eager": lambda: torch_rows(logits, targets),
        },
        device=device,
        repeats=repeats,
    )
    peaks = [
        peak_bytes(lambda: row_kernel(ours, targets, nats), device=device) / 1e6,
        peak_bytes(lambda: torch_rows(logits, targets), device=device) / 1e6,
    ]
    gb_per_s = 2 * N * V * logits.element_size() / times["ours"] / 1e6
    shape = ["rows", name_of(dtype), N, V, None, "eager", times["eager"] / times["ours"]]
    return [*shape, *times.values(), *errors, *peaks, gb_per_s]


def plain_loss(softcap: float | None) -> Loss:
    """The whole loss in PyTorch, for logits of any dtype."""

    def loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return reference.cross_entropy(
            x, weight, targets, softcap=softcap, ignore_index=-1, reduction="sum"
        )

    return loss


def native_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return ops.cross_entropy(x, weight, targets, **OPTIONS)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear_cross_entropy(x, weight, targets, reduction="sum", ignore_index=-1)


def liger() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    module = LigerFusedLinearCrossEntropyLoss(ignore_index=-1, softcap=SOFTCAP, reduction="sum")
    return lambda x, weight, targets: module(weight, x, targets)


def peers(device: str, quick: bool) -> Iterator[tuple[str, Loss, float | None]]:
    """Name, loss and softcap of each."""
    yield "eager", plain_loss(SOFTCAP), SOFTCAP
    if not quick:  # Inductor takes its time
        yield "compiled", torch.compile(plain_loss(SOFTCAP)), SOFTCAP
    if hasattr(F, "linear_cross_entropy"):
        yield "F.linear_cross_entropy, no cap", linear_cross_entropy, None
    if device == "cuda" and find_spec("liger_kernel") is not None:
        yield "Liger", liger(), SOFTCAP


def oracle_gradients(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    """dx and dW in fp64, flat."""
    dw = torch.zeros_like(weight, dtype=torch.float64)
    parts = []
    exact_weight = weight.detach().double().requires_grad_()
    for begin in range(0, len(x), ORACLE_ROWS):
        part = x.detach()[begin : begin + ORACLE_ROWS].double().requires_grad_()
        loss = plain_loss(softcap)(part, exact_weight, targets[begin : begin + ORACLE_ROWS])
        dx, share = torch.autograd.grad(loss, (part, exact_weight))
        parts.append(dx)
        dw += share
    return torch.cat((torch.cat(parts).flatten(), dw.flatten()))


def bench_head(
    N: int, V: int, C: int, dtype: torch.dtype, device: str, repeats: int, quick: bool
) -> Iterator[list[object]]:
    x = torch.randn(N, C, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(V, C, device=device) * C**-0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (N,), device=device)

    def gradients(loss: Loss) -> Gradients:
        return lambda: torch.autograd.grad(loss(x, weight, targets), (x, weight))

    def error(run: Gradients, oracle: Tensor) -> float:
        return relative_error(torch.cat([g.flatten() for g in run()]), oracle)

    with ops.force("native"):
        ours = gradients(native_loss)
        others = {name: (gradients(f), cap) for name, f, cap in peers(device, quick)}
        oracles = {cap: oracle_gradients(x, weight, targets, cap) for _, cap in others.values()}
        our_error = error(ours, oracles[SOFTCAP])
        check("head", our_error, dtype)
        our_peak = peak_bytes(ours, device=device) / 1e6
        candidates = {"ours": ours} | {name: run for name, (run, _) in others.items()}
        times = bench.medians_ms(candidates, device=device, repeats=repeats, warmup=1)
        for name, (run, cap) in others.items():
            yield [
                "head", name_of(dtype), N, V, C, name, times[name] / times["ours"],
                times["ours"], times[name], our_error, error(run, oracles[cap]),
                our_peak, peak_bytes(run, device=device) / 1e6, None,
            ]  # fmt: skip


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check(what: str, error: float, dtype: torch.dtype) -> None:
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    if not error <= limit:
        raise SystemExit(f"cross_entropy: {what} is wrong: relative error {error:.2g} > {limit:g}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.quick:
        sizes, repeats = [(64, 512, 32)], 1
    elif args.device == "cuda":
        sizes, repeats = [(8192, 32768, 768), (8192, 32768, 1536)], args.repeats
    else:
        sizes, repeats = [(2048, 4096, 256), (2048, 32768, 768)], args.repeats
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for N, V, C in sizes:
            rows.append(bench_rows(N, V, dtype, args.device, repeats))
            rows += bench_head(N, V, C, dtype, args.device, repeats, args.quick)
    print(bench.report("cross_entropy", args.device, COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
