"""Scores of groups are those of each row alone, on every path; and what a row must be."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.engine import Engine, NativeOptions
from nanochat.engine.engine import Backend
from nanochat.evals import likelihood
from nanochat.evals.likelihood import Score, TokenRow, common_length, scorer, torch_scores
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer


@torch.no_grad()
def alone(model: GPT, row: TokenRow) -> Score:
    """The definition: one row, logits everywhere."""
    ids = torch.tensor(row.ids)
    logits = model(ids[None, :-1])[0, row.start - 1 :]
    nats: Tensor = F.cross_entropy(logits, ids[row.start :], reduction="sum")
    is_greedy = bool((logits.argmax(-1) == ids[row.start :]).all())
    return Score(float(nats), len(row.ids) - row.start, is_greedy)


def some_groups(context: int) -> list[list[TokenRow]]:
    """Trunks from none to all of the context, tails of different lengths, starts anywhere."""
    draw = random.Random(3)

    def tokens(n: int) -> list[int]:
        return [draw.randrange(97, 123) for _ in range(n)]

    groups = []
    for trunk in (0, 1, 2, 30, context - 12, *(draw.randrange(context - 12) for _ in range(8))):
        shared = tokens(trunk)
        rows = [shared + tokens(draw.randrange(2, 13)) for _ in range(draw.randrange(1, 5))]
        groups.append([TokenRow(ids, draw.randrange(1, len(ids))) for ids in rows])
    longest = tokens(context + 1)
    apart = [TokenRow([97, 98, 99], 1), TokenRow([100, 98], 1)]
    return [
        *groups,
        apart,
        [TokenRow(longest, 1)],
        [TokenRow(longest, 5), TokenRow(longest[:9], 3)],
    ]


def greedy_row(model: GPT) -> TokenRow:
    ids = [100, 101]
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return TokenRow(ids, 2)


def assert_close(found: list[list[Score]], model: GPT, groups: list[list[TokenRow]]) -> None:
    for scores, group in zip(found, groups, strict=True):
        for score, row in zip(scores, group, strict=True):
            expected = alone(model, row)
            assert score.nats == pytest.approx(expected.nats, rel=2e-5)
            assert score[1:] == expected[1:]


@pytest.mark.parametrize("batch_tokens", [1, 700, 1 << 20])
def test_torch_scores_are_those_of_rows_alone(
    tiny_model: GPT, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", 50 * tiny_model.config.vocab_size)
    groups = [*some_groups(tiny_model.config.seq_len), [greedy_row(tiny_model)]]
    found = torch_scores(tiny_model, groups)
    assert_close(found, tiny_model, groups)
    assert found[-1][0].is_greedy


def test_native_scores_are_those_of_rows_alone(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    groups = [*some_groups(tiny_model.config.seq_len), [greedy_row(tiny_model)]]
    options = NativeOptions(dtype="fp32", threads=1)
    with Engine(tiny_model, byte_tokenizer, slots=1, options=options) as engine:
        found = scorer(engine)(groups)
        again = scorer(engine)(groups[::-1])[::-1]
    assert_close(found, tiny_model, groups)
    assert found == again  # to the bit, in other company and from a cache
    assert found[-1][0].is_greedy


def test_scorer_follows_the_backend(
    tiny_model: GPT, byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    groups = [[TokenRow([97, 98, 99], 1)]]
    with Engine(tiny_model, byte_tokenizer, slots=1, backend=backend) as engine:
        ((score,),) = scorer(engine)(groups)
    assert score.nats == pytest.approx(alone(tiny_model, groups[0][0]).nats, rel=0.02)
    assert score.mean_nats == score.nats / 2


def test_rows_without_a_scored_token_or_too_long_are_refused(
    tiny_model: GPT, byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    context = tiny_model.config.seq_len
    with Engine(tiny_model, byte_tokenizer, slots=1, backend=backend) as engine:
        score = scorer(engine)
        for row in (TokenRow([97, 98], 0), TokenRow([97, 98], 2), TokenRow([97], 1)):
            with pytest.raises(ValueError, match="likelihood: start must be 1 to"):
                score([[row]])
        with pytest.raises(ValueError, match=f"at most {context} tokens and one"):
            score([[TokenRow([97] * (context + 2), 1)]])
        assert score([]) == []


def test_weights_that_are_no_numbers_give_scores_that_are_none(
    tiny_model: GPT, byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    broken = GPT(tiny_model.config)
    broken.load_state_dict(tiny_model.state_dict())
    with torch.no_grad():
        broken.lm_head.weight[98] = math.nan
    with Engine(broken.eval(), byte_tokenizer, slots=1, backend=backend) as engine:
        ((score,),) = scorer(engine)([[TokenRow([97, 98, 99], 1)]])
    assert math.isnan(score.nats)
    assert not score.is_greedy


def test_common_length_leaves_the_last_token_to_each_row() -> None:
    assert common_length([TokenRow([1, 2, 3], 1)]) == 2
    assert common_length([TokenRow([1, 2, 3], 1), TokenRow([1, 2, 3], 1)]) == 2
    assert common_length([TokenRow([1, 2, 3, 4], 1), TokenRow([1, 2, 9, 4, 5], 1)]) == 2
    assert common_length([TokenRow([1, 2], 1), TokenRow([3, 2], 1)]) == 0
