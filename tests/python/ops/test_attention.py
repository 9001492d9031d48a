"""The pre-pass and attention, forward and backward, against fp64 and finite differences."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from nanochat import _core, ops
from nanochat.ops import native, reference
from nanochat.ops.backends import CPU_LEVELS
from nanochat.testing.numerics import assert_as_good_as, same_bits

OPTIONS = {"qk_scale": 1.2, "eps": 2.0**-23}
NAMES = ("q_hat", "k_hat", "v_hat", "dq", "dk", "dv", "dve", "dgate")

# (B, T, H, Hkv, D): length 1; no vector at all; one pair past a vector; GQA down to one head
SHAPES = [
    (1, 1, 1, 1, 2),
    (2, 3, 2, 2, 30),
    (2, 5, 4, 2, 34),
    (3, 17, 6, 1, 64),
    (1, 33, 4, 4, 128),
]


def force_level(level: str) -> AbstractContextManager[None]:
    if CPU_LEVELS.index(level) > _core.cpu_level():
        pytest.skip(f"this machine has no {level}")
    return ops.force(cpu_level=level)


def inputs(
    B: int, T: int, H: int, Hkv: int, D: int, dtype: torch.dtype, *, values: bool = True
) -> dict[str, Tensor]:
    angle = 6 * torch.rand(T, D // 2)
    x = {
        "q": torch.randn(B, T, H, D).to(dtype),
        "k": torch.randn(B, T, Hkv, D).to(dtype),
        "v": torch.randn(B, T, Hkv, D).to(dtype),
        "cos": angle.cos().bfloat16().float(),  # upstream's tables: not quite rotations
        "sin": angle.sin().bfloat16().float(),
    }
    if values:
        x["ve"] = torch.randn(B, T, Hkv, D).to(dtype)
        x["gate"] = torch.randn(B, T, Hkv).to(dtype)
    return x


def results(path: ops.Path, x: dict[str, Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Outputs of the pre-pass and the gradients of their weighted sum."""
    x = {
        name: tensor.detach().requires_grad_() if name not in ("cos", "sin") else tensor
        for name, tensor in x.items()
    }
    with ops.force(path):
        outputs = ops.prepass(**x, **OPTIONS)
    leaves = [x[name] for name in ("q", "k", "v", "ve", "gate") if name in x]
    cotangents = [w.to(y.dtype) for y, w in zip(outputs, weights, strict=True)]
    return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]


def weights_of(x: dict[str, Tensor]) -> list[Tensor]:
    return [torch.randn(x[name].shape).to(x[name].dtype) for name in ("q", "k", "v")]


def assert_close(x: dict[str, Tensor], weights: list[Tensor]) -> None:
    oracle_inputs = {n: t if n in ("cos", "sin") else t.double() for n, t in x.items()}
    oracle = results("reference", oracle_inputs, weights)
    ours, torchs = results("native", x, weights), results("reference", x, weights)
    for name, a, b, c in zip(NAMES, ours, torchs, oracle, strict=False):
        assert a.dtype == x["q"].dtype
        assert_as_good_as(a, b, c, name)


@pytest.mark.parametrize("level", CPU_LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_prepass_is_as_exact_as_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, level: str
) -> None:
    x = inputs(*shape, dtype)
    with force_level(level):
        assert_close(x, weights_of(x))


@pytest.mark.parametrize("level", CPU_LEVELS)
def test_bf16_is_rounded_to_nearest_even(level: str) -> None:
    # An open gate is exactly 3, and v + 3 ve is one rounding in fp32: PyTorch's bits must come out.
    x = inputs(1, 500, 1, 1, 34, torch.bfloat16)  # vectors and a remainder
    x["v"].view(-1)[:4] = torch.tensor([float("inf"), float("nan"), -0.0, 1e-40])
    x["gate"].fill_(100.0)
    with force_level(level):
        v_hat = ops.prepass(**x, **OPTIONS)[2]
    expected = (x["v"].float() + 3 * x["ve"].float()).bfloat16()
    assert v_hat.isnan().sum() == 1 and torch.equal(v_hat.isnan(), expected.isnan())
    assert same_bits(v_hat.nan_to_num(), expected.nan_to_num())


def test_prepass_without_value_embeddings_returns_v() -> None:
    x = inputs(2, 5, 2, 2, 16, torch.float32, values=False)
    assert_close(x, weights_of(x))
    assert ops.prepass(**x, **OPTIONS)[2] is x["v"]


