"""The loss against fp64, its gradient in place, its chunks and its refusals."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module

import pytest
import torch
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops import native
from nanochat.ops.backends import CPU_LEVELS
from nanochat.testing.memory import peak_bytes
from nanochat.testing.numerics import assert_as_good_as, relative_error, same_bits


def force_level(level: str) -> AbstractContextManager[None]:
    if CPU_LEVELS.index(level) > _core.cpu_level():
        pytest.skip(f"this machine has no {level}")
    return ops.force(cpu_level=level)


def rows(
    logits: Tensor,
    targets: Tensor,
    *,
    softcap: float = 15.0,
    vocab_size: int | None = None,
    with_gradient: bool = True,
) -> Tensor:
    """Run the row kernel on ``logits`` itself; returns the loss of each row."""
    nats = torch.full((logits.shape[0],), float("nan"))
    _core.cross_entropy_rows(
        native.placement(logits), native.view(logits), native.view(targets), native.view(nats),
        vocab_size=logits.shape[1] if vocab_size is None else vocab_size, ignore_index=-1,
        softcap=softcap, with_gradient=with_gradient,
    )  # fmt: skip
    return nats


def torch_rows(
    logits: Tensor, targets: Tensor, softcap: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    nats = ops.reference.softcapped_nats(
        leaf, targets, softcap=softcap, ignore_index=-1, vocab_size=vocab_size
    )
    return nats.detach(), torch.autograd.grad(nats.sum(), leaf)[0]


@pytest.mark.parametrize("level", CPU_LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [15.0, 40.0, 60.0, 0.0])
@pytest.mark.parametrize(("V", "pad"), [(1, 0), (15, 1), (16, 0), (17, 47), (2065, 7)])
def test_rows_are_as_exact_as_the_reference(
    V: int, pad: int, softcap: float, dtype: torch.dtype, level: str
) -> None:
    N = 5
    whole = torch.full((N, V + pad + 3), float("nan"), dtype=dtype)  # three columns between rows
    logits = whole[:, : V + pad]
    logits[:, :V] = 6 * torch.randn(N, V)
    targets = torch.randint(0, V, (N,))
    targets[2], targets[3] = -1, V - 1
    exact = torch_rows(logits[:, :V].double(), targets, softcap, V)
    theirs = torch_rows(logits[:, :V], targets, softcap, V)
    with force_level(level):
        nats = rows(logits, targets, softcap=softcap, vocab_size=V)
    # The loss is a difference of numbers as large as the cap, the gradient one of probabilities.
    assert_as_good_as(nats, theirs[0], exact[0], "loss", scale=softcap or 6.0)
    assert_as_good_as(logits[:, :V], theirs[1], exact[1], "dlogits", scale=1.0)
    assert nats[2] == 0 and not logits[2].any(), "an ignored row has neither loss nor gradient"
    assert not logits[:, V:].any(), "padding has no gradient"
    assert whole[:, V + pad :].isnan().all(), "what lies between rows is left alone"


@pytest.mark.parametrize("level", CPU_LEVELS)
def test_exp_and_softcap_against_libm(level: str) -> None:
    # With two columns, loss = log(1 + exp(z1 - z0)), so a sweep of one logit traces the functions.
    x = torch.linspace(-80, 80, 9973)
    logits = torch.stack((torch.zeros_like(x), x), dim=1)
    targets = torch.zeros(len(x), dtype=torch.int64)
    for softcap in (0.0, 15.0):
        exact, gradient = torch_rows(logits.double(), targets, softcap, 2)
        ours = logits.clone()
        with force_level(level):
            nats = rows(ours, targets, softcap=softcap)
        assert ((nats - exact).abs() / exact.clamp_min(1)).max() <= 2e-6
        # Relative, on either side: where exp or the slope of the cap is tiny it is still right.
        error = (ours[:, 1] - gradient[:, 1]).abs() / gradient[:, 1]
        assert error.max() <= 5e-6


def test_no_softcap_survives_extreme_logits() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0], [-1e30, -1e30, -1e30], [0.0, float("-inf"), 1.0]])
    targets = torch.tensor([0, 1, 2])
    exact = torch_rows(logits.double(), targets, 0.0, 3)
    nats = rows(logits, targets, softcap=0.0)
    torch.testing.assert_close(nats.double(), exact[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.double(), exact[1], rtol=1e-6, atol=1e-6)


def test_nan_in_a_row_is_loud_and_stays_in_its_row() -> None:
    for softcap in (15.0, 60.0, 0.0):
        logits = torch.randn(3, 40)
        logits[1, 33] = float("nan")
        nats = rows(logits, torch.tensor([0, 1, 2]), softcap=softcap)
        assert nats.isnan().tolist() == [False, True, False]


def test_loss_alone_leaves_the_logits() -> None:
    logits, targets = torch.randn(4, 50), torch.tensor([1, 2, 3, 49])
    gradient, untouched = logits.clone(), logits.clone()
    nats = rows(gradient, targets)
    assert same_bits(rows(untouched, targets, with_gradient=False), nats)
    assert same_bits(untouched, logits)


def head(N: int, C: int, V: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(N, C).to(dtype).requires_grad_()
    weight = (2 * torch.randn(V, C) / C**0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (N,))
    targets[N // 2 :: 3] = -1
    return x, weight, targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("N", [1, 256, 257, 600])
def test_loss_and_gradients_of_the_head(
    N: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    C, V, vocab_size = 24, 320, 300
    module = import_module("nanochat.ops.cross_entropy")  # its name in the package is the function
    monkeypatch.setattr(module, "_MIN_CHUNK_ROWS", 256)
    monkeypatch.setitem(module._CHUNK_ELEMENTS, "cpu", 256 * V)  # so 600 rows are three chunks
    x, weight, targets = head(N, C, vocab_size, dtype)
    weight = torch.cat((weight.detach(), torch.randn(V - vocab_size, C).to(dtype)))
    weight.requires_grad_()

    def outcome(path: ops.Path, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        with ops.force(path):
            loss = ops.cross_entropy(x, weight, targets, vocab_size=vocab_size)
            nats = ops.cross_entropy(
                x.detach(), weight.detach(), targets, vocab_size=vocab_size, reduction="none"
            )
        return loss, *torch.autograd.grad(loss / 7, (x, weight)), nats

    oracle = outcome("reference", *(t.detach().double().requires_grad_() for t in (x, weight)))
    ours, theirs = outcome("native", x, weight), outcome("reference", x, weight)
    assert [t.dtype for t in ours] == [torch.float32, dtype, dtype, torch.float32]
    for name, a, b, c in zip(("loss", "dx", "dW", "nats"), ours, theirs, oracle, strict=True):
        assert_as_good_as(a, b, c, name)
    assert not ours[2][vocab_size:].any()


def test_the_error_of_dw_does_not_grow_with_the_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    N, V = 8192, 512
    module = import_module("nanochat.ops.cross_entropy")
    x, weight, targets = head(N, 64, V, torch.bfloat16)
    leaves = x.detach().double(), weight.detach().double().requires_grad_()
    with ops.force("reference"):
        (exact,) = torch.autograd.grad(ops.cross_entropy(*leaves, targets), leaves[1])

    def error_of_dw(rows: int) -> float:
        monkeypatch.setattr(module, "_MIN_CHUNK_ROWS", 256)
        monkeypatch.setitem(module._CHUNK_ELEMENTS, "cpu", rows * V)
        _, _, dw = torch.ops.nanochat.cross_entropy(
            x.detach(), weight.detach(), targets,
            softcap=15.0, ignore_index=-1, vocab_size=V, needs_dx=False, needs_dw=True,
        )  # fmt: skip
        assert dw.dtype == torch.float32
        return relative_error(dw, exact)

    at_once = error_of_dw(N)
    assert at_once < 2.0**-8, "of the order of a rounding of dlogits"
    assert error_of_dw(N // 8) <= 1.1 * at_once
    assert error_of_dw(N // 32) <= 1.1 * at_once


def test_peak_memory_is_one_chunk_however_many_rows() -> None:
    C, V = 16, 4096

    def peak(N: int, path: ops.Path) -> int:
        x, weight, targets = head(N, C, V, torch.bfloat16)

        def run() -> tuple[Tensor, ...]:
            with ops.force(path):
                loss = ops.cross_entropy(x, weight, targets)
            return torch.autograd.grad(loss, (x, weight))

        return peak_bytes(run)

    chunk, dw = 1024 * V * 2, V * C * 4
    for N in (1024, 4096):
        per_row = C * 2 * 3 + 4  # dx, scaled and not, with a temporary of as much; nats
        assert chunk <= peak(N, "native") <= chunk + 4 * dw + N * per_row + 4096
        assert peak(N, "reference") >= 4 * N * V, "what the test would see if there were no chunks"


def test_only_the_gradients_that_are_wanted() -> None:
    x, weight, targets = head(9, 8, 32, torch.float32)
    both = torch.autograd.grad(ops.cross_entropy(x, weight, targets), (x, weight))
    (dx,) = torch.autograd.grad(ops.cross_entropy(x, weight.detach(), targets), x)
    (dw,) = torch.autograd.grad(ops.cross_entropy(x.detach(), weight, targets), weight)
    assert same_bits(dx, both[0]) and same_bits(dw, both[1])
    with torch.no_grad():
        assert not ops.cross_entropy(x, weight, targets).requires_grad


def test_no_rows_and_no_targets() -> None:
    x, weight, targets = head(4, 8, 32, torch.float32)
    loss = ops.cross_entropy(x, weight, torch.full_like(targets, -1))
    dx, dw = torch.autograd.grad(loss, (x, weight))
    assert loss == 0 and not dx.any() and not dw.any()
    assert ops.cross_entropy(x[:0], weight, targets[:0]) == 0
    assert ops.cross_entropy(x[:0], weight, targets[:0], reduction="none").shape == (0,)


def test_repeats_give_the_same_bits_on_one_and_two_threads() -> None:
    logits = 5 * torch.randn(64, 2049)  # enough work for a second thread
    targets = torch.randint(0, 2049, (64,))
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            gradient = logits.clone()
            outcomes.append((rows(gradient, targets), gradient))
    finally:
        torch.set_num_threads(before)
    for nats, gradient in outcomes[1:]:
        assert same_bits(nats, outcomes[0][0]) and same_bits(gradient, outcomes[0][1])


def test_none_has_no_gradient() -> None:
    x, weight, targets = head(4, 8, 32, torch.float32)
    nats = ops.cross_entropy(x, weight, targets, reduction="none")
    with pytest.raises(NotImplementedError, match="reduction 'none' is for evaluation"):
        nats.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.randn(4, 9)}, ValueError, r"weight \(V, C\), got \(4, 9\) and \(32, 8\)"),
        ({"x": torch.randn(4, 8).bfloat16()}, ValueError, "one dtype, got torch.bfloat16 and"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, ValueError, r"must be \(4,\) int64"),
        ({"targets": torch.zeros(4)}, ValueError, r"int64, got \(4,\) torch.float32"),
        ({"vocab_size": 33}, ValueError, "between 1 and 32, got 33"),
        ({"softcap": -1.0}, ValueError, "softcap must not be negative, got -1"),
        ({"reduction": "mean"}, ValueError, "must be 'sum' or 'none', got 'mean'"),
        ({"targets": torch.tensor([0, 1, 32, 2])}, IndexError, "below vocab_size 32 .* at row 2"),
        ({"targets": torch.tensor([0, -2, 3, 2])}, IndexError, "got -2 at row 1"),
    ],
)
def test_names_the_broken_rule(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    x, weight, targets = head(4, 8, 32, torch.float32)
    with pytest.raises(error, match=message):
        ops.cross_entropy(**({"x": x, "weight": weight, "targets": targets} | change))


def test_op_obeys_the_rules_of_torch_library() -> None:
    x, weight, targets = head(5, 4, 20, torch.float32)
    torch.library.opcheck(
        torch.ops.nanochat.cross_entropy,
        (x, weight, targets),
        {
            "softcap": 15.0,
            "ignore_index": -1,
            "vocab_size": 20,
            "needs_dx": True,
            "needs_dw": True,
        },
    )


def test_compiles_into_one_graph() -> None:
    x, weight, targets = head(5, 4, 20, torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda: ops.cross_entropy(x, weight, targets), backend="aot_eager", fullgraph=True
    )
    eager = torch.autograd.grad(ops.cross_entropy(x, weight, targets), (x, weight))
    for a, b in zip(torch.autograd.grad(compiled(), (x, weight)), eager, strict=True):
        torch.testing.assert_close(a, b)
