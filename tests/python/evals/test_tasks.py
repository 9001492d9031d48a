"""Accuracy on tasks: the arithmetic, batching that changes nothing, prompts that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from nanochat.engine import Completion, Engine, Piece, Sampling, Usage
from nanochat.evals import choices as evals
from nanochat.evals.choices import reply_nats
from nanochat.evals.generation import content_parts
from nanochat.evals.statistics import wilson_interval
from nanochat.evals.tasks import EvalResult, mean_centred, run_tasks
from nanochat.model import GPT
from nanochat.tasks import TASKS, Example, Kind
from nanochat.tokenizer import Tokenizer

LETTERS = ("A", "B", "C", "D")


@dataclass
class Quiz:
    """Asks the questions that it is given; ``check`` reads the replies."""

    questions: list[str]
    check: Callable[[str], bool]
    kind: Kind = "multiple_choice"
    name: str = "quiz"
    chance: float = 0.25
    choices: tuple[str, ...] = LETTERS

    def examples(self, split: str, *, n: int, seed: int) -> list[Example]:
        return [
            Example(
                messages=({"role": "user", "content": question},),
                reference={"role": "assistant", "content": "B"},
                check=self.check,
                choices=self.choices,
            )
            for question in self.questions[:n]
        ]


def result(num_correct: int, num_examples: int, chance: float) -> EvalResult:
    return EvalResult(
        name="x",
        num_examples=num_examples,
        num_correct=num_correct,
        num_too_long=0,
        chance=chance,
        seconds=0.0,
        records=(),
    )


def test_centring() -> None:
    assert result(25, 100, 0.25).centred == 0.0
    assert result(100, 100, 0.25).centred == 1.0
    assert result(0, 100, 0.5).centred == -1.0
    assert mean_centred([result(25, 100, 0.25), result(50, 100, 0.0)]) == 0.25


@pytest.mark.parametrize(
    ("num_correct", "num_examples", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(num_correct: int, num_examples: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct, num_examples) == pytest.approx((low, high), abs=1e-4)


def test_measure_carries_the_interval_and_chance() -> None:
    measure = result(5, 10, 0.25).measure
    assert (measure.value, measure.chance, measure.num_examples) == (0.5, 0.25, 10)
    assert (measure.low, measure.high) == wilson_interval(5, 10)


def test_reply_nats_are_those_of_each_pair_alone(
    tiny_model: GPT, byte_tokenizer: Tokenizer
) -> None:
    texts = (("a", "b"), ("hello there", "you"), ("abc", "xy z"), ("x" * 130, "!"))
    pairs = [
        (byte_tokenizer.encode(prompt), byte_tokenizer.encode(reply)) for prompt, reply in texts
    ]
    together = reply_nats(tiny_model, pairs, pad=byte_tokenizer.bos)
    for (prompt, reply), value in zip(pairs, together, strict=True):
        ids = torch.tensor([[*prompt, *reply]])
        with torch.no_grad():
            logp = torch.log_softmax(tiny_model(ids[:, :-1]), dim=-1)[0, len(prompt) - 1 :]
        alone = -logp[torch.arange(len(reply)), torch.tensor(reply)].sum()
        torch.testing.assert_close(value, alone, rtol=1e-4, atol=1e-4)


def test_the_choice_is_the_likeliest_of_the_choices(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batches; the likeliest token of all is a small letter (see conftest)."""
    questions = ["Which one?" + " indeed" * i for i in range(5)]
    task = Quiz(questions, check=lambda reply: reply == "B")
    (whole,) = run_tasks(tiny_engine, [task])
    monkeypatch.setattr(evals, "CHOICE_TOKENS", 80)
    (parts,) = run_tasks(tiny_engine, [task])
    assert parts.records == whole.records
    tokenizer = tiny_engine.tokenizer
    for record, question in zip(whole.records, questions, strict=True):
        message = {"role": "user", "content": question}
        prompt = tokenizer.render_prompt({"messages": [message]})
        with torch.no_grad():
            logits = tiny_engine.model(torch.tensor([prompt]))[0, -1]
        want = max(LETTERS, key=lambda letter: logits[tokenizer.encode(letter)[0]])
        assert record["text"] == want
        assert record["correct"] == (want == "B")
    assert whole.num_correct == sum(record["correct"] for record in whole.records)


