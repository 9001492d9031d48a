"""The loss of the policy gradient: its value, its gradient, and what it leaves out."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from nanochat.model import GPT, GPTConfig
from nanochat.train.policy_gradient import micro_batches, policy_loss
from nanochat.train.rollouts import Reply


@pytest.fixture
def model() -> GPT:
    config = GPTConfig(n_layer=2, n_head=2, n_kv_head=1, n_embd=32, vocab_size=50, seq_len=40)
    model = GPT(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def _replies(number: int) -> list[Reply]:
    """Of different lengths, with gaps that tools have filled; every third teaches nothing."""
    rng = random.Random(number)
    replies = []
    for i in range(number):
        length = rng.randrange(5, 40)
        is_drawn = [False] * 3 + [rng.random() < 0.7 for _ in range(length - 4)] + [True]
        replies.append(
            Reply(
                ids=[rng.randrange(50) for _ in range(length)], is_drawn=is_drawn, is_cut=False,
                reward=0.0, advantage=0.0 if i % 3 == 0 else rng.uniform(-1, 1),
            )
        )  # fmt: skip
    return replies


def _by_hand(model: GPT, replies: list[Reply]) -> Tensor:
    """One reply, one token at a time, over all of the vocabulary."""
    total = torch.zeros(())
    for reply in replies:
        logprobs = model(torch.tensor([reply.ids[:-1]]))[0].log_softmax(-1)
        for i in range(1, len(reply.ids)):
            if reply.is_drawn[i]:
                total = total - reply.advantage * logprobs[i - 1, reply.ids[i]]
    return total


def _gradients(model: GPT, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=False))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_loss_and_gradient_are_those_of_the_definition(model: GPT, rows: int) -> None:
    replies = _replies(10)
    batches = list(micro_batches(replies, rows=rows, pad=7))
    assert sum(len(batch.inputs) for batch in batches) == 6  # those with an advantage
    loss = torch.stack([policy_loss(model, batch) for batch in batches]).sum()
    expected = _by_hand(model, replies)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(_gradients(model, loss), _gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_padding_is_short(model: GPT) -> None:
    """Replies of similar length stand together."""
    batches = list(micro_batches(_replies(60), rows=4, pad=7))
    widths = [batch.inputs.shape[1] for batch in batches]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_a_step_makes_what_was_worth_more_likelier(model: GPT) -> None:
    good, bad = (
        Reply([1, 2, 3, id], [False, False, False, True], False, 0.0, advantage)
        for id, advantage in ((10, 0.5), (11, -0.5))
    )
    (batch,) = micro_batches([good, bad], rows=8, pad=0)
    before = model(torch.tensor([[1, 2, 3]]))[0, -1].log_softmax(-1)
    policy_loss(model, batch).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad
    after = model(torch.tensor([[1, 2, 3]]))[0, -1].log_softmax(-1)
    assert after[10] - after[11] > before[10] - before[11]


def test_nothing_to_teach_is_no_batch() -> None:
    assert list(micro_batches(_replies(9)[::3], rows=4, pad=0)) == []
