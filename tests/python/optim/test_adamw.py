"""One rank's share of AdamW's tensors: updated in place, all of a group in one pass."""

from __future__ import annotations

import torch
from torch import nn

from nanochat import ops
from nanochat.optim.adamw import AdamWList
from nanochat.optim.collectives import World

SETTINGS = {"lr": 0.03, "betas": (0.8, 0.96), "eps": 1e-10, "weight_decay": 0.1}


def build() -> tuple[list[nn.Parameter], AdamWList]:
    params = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.tensor(1.0))]
    return params, AdamWList(["table", "scalar"], params, SETTINGS, World(0, 1))


def run(params: list[nn.Parameter], part: AdamWList, steps: int) -> None:
    for _ in range(steps):
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        part.launch_reduce()
        part.update()
        part.finish()


def test_is_the_op_on_the_parameters_themselves() -> None:
    params, part = build()
    addresses = [param.data_ptr() for param in params]
    run(params, part, 2)
    assert [param.data_ptr() for param in params] == addresses
    expected = [torch.ones(4, 3), torch.tensor(1.0)]
    grads = [torch.full_like(p, 0.5) for p in expected]
    moments = [[torch.zeros_like(p) for p in expected] for _ in range(2)]
    for step in (1, 2):
        ops.adamw(expected, grads, *moments, step=step, **SETTINGS)
    assert all(torch.equal(p, q) for p, q in zip(params, expected, strict=True))


def test_states_are_named_after_each_tensor() -> None:
    params, part = build()
    run(params, part, 3)
    state = dict(part.full_state())
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
        "table/step": (),
        "table/exp_avg": (4, 3),
        "table/exp_avg_sq": (4, 3),
        "scalar/step": (),
        "scalar/exp_avg": (),
        "scalar/exp_avg_sq": (),
    }
    assert {key: tuple(shape) for key, shape in part.state_shapes().items()} == {
        key: tuple(tensor.shape) for key, tensor in state.items()
    }
    assert int(state["table/step"]) == int(state["scalar/step"]) == 3

    copies, resumed = build()
    for copy, param in zip(copies, params, strict=True):
        copy.data.copy_(param.data)
    resumed.load({key: tensor.clone() for key, tensor in state.items()})
    run(copies, resumed, 1)
    run(params, part, 1)
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
