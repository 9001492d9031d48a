"""Which path runs is known, can be forced, and a slow one says so once."""

from __future__ import annotations

import warnings
from importlib import import_module

import pytest
import torch

from nanochat import _core, ops
from nanochat.ops.backends import choose

module = import_module("nanochat.ops.backends")  # its name in the package is the function


def test_every_op_says_its_path_and_why() -> None:
    rows = {row.op: row for row in ops.backends() if row.device == "cpu"}
    assert rows.keys() == {"prepass", "attention", "cross_entropy"}
    assert rows["prepass"].path == rows["cross_entropy"].path == "native"
    assert all(row.reason for row in ops.backends())


def test_cuda_is_the_reference_until_it_has_run_on_hardware() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert choose("prepass", "cuda", torch.bfloat16) == "reference"
    with ops.force("native"):
        assert choose("prepass", "cuda", torch.bfloat16) == "native"


def test_a_slow_path_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_warned", set())
    x = torch.randn(3, 4, dtype=torch.float16)
    weight, targets = torch.randn(8, 4, dtype=torch.float16), torch.tensor([0, 1, 2])
    with pytest.warns(UserWarning, match="cross_entropy runs the PyTorch reference: no native"):
        ops.cross_entropy(x, weight, targets)
    ops.cross_entropy(x, weight, targets)  # warnings are errors: a second one would fail


def test_force_ends_with_its_context_and_asks_for_no_warning() -> None:
    with ops.force("reference"):
        assert choose("prepass", "cpu", torch.float32) == "reference"
        assert {row.reason for row in ops.backends() if row.op == "prepass"} == {"forced"}
    assert choose("prepass", "cpu", torch.float32) == "native"


def test_force_refuses_a_level_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPU_LEVEL", 0)
    message = "cpu_level must be at most base here, got avx512"
    with pytest.raises(ValueError, match=message), ops.force(cpu_level="avx512"):
        pass


def test_the_core_imports_and_counts_devices_without_a_driver() -> None:
    devices = _core.cuda_devices()
    assert isinstance(_core.cuda_built(), bool)
    assert len(devices) == torch.cuda.device_count() or not _core.cuda_built()
