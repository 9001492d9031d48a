"""Every parameter of both presets in one group, with the published settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn

from nanochat.model import GPT, GPTConfig
from nanochat.optim import Rates, build_groups


def groups_of(arch: Any = "modern", **options: Any) -> dict[str, dict[str, Any]]:
    config = GPTConfig.from_depth(4, arch=arch, vocab_size=256, seq_len=64, head_dim=64)
    groups = build_groups(GPT(config), n_embd=config.n_embd, **options)
    return {group["label"]: group for group in groups}


@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_every_parameter_once(arch: Any) -> None:
    config = GPTConfig.from_depth(4, arch=arch, vocab_size=256, seq_len=64, head_dim=64)
    model = GPT(config)
    groups = build_groups(model, n_embd=config.n_embd)
    pairs = [p for g in groups for p in zip(g["names"], g["params"], strict=True)]
    assert len(pairs) == len(dict(model.named_parameters()))
    assert all(dict(model.named_parameters())[name] is param for name, param in pairs)


def test_published_settings() -> None:
    groups = groups_of()
    s = math.sqrt(768 / 256)
    expected = {
        "lm_head": (0.008 * s, (0.8, 0.96), 0.01),
        "wte": (0.3 * s, (0.8, 0.995), 0.001),
        "value_embeds": (0.15 * s, (0.8, 0.995), 0.01),
        "resid_lambdas": (0.005, (0.8, 0.95), 0.05),
        "x0_lambdas": (0.5, (0.96, 0.95), 0.0),
        "smear": (0.2, (0.8, 0.95), 0.0),
    }
    for label, (lr, betas, decay) in expected.items():
        group = groups.pop(label)
        assert group["kind"] == "adamw"
        assert group["initial_lr"] == pytest.approx(lr)
        assert (group["betas"], group["weight_decay"], group["eps"]) == (betas, decay, 1e-10)
    assert {label: len(group["params"]) for label, group in groups.items()} == {
        "matrix 256x256": 16,
        "matrix 1024x256": 4,
        "matrix 256x1024": 4,
        "matrix 4x12": 2,
    }
    for group in groups.values():
        assert (group["kind"], group["initial_lr"], group["beta2"]) == ("muon", 0.02, 0.9)
        assert group["initial_weight_decay"] == 0.28


def test_smear_group_holds_gate_and_both_lambdas() -> None:
    names = set(groups_of()["smear"]["names"])
    assert names == {"smear_gate.weight", "smear_lambda", "backout_lambda"}


def test_batch_scale_reaches_all_but_smear() -> None:
    plain, scaled = groups_of(), groups_of(batch_lr_scale=0.5)
    for label, group in plain.items():
        factor = 1.0 if label == "smear" else 0.5
        assert scaled[label]["lr"] == pytest.approx(factor * group["lr"])


def test_rates_and_weight_decay_are_arguments() -> None:
    groups = groups_of(rates=Rates(matrix=0.01, wte=0.1), weight_decay=0.0)
    assert groups["matrix 4x12"]["lr"] == 0.01
    assert groups["matrix 4x12"]["weight_decay"] == 0.0
    assert groups["wte"]["lr"] == pytest.approx(0.1 * math.sqrt(3))


@pytest.mark.parametrize("name", ["extra.weight", "transformer.h.0.norm.weight"])
def test_unknown_parameters_are_refused(name: str) -> None:
    model = nn.Module()
    module = model
    *path, last = name.removesuffix(".weight").split(".")
    for part in path:
        module.add_module(part, child := nn.Module())
        module = child
    module.add_module(last, nn.LayerNorm(8, bias=False))
    with pytest.raises(
        ValueError, match=rf"^groups: no rule for parameter {name} of shape \(8,\)$"
    ):
        build_groups(model, n_embd=8)
