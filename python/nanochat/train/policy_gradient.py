"""REINFORCE: what was drawn becomes likelier by what it was worth more than its siblings.

    loss = - sum over replies and their drawn tokens of  advantage * log p(token)  / drawn tokens

The number of drawn tokens is that of the whole step, over all ranks and micro-batches, so gradients
of the parts add up to that of one mean. There is no KL term, no ratio and no clip: every reply is
drawn from the weights that learn from it.

As upstream, log p is of the whole distribution although replies are drawn from its k likeliest
tokens: what top-k cuts off has no part in the sum, so at k = 50 the two differ little. Unlike there
the token that ends a reply counts as drawn, since when to stop is a choice too.

Source: Williams, Machine Learning 8 (1992); karpathy/nanochat scripts/chat_rl.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanochat.model import GPT
from nanochat.ops import reference
from nanochat.train.rollouts import Reply


class MicroBatch(NamedTuple):
    inputs: Tensor  # (B, T) int64, filled up on the right
    targets: Tensor  # (B, T) int64, -1 where nothing was drawn
    advantages: Tensor  # (B,) fp32


def micro_batches(replies: Sequence[Reply], *, rows: int, pad: int) -> Iterator[MicroBatch]:
    """The replies that have something to teach, ``rows`` at a time, of similar length."""
    taught = sorted((reply for reply in replies if reply.advantage != 0.0), key=_length)
    for start in range(0, len(taught), rows):
        batch = taught[start : start + rows]
        width = _length(batch[-1]) - 1
        inputs = torch.full((len(batch), width), pad)
        targets = torch.full((len(batch), width), -1)
        for row, target, reply in zip(inputs, targets, batch, strict=True):
            ids, is_drawn = torch.tensor(reply.ids), torch.tensor(reply.is_drawn)
            row[: len(ids) - 1] = ids[:-1]
            target[: len(ids) - 1] = torch.where(is_drawn[1:], ids[1:], -1)
        yield MicroBatch(inputs, targets, torch.tensor([reply.advantage for reply in batch]))


def policy_loss(model: GPT, batch: MicroBatch) -> Tensor:
    """-sum of advantage * log p over drawn tokens, fp32 scalar; the batch on the model's device."""
    is_drawn = batch.targets >= 0
    x = model.hidden(batch.inputs)[is_drawn]  # logits of drawn tokens only: prompts have none
    nats = reference.cross_entropy(
        x,
        model.lm_head.weight.to(x.dtype),
        batch.targets[is_drawn],
        softcap=model.config.softcap,
        ignore_index=-1,
        vocab_size=model.config.vocab_size,
        reduction="none",
    )
    return (nats * batch.advantages[:, None].expand_as(batch.targets)[is_drawn]).sum()


def _length(reply: Reply) -> int:
    return len(reply.ids)