def test_choices_of_several_tokens_are_weighed_whole(
    tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the choices of one question fall into different batches."""
    choices = ("A", "yes, it is", "no", "zz")
    task = Quiz(["?", "what?"], check=bool, choices=choices)
    tokenizer = tiny_engine.tokenizer
    prompt = tokenizer.render_prompt({"messages": [{"role": "user", "content": "?"}]})
    pairs = [(prompt, tokenizer.encode(choice)) for choice in choices]
    nats = reply_nats(tiny_engine.model, pairs, pad=tokenizer.bos).tolist()
    for tokens in (16_384, 30):
        monkeypatch.setattr(evals, "CHOICE_TOKENS", tokens)
        (got,) = run_tasks(tiny_engine, [task])
        assert got.records[0]["text"] == choices[nats.index(min(nats))]


def test_generative_replies_are_greedy_and_read_by_the_task(tiny_engine: Engine) -> None:
    questions = [f"question {i}" for i in range(5)]
    task = Quiz(questions, check=lambda reply: "a" in reply, kind="generative", chance=0.0)
    (got,) = run_tasks(tiny_engine, [task], max_tokens=12)
    again = run_tasks(tiny_engine, [task], max_tokens=12)[0]
    assert got.records == again.records
    for record, question in zip(got.records, questions, strict=True):
        message = {"role": "user", "content": question}
        prompt = tiny_engine.tokenizer.render_prompt({"messages": [message]})
        (alone,) = tiny_engine.generate([prompt], Sampling(max_tokens=12, temperature=0.0))
        assert record["text"] == alone.text
        assert record["correct"] == ("a" in alone.text)
        assert record["prompt"] == question


@pytest.mark.parametrize("kind", ["multiple_choice", "generative"])
def test_a_prompt_that_does_not_fit_is_wrong_and_reported(tiny_engine: Engine, kind: Kind) -> None:
    questions = ["short", "long " * tiny_engine.context, "short too"]
    task = Quiz(questions, check=lambda reply: True, kind=kind)
    (got,) = run_tasks(tiny_engine, [task], max_tokens=4)
    assert (got.num_examples, got.num_correct, got.num_too_long) == (3, 2, 1)
    assert [record["reason"] == "too_long" for record in got.records] == [False, True, False]
    assert got.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(("kind", "num_too_long"), [("multiple_choice", 0), ("generative", 1)])
def test_a_context_that_is_full_has_room_for_a_choice_only(
    tiny_engine: Engine, kind: Kind, num_too_long: int
) -> None:
    empty = tiny_engine.tokenizer.render_prompt({"messages": [{"role": "user", "content": ""}]})
    question = "x" * (tiny_engine.context - len(empty))
    (got,) = run_tasks(tiny_engine, [Quiz([question], check=lambda reply: True, kind=kind)])
    assert got.num_too_long == num_too_long


def test_progress_reaches_the_end(tiny_engine: Engine) -> None:
    seen: list[tuple[str, int, int]] = []
    tasks = [
        Quiz(["a", "b"], check=bool, name="one"),
        Quiz(["c"], check=bool, kind="generative", name="two"),
    ]
    run_tasks(tiny_engine, tasks, max_tokens=2, on_progress=lambda *at: seen.append(at))
    assert seen == [("one", 2, 2), ("two", 1, 1)]


def test_a_task_without_examples_is_an_error(tiny_engine: Engine) -> None:
    with pytest.raises(ValueError, match="tasks: quiz must have examples in val, got none"):
        run_tasks(tiny_engine, [Quiz([], check=bool)])


def test_the_tasks_of_tinyworld_run(tiny_engine: Engine) -> None:
    results = run_tasks(tiny_engine, TASKS, num_examples=2, max_tokens=4)
    assert [r.name for r in results] == [task.name for task in TASKS]
    assert all(r.num_examples == 2 for r in results)
    json.dumps([r.records for r in results])  # one line each of a JSONL


def test_stretches_of_text_are_joined_and_tool_calls_kept_apart() -> None:
    pieces = [
        Piece("text", "Let me "),
        Piece("text", "see."),
        Piece("tool_call", "6*7"),
        Piece("tool_output", "42"),
        Piece("text", "42."),
    ]
    usage = Usage(prompt_tokens=1, completion_tokens=1, ttft_ms=0.0, tokens_per_second=0.0)
    completion = Completion([], [], "Let me see.42.", pieces, "stop", 0, usage)
    assert content_parts(completion) == [
        {"type": "text", "text": "Let me see."},
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "42."},
    ]