def test_prepass_reads_views_of_a_fused_projection_and_nothing_else() -> None:
    B, T, H, D = 2, 7, 4, 48
    fused = torch.full((B, T, 3 * H + 2, D + 16), float("nan"))  # a gap after each head and row
    fused[:, :, : 3 * H, :D] = torch.randn(B, T, 3 * H, D)
    x = inputs(B, T, H, H, D, torch.float32)
    for i, name in enumerate(("q", "k", "v")):
        x[name] = fused[:, :, i * H : (i + 1) * H, :D]
    x["gate"] = x["gate"].repeat(1, 1, 2)[..., ::2]
    assert_close(x, weights_of(x))


def test_prepass_takes_one_table_per_row() -> None:
    x = inputs(3, 4, 2, 2, 32, torch.float32)
    angle = 6 * torch.rand(3, 4, 16)
    x |= {"cos": angle.cos(), "sin": angle.sin()}
    assert_close(x, weights_of(x))


def test_prepass_of_an_empty_batch() -> None:
    x = inputs(0, 4, 2, 1, 16, torch.float32)
    outputs = results("native", x, weights_of(x))
    assert [y.shape[0] for y in outputs] == [0] * 8


def test_prepass_gradient_against_finite_differences() -> None:
    x = {n: t.double() for n, t in inputs(2, 3, 4, 2, 6, torch.float32).items()}
    cos, sin = x["cos"].float(), x["sin"].float()
    leaves = [x[name].requires_grad_() for name in ("q", "k", "v", "ve", "gate")]

    def function(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        return ops.prepass(q, k, v, cos, sin, qk_scale=1.2, eps=0.3, ve=ve, gate=gate)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepass_repeats_give_the_same_bits_on_one_and_two_threads(dtype: torch.dtype) -> None:
    x = inputs(4, 129, 4, 4, 64, dtype)  # enough work for a second thread
    weights = weights_of(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = results("native", x, weights)
        torch.set_num_threads(2)
        again = [results("native", x, weights) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for outputs in again:
        assert all(same_bits(a, b) for a, b in zip(first, outputs, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.randn(2, 5, 3, 16)}, "multiple of the key/value heads, got 4 and 3"),
        ({"k": torch.randn(2, 5, 2, 18)}, r"prepass: k must have shape \(2, 5, 2, 16\), got"),
        ({"cos": torch.randn(4, 8)}, r"prepass: cos must have shape \(2, 5, 8\), got \(2, 4, 8\)"),
        ({"sin": torch.randn(5, 8).double()}, "prepass: sin must be float32, got float64"),
        ({"k": torch.randn(2, 5, 2, 16).bfloat16()}, "prepass: k must be float32, got bfloat16"),
        ({"gate": None}, "ve and gate must be given together"),
        ({"q": torch.randn(2, 5, 16, 4).mT}, "contiguous in its last dimension, got stride 4"),
        ({"qk_scale": 0.0}, "qk_scale must be positive, got 0"),
    ],
)
def test_prepass_names_the_broken_rule(change: dict[str, object], message: str) -> None:
    arguments = inputs(2, 5, 4, 2, 16, torch.float32) | OPTIONS | change
    with pytest.raises(ValueError, match=message):
        ops.prepass(**arguments)


def test_prepass_op_obeys_the_rules_of_torch_library() -> None:
    x = inputs(2, 3, 2, 2, 8, torch.float32)
    for name in ("q", "k", "v", "ve", "gate"):
        x[name].requires_grad_()
    arguments = tuple(x[n] for n in ("q", "k", "cos", "sin", "v", "ve", "gate"))
    torch.library.opcheck(torch.ops.nanochat.prepass, arguments, OPTIONS)


ATTENTION_NAMES = ("out", "dq", "dk", "dv", "dve", "dgate")


def attention_results(
    path: ops.Path, x: dict[str, Tensor], dout: Tensor, window: int | None, **options: float
) -> list[Tensor]:
    """Output of attention, and its gradients."""
    x = {
        name: tensor.detach().requires_grad_() if name not in ("cos", "sin") else tensor
        for name, tensor in x.items()
    }
    with ops.force(path):
        out = ops.attention(**x, window=window, **(OPTIONS | options))
    leaves = [x[name] for name in ("q", "k", "v", "ve", "gate") if name in x]
    return [out, *torch.autograd.grad(out, leaves, dout.to(out.dtype))]


def smallest_rms(rows: Tensor) -> float:
    return float(rows.double().square().mean(dim=-1).sqrt().min())


def assert_attention_close(
    x: dict[str, Tensor], window: int | None, **options: float
) -> list[Tensor]:
    dout = torch.randn(x["q"].shape).to(x["q"].dtype)
    exact = {n: t if n in ("cos", "sin") else t.double() for n, t in x.items()}
    oracle = attention_results("reference", exact, dout, window, **options)
    torchs = attention_results("reference", x, dout, window, **options)
    ours = attention_results("native", x, dout, window, **options)
    # Where a query sees one key, gradients of q and k are differences of numbers this large, and
    # the norm divides them by the size of its row.
    products = dout.double().norm(dim=-1) * x["v"].double().norm(dim=-1).max()
    scales = {
        f"d{name}": products.max().item() / 8 / min(1, smallest_rms(x[name])) for name in ("q", "k")
    }
    for name, a, b, c in zip(ATTENTION_NAMES, ours, torchs, oracle, strict=False):
        assert a.dtype == x["q"].dtype
        assert_as_good_as(a, b, c, name, scale=scales.get(name))
    return ours


LENGTHS = (1, 2, 31, 64, 127, 128, 129, 257, 512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 1, 127, 128, 512, None])
@pytest.mark.parametrize("T", LENGTHS)
def test_attention_is_as_exact_as_the_reference(
    T: int, window: int | None, dtype: torch.dtype
) -> None:
    group = 1 + LENGTHS.index(T) % 2  # query heads that share one of keys
    assert_attention_close(inputs(1, T, 2, 2 // group, 64, dtype, values=T % 2 == 1), window)


@pytest.mark.parametrize("level", CPU_LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("H", "Hkv", "D"), [(2, 2, 32), (2, 1, 64), (4, 1, 128), (1, 1, 36), (1, 1, 2)]
)
def test_attention_at_every_level(H: int, Hkv: int, D: int, dtype: torch.dtype, level: str) -> None:
    with force_level(level):
        assert_attention_close(inputs(2, 131, H, Hkv, D, dtype), 50)


def test_attention_of_scores_without_a_bound() -> None:
    x = inputs(1, 130, 2, 2, 64, torch.float32)
    ours = assert_attention_close(x, 70, qk_scale=6.0)  # scores up to 288: exp of them is no fp32
    assert all(y.isfinite().all() for y in ours)


def softmax_attention(x: dict[str, Tensor], window: int | None) -> Tensor:
    """One query at a time, in fp64."""
    q, k, v = reference.prepass(**{n: t.double() for n, t in x.items()}, **OPTIONS)
    B, T, H, D = q.shape
    group = H // k.shape[2]
    out = torch.empty_like(q)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                first = 0 if window is None else max(0, i - window)
                keys = k[b, first : i + 1, h // group]
                p = torch.softmax(keys @ q[b, i, h] / math.sqrt(D), dim=0)
                out[b, i, h] = p @ v[b, first : i + 1, h // group]
    return out


@pytest.mark.parametrize("path", ["native", "reference"])
@pytest.mark.parametrize("window", [None, 0, 1, 3, 8, 9, 100])
def test_attention_sees_its_window(window: int | None, path: ops.Path) -> None:
    x = inputs(2, 9, 4, 2, 16, torch.float32)
    with ops.force(path):
        out = ops.attention(**x, window=window, **OPTIONS)
    torch.testing.assert_close(out.double(), softmax_attention(x, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_reads_views_of_a_fused_projection_and_nothing_else(dtype: torch.dtype) -> None:
    B, T, H, D = 2, 100, 2, 48
    fused = torch.full((B, T, 3 * H + 1, D + 15), float("nan"), dtype=dtype)  # odd: no alignment
    fused[:, :, : 3 * H, :D] = torch.randn(B, T, 3 * H, D).to(dtype)
    x = inputs(B, T, H, H, D, dtype, values=False)
    for i, name in enumerate(("q", "k", "v")):
        x[name] = fused[:, :, i * H : (i + 1) * H, :D]
    assert_attention_close(x, 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_outside_of_the_window_are_not_read(dtype: torch.dtype) -> None:
    T, window, poisoned = 700, 20, 100
    x = inputs(1, T, 2, 1, 64, dtype, values=False)
    x["k"][:, :poisoned] = float("nan")
    x["v"][:, :poisoned] = float("inf")
    first = poisoned + window + 200  # of the queries far enough away, whatever the tiles
    dout = torch.zeros(x["q"].shape, dtype=dtype)
    out, dq, dk, dv = attention_results("native", x, dout, window)
    assert out[:, first:].isfinite().all() and dq[:, first:].isfinite().all()
    assert dk[:, first:].isfinite().all() and dv[:, first:].isfinite().all()
    assert not out[:, :poisoned].isfinite().any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("qk_scale", [1.2, 20.0])
def test_attention_of_numbers_that_are_none_ends(value: float, qk_scale: float) -> None:
    x = inputs(1, 300, 1, 1, 32, torch.bfloat16)
    x["q"][0, 250] = x["k"][0, 251] = x["v"][0, 252] = value
    results = attention_results("native", x, torch.ones(x["q"].shape), 8, qk_scale=qk_scale)
    assert results[0][0, :150].isfinite().all()


def test_attention_of_an_empty_batch() -> None:
    x = inputs(0, 4, 2, 1, 16, torch.float32)
    assert [y.shape[0] for y in attention_results("native", x, x["q"], None)] == [0] * 6


def test_attention_gradient_against_finite_differences() -> None:
    x = {n: t.double() for n, t in inputs(1, 9, 4, 2, 6, torch.float32).items()}
    cos, sin = x["cos"].float(), x["sin"].float()
    leaves = [x[name].requires_grad_() for name in ("q", "k", "v", "ve", "gate")]

    def function(q: Tensor, k: Tensor, v: Tensor, ve: Tensor, gate: Tensor) -> Tensor:
        return ops.attention(q, k, v, cos, sin, window=4, eps=0.3, ve=ve, gate=gate)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_repeats_give_the_same_bits_on_one_and_two_threads(dtype: torch.dtype) -> None:
    x = inputs(2, 260, 4, 2, 64, dtype)  # enough work for a second thread
    dout = torch.randn(x["q"].shape).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = attention_results("native", x, dout, 100)
        torch.set_num_threads(2)
        again = [attention_results("native", x, dout, 100) for _ in range(3)]
        torch.set_num_threads(3)  # ranges that begin inside of a head
        again.append(attention_results("native", x, dout, 100))
    finally:
        torch.set_num_threads(before)
    for outputs in again:
        assert all(same_bits(a, b) for a, b in zip(first, outputs, strict=True))


def test_attention_is_one_node_of_the_graph() -> None:
    x = inputs(1, 4, 2, 2, 8, torch.float32)
    for name in ("q", "k", "v", "ve", "gate"):
        x[name].requires_grad_()
    node = ops.attention(**x, **OPTIONS).grad_fn
    assert node is not None
    inner = [parent for parent, _ in node.next_functions if parent is not None]
    assert [type(parent).__name__ for parent in inner] == ["AccumulateGrad"] * 5


def test_attention_under_checkpointing_gives_the_same_bits() -> None:
    x = inputs(1, 20, 2, 2, 32, torch.float32)
    x["q"].requires_grad_()

    def run(q: Tensor) -> Tensor:
        return ops.attention(**(x | {"q": q}), window=5, **OPTIONS).square().sum()

    (plain,) = torch.autograd.grad(run(x["q"]), x["q"])
    recomputed = torch.utils.checkpoint.checkpoint(run, x["q"], use_reentrant=False)
    (gradient,) = torch.autograd.grad(recomputed, x["q"])
    assert same_bits(plain, gradient)


def test_attention_refuses_a_negative_window() -> None:
    with pytest.raises(ValueError, match="window must not be negative, got -1"):
        ops.attention(**inputs(1, 2, 1, 1, 4, torch.float32), window=-1)


def test_attention_wants_the_gate_with_the_values() -> None:
    x = inputs(1, 2, 1, 1, 4, torch.float32)
    del x["gate"]
    with pytest.raises(ValueError, match="attention: ve and gate must be given together"):
        ops.attention(**x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.randn(2, 5, 4, 15)}, "head_dim must be even and positive, got 15"),
        ({"k": torch.randn(2, 5, 3, 16)}, "multiple of the key/value heads, got 4 and 3"),
        ({"v": torch.randn(2, 4, 2, 16)}, r"attention: v must have shape \(2, 5, 2, 16\), got"),
        ({"lse": torch.empty(2, 4, 5).double()}, "attention: lse must be float32, got float64"),
        ({"lse": torch.empty(2, 5, 4).mT}, "attention: lse must be contiguous"),
        ({"window": -1}, "attention: window must not be negative, got -1"),
        ({"scale": 0.0}, "attention: scale must be positive, got 0"),
        ({"score_bound": 50.0}, "attention: score_bound must be between 0 and 40, got 50"),
    ],
)
def test_attention_names_the_broken_rule(change: dict[str, Any], message: str) -> None:
    tensors = {
        "q": torch.randn(2, 5, 4, 16),
        "k": torch.randn(2, 5, 2, 16),
        "v": torch.randn(2, 5, 2, 16),
        "out": torch.empty(2, 5, 4, 16),
        "lse": torch.empty(2, 4, 5),
    }
    options: dict[str, Any] = {"window": 5, "scale": 1.0, "score_bound": 0.0}
    tensors |= {name: t for name, t in change.items() if name in tensors}
    options |= {name: t for name, t in change.items() if name in options}
    views = [native.view(tensor) for tensor in tensors.values()]
    with pytest.raises(ValueError, match=message):
        _core.attention_forward(native.placement(tensors["q"]), *views, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_deterministic": False}, "dq_sum must be given where is_deterministic is false"),
        ({"dq_sum": torch.empty(2, 4, 64, 16)}, "dq_sum must be given .* only there"),
        (
            {"dq_sum": torch.empty(2, 4, 5, 16), "is_deterministic": False},
            r"dq_sum must have shape \(2, 4, 64, 16\), got",
        ),
        (
            {"dq_sum": torch.empty(2, 4, 64, 16).double(), "is_deterministic": False},
            "dq_sum must be float32, got float64",
        ),
        (
            {"dq_sum": torch.empty(2, 4, 16, 64).mT, "is_deterministic": False},
            "dq_sum must be contiguous",
        ),
        ({"cos": torch.empty(2, 5, 16)}, r"attention: cos must have shape \(2, 5, 8\), got"),
        ({"sin": torch.empty(2, 5, 8).double()}, "attention: sin must be float32, got float64"),
        ({"k_inv_rms": torch.empty(2, 5, 4)}, r"k_inv_rms must have shape \(2, 5, 2\), got"),
        ({"q_inv_rms": torch.empty(2, 5, 4).bfloat16()}, "q_inv_rms must be float32, got bfloat16"),
        ({"qk_scale": 0.0}, "attention: qk_scale must be positive, got 0"),
    ],
)
def test_attention_backward_names_the_broken_rule(change: dict[str, Any], message: str) -> None:
    q, k, statistics = torch.randn(2, 5, 4, 16), torch.randn(2, 5, 2, 16), torch.empty(2, 4, 5)
    tensors: dict[str, Tensor | None] = {
        "dout": q, "q": q, "k": k, "v": k, "out": q, "lse": statistics,
        "q_inv_rms": torch.empty(2, 5, 4), "k_inv_rms": torch.empty(2, 5, 2),
        "cos": torch.empty(2, 5, 8), "sin": torch.empty(2, 5, 8),
        "delta": statistics, "dq": torch.empty_like(q), "dk": torch.empty_like(k),
        "dv": torch.empty_like(k), "dq_sum": None,
    }  # fmt: skip
    options: dict[str, Any] = {"window": 5, "scale": 1.0, "qk_scale": 1.0, "is_deterministic": True}
    tensors |= {name: t for name, t in change.items() if name in tensors}
    options |= {name: t for name, t in change.items() if name in options}
    views = [native.view_or_none(tensor) for tensor in tensors.values()]
    with pytest.raises(ValueError, match=message):
        _core.attention_backward(native.placement(q), *views, **options)


def test_attention_backward_hands_a_workspace_to_hopper_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = inputs(1, 70, 2, 1, 8, torch.float32)
    seen = []
    backward = _core.attention_backward

    def spy(*args: Any, **options: Any) -> None:
        seen.append((args[-1] and args[-1][1], options["is_deterministic"]))
        backward(*args, **options)

    def gradient() -> Tensor:
        q = x["q"].detach().requires_grad_()
        ops.attention(**(x | {"q": q})).sum().backward()
        assert q.grad is not None
        return q.grad

    monkeypatch.setattr(_core, "attention_backward", spy)
    with ops.force("hopper"):
        plain = gradient()
        monkeypatch.setattr(native, "may_run_on_hopper", lambda where: True)
        assert torch.equal(gradient(), plain), "the CPU takes no notice"
    gradient()
    assert seen == [(None, True), ((1, 2, 128, 8), False), (None, True)]


def test_attention_op_obeys_the_rules_of_torch_library() -> None:
    x = inputs(2, 3, 2, 2, 8, torch.float32)
    for name in ("q", "k", "v", "ve", "gate"):
        x[name].requires_grad_()
    arguments = tuple(x[n] for n in ("q", "k", "v", "cos", "sin", "ve", "gate"))
    torch.library.opcheck(torch.ops.nanochat.attention, arguments, {"window": 1, **OPTIONS})


def test_attention_compiles_into_one_graph() -> None:
    x = inputs(1, 6, 2, 2, 8, torch.float32)
    x["q"].requires_grad_()

    def loss() -> Tensor:
        return ops.attention(**x, window=2, **OPTIONS).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(loss(), x["q"])
    (compiled_gradient,) = torch.autograd.grad(compiled(), x["q"])
    torch.testing.assert_close(compiled_gradient, gradient)
