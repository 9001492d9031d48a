"""Replies and their grades: in any order, several at a time, and when a grader breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from nanochat.engine import Completion, Engine, Piece, Sampling, Usage
from nanochat.engine.request import Event
from nanochat.evals.generation import answer, content_parts
from nanochat.model import GPT
from nanochat.tasks import Example
from nanochat.tasks.base import Verdict, ask, graded
from nanochat.tokenizer import Tokenizer

GREEDY = Sampling(max_tokens=12, temperature=0.0, seed=0)


def quiz(questions: list[str], grade: Callable[[str], Verdict]) -> list[Example]:
    return [graded(ask(question), "a", grade) for question in questions]


def test_each_reply_is_the_one_of_its_prompt_alone(tiny_engine: Engine) -> None:
    questions = [f"question {i}" for i in range(9)]
    examples = quiz(questions, lambda reply: "right" if "a" in reply else "unanswered")
    seen: list[int] = []
    replies = answer(tiny_engine, examples, [GREEDY] * 9, num_samples=1, report=seen.append)
    for example, (reply,) in zip(examples, replies, strict=True):
        prompt = tiny_engine.tokenizer.render_prompt(example.prompt)
        (alone,) = tiny_engine.generate([prompt], GREEDY)
        assert reply == {
            "text": alone.text,
            "reason": alone.reason,
            "verdict": "right" if "a" in alone.text else "unanswered",
        }
    assert seen == [*range(1, 10)]


def test_samples_differ_and_come_again(tiny_engine: Engine) -> None:
    examples = quiz(["one", "two"], lambda reply: "wrong")
    samplings = [Sampling(max_tokens=12, temperature=1.0, seed=seed) for seed in (5, 6)]
    first, second = (
        answer(tiny_engine, examples, samplings, num_samples=4, report=lambda _: None)
        for _ in range(2)
    )
    assert first == second
    assert all(len({reply["text"] for reply in samples}) == 4 for samples in first)
    prompt = tiny_engine.tokenizer.render_prompt(examples[1].prompt)
    alone = tiny_engine.generate([prompt], samplings[1], n=4)
    assert [reply["text"] for reply in first[1]] == [completion.text for completion in alone]


def test_a_grader_that_waits_does_not_hold_the_engine_up(tiny_engine: Engine) -> None:
    """Grading takes until the engine has answered something else."""
    prompt = tiny_engine.tokenizer.render_prompt({"messages": list(ask("between"))})
    answered: SimpleQueue[Event] = SimpleQueue()

    def grade(reply: str) -> Verdict:
        tiny_engine.submit(prompt, GREEDY, answered.put)
        while not isinstance(answered.get(timeout=60), Completion):
            pass
        return "right"

    examples = quiz(["one", "two", "three"], grade)
    replies = answer(tiny_engine, examples, [GREEDY] * 3, num_samples=1, report=lambda _: None)
    assert [reply["verdict"] for (reply,) in replies] == ["right"] * 3


def test_graders_work_side_by_side(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.evals.generation.num_cores", lambda: 2)
    together = threading.Barrier(2, timeout=60)

    def grade(reply: str) -> Verdict:
        together.wait()
        return "right"

    replies = answer(
        tiny_engine, quiz(["one", "two"], grade), [GREEDY] * 2, num_samples=1, report=print
    )
    assert [reply["verdict"] for (reply,) in replies] == ["right", "right"]


def test_what_breaks_a_grader_ends_the_evaluation_and_not_the_engine(tiny_engine: Engine) -> None:
    def grade(reply: str) -> Verdict:
        raise ArithmeticError("no grade")

    examples = quiz([f"question {i}" for i in range(20)], grade)
    with pytest.raises(ArithmeticError, match="no grade"):
        answer(tiny_engine, examples, [GREEDY] * 20, num_samples=1, report=lambda _: None)
    prompt = tiny_engine.tokenizer.render_prompt(examples[0].prompt)
    (after,) = tiny_engine.generate([prompt], GREEDY)
    assert after.text


def test_what_breaks_the_engine_is_raised(
    tiny_model: GPT, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ArithmeticError("no token")

    with Engine(tiny_model, byte_tokenizer, slots=2) as engine:
        monkeypatch.setattr("nanochat.engine.turn.Turn.accept", broken)
        with pytest.raises(RuntimeError, match="engine: ArithmeticError: no token"):
            answer(engine, quiz(["?"], lambda _: "right"), [GREEDY], num_samples=1, report=print)


def test_what_does_not_fit_is_not_asked(tiny_engine: Engine) -> None:
    empty = tiny_engine.tokenizer.render_prompt({"messages": list(ask(""))})
    questions = ["x" * (tiny_engine.context - len(empty) - spare) for spare in (0, 1)]
    examples = quiz(questions, lambda _: "right")
    replies = answer(tiny_engine, examples, [GREEDY] * 2, num_samples=2, report=lambda _: None)
    assert [[reply["verdict"] for reply in samples] for samples in replies] == [
        ["too_long", "too_long"],
        ["right", "right"],
    ]


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


def test_tool_calls_reach_the_record(
    scripted: Callable[..., GPT], byte_tokenizer: Tokenizer
) -> None:
    """The model calls the calculator; what a reply is graded by is its text."""
    t = byte_tokenizer
    script = [t.assistant_start, t.python_start, *t.encode("6*7"), t.python_end]
    model = scripted(script, [t.output_end, *t.encode("ok"), t.assistant_end])
    seen: list[str] = []

    def grade(reply: str) -> Verdict:
        seen.append(reply)
        return "right"

    with Engine(model, t, slots=2) as engine:
        ((reply,),) = answer(engine, quiz(["?"], grade), [GREEDY], num_samples=1, report=print)
    assert reply["parts"] == [
        {"type": "python", "text": "6*7"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "ok"},
    ]
    assert seen == [reply["text"]] == ["ok"]
