"""Which parameter learns how: names of the model on the left, optimizer and rates on the right.

Rates were tuned upstream at width 768 and batches of 2^19 tokens. Those of the tables and the head
shrink with the square root of the width; all but those of smear and backout grow with the square
root of the batch, a factor that the caller passes as ``batch_lr_scale``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates at width 768 and 2^19 tokens per batch."""

    matrix: float = 0.02  # Muon
    lm_head: float = 0.008
    wte: float = 0.3
    value_embeds: float = 0.15
    resid_lambdas: float = 0.005  # a hundredth of x0's: each multiplies the whole stream
    x0_lambdas: float = 0.5
    smear: float = 0.2  # its gate and lambda, and backout's lambda


DEFAULT_RATES = Rates()


class _Rule(NamedTuple):
    label: str
    names: tuple[str, ...]  # patterns as of a shell
    lr: float
    betas: tuple[float, float]
    weight_decay: float

    def matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.names)


def build_groups(
    model: nn.Module,
    *,
    n_embd: int,
    batch_lr_scale: float = 1.0,
    weight_decay: float = 0.28,
    rates: Rates = DEFAULT_RATES,
) -> list[dict[str, Any]]:
    """Parameter groups for :class:`MuonAdamW`, each parameter of ``model`` in exactly one.

    Args:
        batch_lr_scale: ``Plan.lr_scale``.
        weight_decay: Of Muon's matrices at the start of the run: ``Plan.weight_decay``.
    Returns: Dicts with ``label``, ``initial_lr`` and, for Muon, ``initial_weight_decay`` beside
        what the optimizer needs; a :class:`Schedule` works from the initial values.
    Raises: ValueError for a parameter that no rule covers.
    """
    s = math.sqrt(768 / n_embd) * batch_lr_scale
    b = batch_lr_scale
    smear_names = ("smear_gate.weight", "smear_lambda", "backout_lambda")
    rules = (
        _Rule("lm_head", ("lm_head.weight",), rates.lm_head * s, (0.8, 0.96), 0.01),
        _Rule("wte", ("transformer.wte.weight",), rates.wte * s, (0.8, 0.995), 0.001),
        _Rule("value_embeds", ("value_embeds.*",), rates.value_embeds * s, (0.8, 0.995), 0.01),
        _Rule("resid_lambdas", ("resid_lambdas",), rates.resid_lambdas * b, (0.8, 0.95), 0.05),
        _Rule("x0_lambdas", ("x0_lambdas",), rates.x0_lambdas * b, (0.96, 0.95), 0.0),
        _Rule("smear", smear_names, rates.smear, (0.8, 0.95), 0.0),
    )
    groups: dict[str, dict[str, Any]] = {}
    for name, param in model.named_parameters():
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None:
            settings = {
                "label": rule.label,
                "kind": "adamw",
                "betas": rule.betas,
                "eps": 1e-10,
                "lr": rule.lr,
                "weight_decay": rule.weight_decay,
            }
        elif fnmatchcase(name, "transformer.h.*") and param.ndim == 2:
            settings = {
                "label": f"matrix {param.shape[0]}x{param.shape[1]}",
                "kind": "muon",
                "momentum": 0.95,
                "beta2": 0.9,
                "lr": rates.matrix * b,
                "weight_decay": weight_decay,
                "initial_weight_decay": weight_decay,
            }
        else:
            raise ValueError(f"groups: no rule for parameter {name} of shape {tuple(param.shape)}")
        settings |= {"initial_lr": settings["lr"], "params": [], "names": []}
        group = groups.setdefault(str(settings["label"]), settings)
        group["params"].append(param)
        group["names"].append(name)
    return list(groups.values())
