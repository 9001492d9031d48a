"""Scores of groups the plain way: each group one padded forward, fp32 logits of every position.

What nanochat.evals.likelihood is compared with, in figures and in time, and a way to score any
model that gives logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.evals.likelihood import Group, Score


class PlainScore(NamedTuple):
    """A score, and by how much logits would have to move for ``is_greedy`` to be otherwise."""

    score: Score
    margin: float


@torch.no_grad()
def plain_scores(logits: Callable[[Tensor], Tensor], group: Group, *, pad: int) -> list[PlainScore]:
    """Scores of the rows of one group; ``logits`` maps ids (B, T) to (B, T, V) fp32."""
    ids = torch.full((len(group), max(len(row.ids) for row in group)), pad)
    for i, row in enumerate(group):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
    predicted = logits(ids)
    following = torch.roll(ids, -1, dims=1)
    nats = F.cross_entropy(predicted.flatten(0, 1), following.flatten(), reduction="none")
    nats = nats.view(ids.shape)
    likeliest = predicted.argmax(dim=-1)
    scores = []
    for i, row in enumerate(group):
        part = slice(row.start - 1, len(row.ids) - 1)
        wanted = following[i, part]
        is_greedy = bool((likeliest[i, part] == wanted).all())
        best, second = predicted[i, part].topk(2, dim=-1).values.unbind(-1)
        if is_greedy:
            margin = float((best - second).min())
        else:
            margin = float((best - predicted[i, part].gather(1, wanted[:, None])[:, 0]).max())
        score = Score(float(nats[i, part].sum()), len(wanted), is_greedy)
        scores.append(PlainScore(score, margin))
    return scores
