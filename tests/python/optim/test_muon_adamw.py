"""The optimizer in one process: what it steps, what it saves, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanochat.common.ranks import compute_dtype
from nanochat.model import GPT, GPTConfig
from nanochat.optim import MuonAdamW, Schedule, build_groups

CONFIG = GPTConfig(n_layer=3, n_head=2, n_kv_head=2, n_embd=64, vocab_size=128, seq_len=32)


def build(config: GPTConfig = CONFIG, **options: Any) -> tuple[GPT, MuonAdamW]:
    model = GPT(config)
    model.init_weights(seed=1)
    return model, MuonAdamW(build_groups(model, n_embd=config.n_embd), **options)


def train(model: GPT, optimizer: MuonAdamW, steps: range) -> list[float]:
    schedule = Schedule(num_steps=12)
    ids = torch.randint(0, 128, (4, 33), generator=torch.Generator().manual_seed(5))
    losses = []
    for step in steps:
        schedule.apply(optimizer.param_groups, step)
        optimizer.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_it_learns(arch: Any) -> None:
    config = GPTConfig(
        n_layer=2, n_head=2, n_kv_head=2, n_embd=64, vocab_size=128, seq_len=32, arch=arch
    )
    losses = train(*build(config), range(12))
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_moves() -> None:
    model, optimizer = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, range(4))  # matrices behind a zero projection learn from the second on
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_resumed_equals_undisturbed_bit_for_bit() -> None:
    model, optimizer = build()
    train(model, optimizer, range(3))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = optimizer.full_state()
    copy = {key: tensor.clone() for key, tensor in state.items()}
    train(model, optimizer, range(3, 6))
    assert all(torch.equal(state[key], copy[key]) for key in copy)  # a snapshot, not a view

    resumed, second = build()
    resumed.load_state_dict(weights)
    second.load_full_state(state)
    train(resumed, second, range(3, 6))
    for (name, p), q in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name
    final = optimizer.full_state()
    assert final.keys() == second.full_state().keys()
    assert all(torch.equal(tensor, final[key]) for key, tensor in second.full_state().items())


def test_state_is_named_after_parameters() -> None:
    model, optimizer = build()
    train(model, optimizer, range(2))
    state = optimizer.full_state()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert shapes["transformer.wte.weight/exp_avg"] == (128, 64)
    assert shapes["transformer.h.1.mlp.c_fc.weight/momentum"] == (256, 64)
    assert shapes["transformer.h.1.mlp.c_fc.weight/second_moment"] == (256, 1)
    assert shapes["transformer.h.1.mlp.c_proj.weight/second_moment"] == (1, 256)
    assert int(state["resid_lambdas/step"]) == 2
    names = {key.rpartition("/")[0] for key in state}
    assert names == {name for name, _ in model.named_parameters()}


def test_bad_states_are_refused_and_change_nothing() -> None:
    _, optimizer = build()
    state = optimizer.full_state()
    del state["lm_head.weight/exp_avg"]
    with pytest.raises(ValueError, match=r"1 keys are missing or unknown, first lm_head\.weight"):
        optimizer.load_full_state(state)
    state["lm_head.weight/exp_avg"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"lm_head.weight/exp_avg must have shape \(128, 64\)"):
        optimizer.load_full_state(state)
    assert not any(tensor.any() for tensor in optimizer.full_state().values())


def test_torch_state_dict_is_refused() -> None:
    _, optimizer = build()
    with pytest.raises(NotImplementedError, match="use full_state"):
        optimizer.state_dict()
    with pytest.raises(NotImplementedError, match="use load_full_state"):
        optimizer.load_state_dict({})


def test_inner_dtype_is_resolved_once() -> None:
    assert build()[1].inner_dtype == compute_dtype("cpu")
    assert build(inner_dtype=torch.float32)[1].inner_dtype == torch.float32


def test_missing_gradient_is_refused_before_anything_moves() -> None:
    model, optimizer = build()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.lm_head.weight.grad = None
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"needs a gradient, lm_head\.weight has none"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def group(*shapes: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    params: list[Tensor] = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    base = {
        "kind": "muon",
        "params": params,
        "names": [f"w{i}" for i in range(len(shapes))],
        "lr": 0.1,
        "momentum": 0.9,
        "beta2": 0.9,
        "weight_decay": 0.0,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (group((2, 2), kind="sgd"), r"kind must be one of \['adamw', 'muon'\], got 'sgd'"),
        (group((2, 2), kind="adamw"), "a adamw group needs betas, eps"),
        (group((2, 2), lr=None), "a muon group needs lr"),
        (group((2, 2), names=["a", "b"]), "names must match params, got 2 names, 1 params"),
        (group((2, 2), (2, 2), names=["a", "a"]), "names must be unique, got a twice"),
        (group((2, 2), (2, 3)), r"matrices of one shape, got \[\(2, 2\), \(2, 3\)\]"),
        (group((2, 2, 2)), r"matrices of one shape, got \[\(2, 2, 2\)\]"),
    ],
)
def test_bad_groups_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MuonAdamW([bad])


def test_names_are_unique_over_groups() -> None:
    with pytest.raises(ValueError, match="names must be unique, got w0 twice"):
        MuonAdamW([group((2, 2)), group((3, 2))])
