"""Accuracy on tasks: the arithmetic, and everything that is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nanochat.engine import Engine, Sampling
from nanochat.evals.statistics import mean_interval, wilson_interval
from nanochat.evals.tasks import EvalResult, mean_centred, run_tasks
from nanochat.tasks import TASKS, Example, Kind
from nanochat.tasks.base import Verdict, ask, graded
from nanochat.tasks.choice import choice_example
from nanochat.tasks.files import Rows
from nanochat.tasks.rows import Row, RowTask

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


def test_measure_carries_the_interval_and_chance() -> None:
    measure = result(5, 10, 0.25).measure
    assert (measure.value, measure.chance, measure.num_examples) == (0.5, 0.25, 10)
    assert (measure.low, measure.high) == wilson_interval(5, 10)


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


VERDICTS: dict[str, Verdict] = {"r": "right", "w": "wrong", "u": "unanswered", "t": "timeout"}


def judged(row: Row) -> Example:
    """The question says what its reply is worth."""
    if not isinstance(row["q"], str):
        raise ValueError("row: q must be text")
    return graded(ask(row["q"]), "", lambda _: VERDICTS[row["q"][0]])


def rows_task(*rows: Row, num_malformed: int = 0) -> RowTask:
    return RowTask(
        "rows",
        "generative",
        0.0,
        lambda _: Rows([dict(row) for row in rows], num_malformed),
        judged,
    )


def test_what_is_not_as_it_should_be_is_counted(tiny_engine: Engine) -> None:
    long = "r" * tiny_engine.context
    rows = [{"q": q} for q in ("right", "wrong", "unsure", "too slow", "right", "timid", long, 7)]
    (got,) = run_tasks(tiny_engine, [rows_task(*rows, num_malformed=2)], max_tokens=2)
    assert (got.num_examples, got.num_correct) == (7, 2)
    assert (got.num_unanswered, got.num_timeouts, got.num_too_long) == (1, 2, 1)
    assert (got.num_malformed, got.num_duplicates) == (3, 1)
    measure = got.measure
    assert (measure.num_malformed, measure.num_too_long, measure.num_unanswered) == (3, 1, 1)
    verdicts = {record["prompt"][:3]: record["verdict"] for record in got.records}
    assert verdicts == {
        "rig": "right", "wro": "wrong", "uns": "unanswered", "too": "timeout", "tim": "timeout",
        "rrr": "too_long",
    }  # fmt: skip


def test_several_samples(tiny_engine: Engine) -> None:
    """Right is a reply with a z; of the tiny model about every third sample has one."""
    examples = [
        graded(ask(f"question {i}"), "", lambda reply: "right" if "z" in reply else "unanswered")
        for i in range(6)
    ]
    rows = Rows([{"i": i} for i in range(6)], 0)
    task = RowTask("z", "generative", 0.0, lambda _: rows, lambda row: examples[row["i"]])
    (got,) = run_tasks(tiny_engine, [task], max_tokens=8, num_samples=4, temperature=1.0)
    counts = [record["num_correct"] for record in got.records]
    assert all(
        record["num_correct"] == sum("z" in sample["text"] for sample in record["samples"])
        for record in got.records
    )
    assert 0 < got.num_correct == sum(counts) < 24
    assert got.num_unanswered == 24 - sum(counts)
    assert got.accuracy == pytest.approx(sum(counts) / 24) == got.pass_at(1)
    assert got.pass_at(4) == pytest.approx(sum(count > 0 for count in counts) / 6)
    assert list(got.passes) == [2, 4]
    assert got.interval == mean_interval([count / 4 for count in counts])
    assert json.loads(json.dumps(got.row))["pass_at"] == {
        str(k): value for k, value in got.passes.items()
    }


def test_several_samples_of_greedy_replies_are_a_mistake(tiny_engine: Engine) -> None:
    with pytest.raises(ValueError, match="several samples need a temperature above 0"):
        run_tasks(tiny_engine, [rows_task({"q": "right"})], num_samples=2)


def test_scores_by_group(tiny_engine: Engine) -> None:
    subjects = ["law", "art", "law", "art", "art"]
    rows = [
        {"question": f"{i}?", "choices": ["x", "y"], "answer": i % 2, "subject": subject}
        for i, subject in enumerate(subjects)
    ]
    task = RowTask("exam", "multiple_choice", 0.5, lambda _: Rows(list(rows), 0), choice_example)
    (got,) = run_tasks(tiny_engine, [task], num_samples=3, temperature=1.0)  # one: nothing is drawn
    right = {
        group: sum(r["correct"] for r in got.records if r["group"] == group)
        for group in ("art", "law")
    }
    assert got.groups == {"art": (right["art"], 3), "law": (right["law"], 2)}
    assert list(got.row["groups"]) == ["art", "law"]
    assert got.num_samples == 1
