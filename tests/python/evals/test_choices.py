"""The choice is the likeliest reply, by either backend, whatever is scored beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch

from nanochat.engine import Engine, NativeOptions
from nanochat.evals import choices
from nanochat.evals.choices import choose
from nanochat.model import GPT
from nanochat.tasks import Example
from nanochat.tasks.base import ask
from nanochat.tasks.choice import lettered
from nanochat.tokenizer import Tokenizer

WORDS = ("A", "yes, it is", "no", "zz")


@pytest.fixture
def engine(tiny_model: GPT, byte_tokenizer: Tokenizer, backend: str) -> Iterator[Engine]:
    options = NativeOptions(dtype="fp32", threads=1) if backend == "native" else None
    with Engine(tiny_model, byte_tokenizer, backend=backend, options=options) as made:
        yield made


def worded(question: str, words: tuple[str, ...] = WORDS) -> Example:
    reference = {"role": "assistant", "content": words[0]}
    return Example(ask(question), reference, lambda reply: reply == words[0], choices=words)


def likeliest(model: GPT, tokenizer: Tokenizer, example: Example) -> str:
    """By a forward pass over each prompt and choice alone."""
    prompt = tokenizer.render_prompt(example.prompt)
    nats = {}
    for choice in example.choices:
        reply = tokenizer.encode(choice)
        ids = torch.tensor([[*prompt, *reply]])
        with torch.no_grad():
            logp = torch.log_softmax(model(ids[:, :-1]), dim=-1)[0, len(prompt) - 1 :]
        nats[choice] = float(-logp[torch.arange(len(reply)), torch.tensor(reply)].sum())
    return min(nats, key=nats.__getitem__)


@pytest.mark.parametrize("at_once", [64, 2])
def test_the_choice_is_the_likeliest(
    engine: Engine, tiny_model: GPT, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(choices, "CHOOSE_AT_ONCE", at_once)
    questions = ["Which one?" + " indeed" * i for i in range(5)]
    examples = [worded(question) for question in questions]
    examples += [lettered(question, ("x", "y", "z"), 1) for question in questions]
    seen: list[int] = []
    replies = choose(engine, examples, seen.append)
    wanted = [likeliest(tiny_model, engine.tokenizer, example) for example in examples]
    assert [reply["text"] for reply in replies] == wanted
    assert len(set(wanted)) > 1
    for reply, example in zip(replies, examples, strict=True):
        assert (reply["verdict"] == "right") == example.check(reply["text"])
    assert seen == ([10] if at_once == 64 else [2, 4, 6, 8, 10])


def test_a_full_context_has_room_for_a_letter_and_no_more(engine: Engine) -> None:
    empty = engine.tokenizer.render_prompt({"messages": list(ask(""))})
    question = "x" * (engine.context - len(empty))
    examples = [
        worded(question, ("A", "B")),
        worded(question, ("A", "no")),
        worded(question + "x", ("A", "B")),
    ]
    replies = choose(engine, examples, lambda _: None)
    assert [reply["verdict"] == "too_long" for reply in replies] == [False, True, True]


def test_a_model_that_is_broken_answers_nothing(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.lm_head.weight[ord("B")] = torch.nan
    with Engine(model, byte_tokenizer, backend="torch") as engine:
        (reply,) = choose(engine, [lettered("?", ("x", "y"), 0)], lambda _: None)
    assert reply == {"text": "", "reason": "stop", "verdict": "unanswered"}
