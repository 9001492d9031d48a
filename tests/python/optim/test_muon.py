"""One rank's share of a stack of matrices: updated in place, nothing stacked with one rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nanochat import ops
from nanochat.optim.collectives import World
from nanochat.optim.muon import MuonStack

SETTINGS = {"lr": 0.02, "momentum": 0.9, "beta2": 0.9, "weight_decay": 0.3}


def build(shape: tuple[int, int]) -> tuple[list[nn.Parameter], MuonStack]:
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(3)]
    names = ["a", "b", "c"]
    return params, MuonStack(names, params, SETTINGS, World(0, 1), inner_dtype=torch.float32)


def run(params: list[nn.Parameter], stack: MuonStack, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        stack.launch_reduce()
        stack.update()
        stack.finish()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_is_the_op_on_the_parameters_themselves(shape: tuple[int, int]) -> None:
    params, stack = build(shape)
    expected = [param.detach().clone() for param in params]
    addresses = [param.data_ptr() for param in params]
    run(params, stack, range(1))
    assert [param.data_ptr() for param in params] == addresses
    m, n = shape
    second = torch.zeros((3, m, 1) if m >= n else (3, 1, n))
    grads = [param.grad for param in params]
    ops.muon(
        grads, expected, torch.zeros(3, m, n), second, **SETTINGS, inner_dtype=torch.float32
    )  # fmt: skip
    assert all(torch.equal(p, q) for p, q in zip(params, expected, strict=True))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_states_are_named_after_each_matrix(shape: tuple[int, int]) -> None:
    params, stack = build(shape)
    run(params, stack, range(2))
    state = {key: tensor.clone() for key, tensor in stack.full_state()}
    m, n = shape
    second = (m, 1) if m >= n else (1, n)
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
        f"{name}/{key}": wanted
        for key, wanted in (("momentum", shape), ("second_moment", second))
        for name in "abc"
    }
    assert all(stack.state_shapes()[key] == tensor.shape for key, tensor in state.items())

    copies, resumed = build(shape)
    for copy, param in zip(copies, params, strict=True):
        copy.data.copy_(param.data)
    resumed.load(state)
    run(copies, resumed, range(2, 4))
    run(params, stack, range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
