"""Replies, what the model drew of them, and what they were worth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nanochat.common.errors import UserError
from nanochat.engine import Engine
from nanochat.engine.sampling import MAX_SEED
from nanochat.model import GPT
from nanochat.tasks import Example
from nanochat.tokenizer import Tokenizer
from nanochat.train.rollouts import Reply, questions_of, reply_seed, roll_out

Scripted = Callable[..., GPT]


def _question(text: str) -> Example:
    return Example(
        messages=({"role": "user", "content": text},),
        reference={"role": "assistant", "content": ""},
        check=lambda reply: reply == "x",
    )


def _roll_out(
    model: GPT,
    tokenizer: Tokenizer,
    *texts: str,
    reward: Callable[[Example, str], float] = lambda example, text: float(len(text)),
    max_tokens: int = 12,
    top_k: int | None = 1,
    num_samples: int = 2,
) -> list[list[Reply]]:
    with Engine(model, tokenizer) as engine:
        return roll_out(
            engine, [_question(text) for text in texts], range(len(texts)),
            num_samples=num_samples, max_tokens=max_tokens, top_k=top_k, reward=reward,
        )  # fmt: skip


def test_every_question_is_asked_before_one_comes_again() -> None:
    asked = [
        question
        for step in range(10)
        for question in questions_of(step, num_questions=15, per_step=6, seed=1)
    ]
    epochs = [asked[i : i + 15] for i in range(0, 60, 15)]
    assert all(sorted(epoch) == list(range(15)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert questions_of(3, num_questions=15, per_step=6, seed=1) == asked[18:24]
    assert questions_of(3, num_questions=15, per_step=6, seed=2) != asked[18:24]


def test_seeds_differ_for_run_step_and_question() -> None:
    seeds = {reply_seed(*key) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)]}
    assert len(seeds) == 5
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_what_a_tool_answers_is_not_drawn_and_the_end_is(
    scripted: Scripted, byte_tokenizer: Tokenizer
) -> None:
    t = byte_tokenizer
    model = scripted(
        [t.assistant_start, t.python_start, *b"9*7", t.python_end],
        [t.output_end, ord("!"), t.assistant_end],
    )
    ((reply, _),) = _roll_out(model, t, "?")
    prompt = t.render_prompt(_question("?").prompt)
    drawn = [t.python_start, *b"9*7", t.python_end, ord("!"), t.assistant_end]
    forced = [t.output_start, *b"63", t.output_end]
    assert reply.ids == [*prompt, *drawn[:5], *forced, *drawn[5:]]
    assert [id for id, is_drawn in zip(reply.ids, reply.is_drawn, strict=True) if is_drawn] == drawn
    assert reply.num_drawn == 7 and not reply.is_cut
    assert reply.reward == 1.0  # of the text "!"


def test_an_empty_reply_is_the_choice_to_stop(
    scripted: Scripted, byte_tokenizer: Tokenizer
) -> None:
    t = byte_tokenizer
    ((reply, _),) = _roll_out(scripted([t.assistant_start, t.assistant_end]), t, "?")
    assert reply.num_drawn == 1 and reply.ids[-1] == t.assistant_end and not reply.is_cut


def test_a_reply_that_comes_to_the_limit_has_no_end(
    scripted: Scripted, byte_tokenizer: Tokenizer
) -> None:
    t = byte_tokenizer
    ((reply, _),) = _roll_out(scripted([t.assistant_start, ord("a")]), t, "?", max_tokens=5)
    assert reply.is_cut and reply.num_drawn == 5
    assert reply.ids[-5:] == [*b"aaaaa"]


def test_a_prompt_without_room_has_no_replies(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    long, short = _roll_out(tiny_model, byte_tokenizer, "x" * tiny_model.config.seq_len, "?")
    assert long == [] and len(short) == 2


def test_samples_differ_and_advantages_sum_to_zero(
    tiny_model: GPT, byte_tokenizer: Tokenizer
) -> None:
    (replies,) = _roll_out(tiny_model, byte_tokenizer, "?", top_k=None, num_samples=6)
    assert len({tuple(reply.ids) for reply in replies}) > 3
    assert len({reply.reward for reply in replies}) > 1
    assert sum(reply.advantage for reply in replies) == pytest.approx(0.0, abs=1e-12)
    mean = sum(reply.reward for reply in replies) / 6
    assert [reply.reward - reply.advantage for reply in replies] == pytest.approx([mean] * 6)


def test_equal_rewards_teach_nothing_at_all(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    """Not even what rounding leaves: 0.1 + 0.1 + 0.1 is not 0.3."""
    (replies,) = _roll_out(
        tiny_model, byte_tokenizer, "?", top_k=None, num_samples=3, reward=lambda *_: 0.1
    )
    assert [reply.advantage for reply in replies] == [0.0] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1"])
def test_a_reward_that_is_no_number_is_refused(
    tiny_model: GPT, byte_tokenizer: Tokenizer, value: object
) -> None:
    with pytest.raises(UserError, match="reward: must be a finite number, got"):
        _roll_out(tiny_model, byte_tokenizer, "?", reward=lambda *_: value)  # type: ignore[arg-type, return-value]
