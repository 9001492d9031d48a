"""Which path runs is known, can be forced, and a slow one says so once."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch

from nanochat import _core, ops
from nanochat.ops import probes
from nanochat.ops.backends import OPS, allows_any_order, allows_hopper, choose

module = import_module("nanochat.ops.backends")  # its name in the package is the function

BF16 = torch.bfloat16


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, str], str]]:
    """What probes say on a machine with a GPU: that all is well, except for what a test puts in."""
    said: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(probes, "verdict", lambda op, path: said.get((op, path), ""))
    monkeypatch.setattr(module, "_warned", set())
    yield said


def path_on_cuda(op: str, dtype: torch.dtype | None = None, *, fits: bool = True) -> str:
    path: str = module._select(op, "cuda", dtype, fits, module._forced.path)[0]
    return path


def test_every_op_says_its_path_and_why() -> None:
    rows = [row for row in ops.backends() if row.device == "cpu"]
    assert [row.op for row in rows] == list(OPS)
    assert {row.path for row in rows} == {"native"}
    assert all(row.reason for row in ops.backends())


def test_our_cuda_kernels_are_no_default_until_they_ran_on_hardware(
    verdicts: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path_on_cuda("prepass") == "reference"
    assert path_on_cuda("attention") == "flash_attn"
    verdicts["attention", "flash_attn"] = "not installed"
    path, reason = module._select("attention", "cuda", BF16, True, None)
    assert path == "torch"
    assert reason == (
        "hopper and portable: not verified on hardware yet, opt in with ops.force('native'); "
        "flash_attn: not installed"
    )
    monkeypatch.setattr(module, "VERIFIED", frozenset({("attention", "portable")}))
    assert path_on_cuda("attention") == "portable"
    assert module._select("attention", "cuda", torch.float32, True, None)[0] == "torch"
    assert module._select("attention", "cuda", BF16, False, None)[0] != "portable", "head_dim"


def test_force_names_the_rung_to_start_at(verdicts: dict[tuple[str, str], str]) -> None:
    starts = {"native": "hopper", "hopper": "hopper", "portable": "portable", "torch": "torch"}
    for forced, path in starts.items():
        with ops.force(forced):
            assert path_on_cuda("attention", BF16) == path
            assert allows_hopper("attention") == (path == "hopper")
    with ops.force("hopper"):
        assert path_on_cuda("prepass") == "portable", "the next one that the op has"
        assert choose("prepass", "cuda", BF16) == "native", "any kernels of ours"
    with ops.force("native"):
        assert choose("cross_entropy", "cpu", BF16) == "native"


def test_any_order_of_sums_is_for_who_asks_for_hopper_by_name() -> None:
    assert not allows_any_order()
    for forced in ("native", "portable", "reference"):
        with ops.force(forced):
            assert not allows_any_order()
    with ops.force("hopper"):
        assert allows_any_order()
        torch.use_deterministic_algorithms(True)
        try:
            assert not allows_any_order()
        finally:
            torch.use_deterministic_algorithms(False)


def test_a_path_that_fails_its_probe_is_passed_over(verdicts: dict[tuple[str, str], str]) -> None:
    verdicts["attention", "hopper"] = "the probe got a wrong result, relative error 0.5"
    with ops.force("native"):
        path, reason = module._select("attention", "cuda", BF16, True, "native")
        assert path == "portable" and not allows_hopper("attention")
        assert reason == "forced; hopper: the probe got a wrong result, relative error 0.5"
        assert choose("attention", "cuda", BF16) == "native"


def test_head_dims_without_a_kernel_take_the_next_path(
    verdicts: dict[tuple[str, str], str],
) -> None:
    with ops.force("native"):
        assert choose("attention", "cuda", BF16, head_dim=128) == "native"
        assert choose("attention", "cuda", BF16, head_dim=96) == "flash_attn"
        with pytest.warns(UserWarning, match=r"reference: forced; .*only for \(64, 128\)"):
            assert choose("prepass", "cuda", BF16, head_dim=96) == "reference"
        assert choose("attention", "cpu", BF16, head_dim=96) == "native"


def test_a_slow_path_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_warned", set())
    x = torch.randn(3, 4, dtype=torch.float16)
    weight, targets = torch.randn(8, 4, dtype=torch.float16), torch.tensor([0, 1, 2])
    with pytest.warns(UserWarning, match="cross_entropy runs the PyTorch reference: native: no k"):
        ops.cross_entropy(x, weight, targets)
    ops.cross_entropy(x, weight, targets)  # warnings are errors: a second one would fail


def test_force_ends_with_its_context_and_asks_for_no_warning() -> None:
    with ops.force("reference"):
        assert choose("prepass", "cpu", torch.float32) == "reference"
        assert {row.reason for row in ops.backends() if row.op == "prepass"} == {"forced"}
    assert choose("prepass", "cpu", torch.float32) == "native"


def test_force_refuses_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_LEVEL", 0)
    message = "cpu_level must be at most base here, got avx512"
    with pytest.raises(ValueError, match=message), ops.force(cpu_level="avx512"):
        pass
    message = "path must be one of hopper, portable, .*, got 'fast'"
    with pytest.raises(ValueError, match=message), ops.force("fast"):  # type: ignore[arg-type]
        pass


def test_compiled_code_follows_force_and_carries_no_probe(
    verdicts: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def verdict(op: str, path: str) -> str:
        calls.append(path)
        torch.zeros(3).sum().item()  # would break the graph if it were traced
        return ""

    monkeypatch.setattr(probes, "verdict", verdict)

    def f(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if choose("prepass", "cuda", BF16) == "native" else x - 1

    torch.compiler.reset()
    compiled = torch.compile(f, backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="prepass runs the PyTorch reference"):
        assert compiled(torch.zeros(())) == -1
    with ops.force("native"):
        assert compiled(torch.zeros(())) == 1
        assert compiled(torch.ones(())) == 2
    assert compiled(torch.zeros(())) == -1
    assert calls == ["portable"], "asked while tracing, not when run"


def test_the_core_imports_and_counts_devices_without_a_driver() -> None:
    devices = _core.cuda_devices()
    assert isinstance(_core.cuda_built(), bool)
    assert len(devices) == torch.cuda.device_count() or not _core.cuda_built()
