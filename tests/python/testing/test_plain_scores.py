"""Plain scores by hand: a model of four tokens whose logits are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanochat.evals.likelihood import TokenRow
from nanochat.testing.plain_scores import plain_scores


def counting(ids: Tensor) -> Tensor:
    """After i comes i + 1 with logit 3, i itself with 1, the others with 0."""
    one_hot = torch.eye(4)
    return 3 * one_hot[(ids + 1) % 4] + one_hot[ids]


def test_scores_and_margins() -> None:
    total = math.log(math.exp(3) + math.exp(1) + 2)
    rows = [TokenRow([0, 1, 2, 3], 2), TokenRow([0, 1, 1], 1)]
    right, wrong = plain_scores(counting, rows, pad=0)
    assert (right.score.num_tokens, right.score.is_greedy, right.margin) == (2, True, 2.0)
    assert math.isclose(right.score.nats, 2 * (total - 3), rel_tol=1e-6)
    assert (wrong.score.num_tokens, wrong.score.is_greedy, wrong.margin) == (2, False, 2.0)
    assert math.isclose(wrong.score.nats, 2 * total - 4, rel_tol=1e-6)
