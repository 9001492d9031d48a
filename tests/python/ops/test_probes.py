"""A probe finds what is wrong, says it once, and leaves no trace in what its caller does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nanochat.ops import probes

CPU = torch.device("cpu")


def problem(ours: probes.Function) -> probes.Problem:
    return probes.Problem(ours, lambda x: (x.square(),), [torch.linspace(1, 2, 7)])


@pytest.mark.parametrize("op", probes.PROBLEMS)
def test_kernels_that_are_right_solve_their_problem(op: str) -> None:
    before = torch.random.get_rng_state()
    assert probes.launch(op, "portable", CPU) == ""
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's draws stay his"


@pytest.mark.parametrize("op", probes.PROBLEMS)
def test_the_modes_of_the_caller_do_not_reach_the_probe(op: str) -> None:
    with FakeTensorMode(), torch.inference_mode():
        assert probes.launch(op, "portable", CPU) == ""
    with torch.device("meta"), torch.no_grad():
        assert probes.launch(op, "portable", CPU) == ""


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.square()

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> Tensor:
        return dy


def raises(x: Tensor) -> Sequence[Tensor]:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        (lambda x: (x.square(),), ""),
        (lambda x: (x.square() * 1.1,), "the probe got a wrong result, relative error 0.1"),
        (lambda x: (x.square() / 0,), "the probe got a wrong result, relative error inf"),
        (lambda x: (x.square() * torch.nan,), "the probe got a wrong result, relative error nan"),
        (lambda x: (WrongGradient.apply(x),), "the probe got a wrong result, relative error 0.73"),
        (raises, "the probe failed: RuntimeError: no kernel image is available"),
    ],
)
def test_what_is_wrong_is_a_reason(
    ours: probes.Function, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(probes.PROBLEMS, "square", lambda _: problem(ours))
    assert probes.launch("square", "portable", CPU) == reason


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is missing, with probes that run on the CPU."""
    monkeypatch.setattr(probes, "_verdicts", {})
    monkeypatch.setattr(probes, "_missing", lambda path: "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    launch = probes.launch
    monkeypatch.setattr(probes, "launch", lambda op, path, _: launch(op, path, CPU))


@pytest.mark.usefixtures("device")
def test_a_probe_runs_once_in_a_thread_that_knows_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[object] = []

    def ours(x: Tensor) -> Sequence[Tensor]:
        y = x.square()
        y.register_hook(lambda dy: paths.append(probes.in_this_thread()))
        paths.append(probes.in_this_thread())
        return (y,)

    monkeypatch.setitem(probes.PROBLEMS, "square", lambda _: problem(ours))
    assert [probes.verdict("square", "hopper") for _ in range(3)] == ["", "", ""]
    assert paths == [("square", "hopper")] * 2, "in the backward, too"
    assert probes.in_this_thread() is None


@pytest.mark.usefixtures("device")
def test_a_failure_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.PROBLEMS, "square", lambda _: problem(raises))
    with pytest.warns(UserWarning, match="square passes over its portable path: the probe failed"):
        reason = probes.verdict("square", "portable")
    assert probes.verdict("square", "portable") == reason  # warnings are errors


@pytest.mark.usefixtures("device")
def test_no_probe_during_the_capture_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.PROBLEMS, "square", lambda _: problem(lambda x: (x.square(),)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert "call it once outside" in probes.verdict("square", "portable")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert probes.verdict("square", "portable") == "", "the refusal is not remembered"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert probes.verdict("square", "portable") == ""


@pytest.mark.parametrize(
    ("capability", "path", "reason"),
    [
        ((9, 0), "hopper", ""),
        ((12, 0), "hopper", "needs compute capability 9.0, got 12.0"),
        ((12, 0), "portable", ""),
        ((8, 0), "portable", ""),
        ((7, 5), "portable", "needs compute capability 8.0 or more, got 7.5"),
    ],
)
def test_what_a_machine_lacks_needs_no_launch(
    capability: tuple[int, int], path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(probes._core, "cuda_built", lambda: True)
    assert probes._missing(path) == reason
    monkeypatch.setattr(probes._core, "cuda_built", lambda: False)
    assert "install nvcc and build again" in probes._missing(path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert probes._missing(path) == "no CUDA device"
