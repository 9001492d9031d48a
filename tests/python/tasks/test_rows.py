"""Examples from rows: which are left out, in which order they come."""

from __future__ import annotations

import pytest

from nanochat.common.errors import UserError
from nanochat.data.tinyworld.draw import Split
from nanochat.tasks.base import Example, ask, graded
from nanochat.tasks.files import Rows
from nanochat.tasks.rows import Row, RowTask, text_of


def read(row: Row) -> Example:
    return graded(ask(text_of(row, "q")), "", lambda _: "right")


def task(*questions: object, num_malformed: int = 0) -> RowTask:
    rows = Rows([{"q": question} for question in questions], num_malformed)
    return RowTask("quiz", "generative", 0.0, lambda _: rows, read)


def prompts(examples: list[Example]) -> list[str]:
    return [example.messages[-1]["content"] for example in examples]


def test_bad_rows_are_left_out_and_duplicates_stay() -> None:
    loaded = task("a", None, "b", 7, " ", "a", "a", num_malformed=2).load("val")
    assert prompts(list(loaded.examples)) == ["a", "b", "a", "a"]
    assert (loaded.num_malformed, loaded.num_duplicates) == (5, 2)


def test_fewer_examples_are_the_first_of_more() -> None:
    quiz = task(*map(str, range(50)))
    whole = prompts(quiz.examples("val", n=1000, seed=1))
    assert sorted(whole, key=int) == [str(i) for i in range(50)] != whole
    assert prompts(quiz.examples("val", n=7, seed=1)) == whole[:7]
    assert prompts(quiz.examples("val", n=1000, seed=2)) != whole


@pytest.mark.parametrize("rows", [[], [None, 3]])
def test_a_set_without_examples_is_an_error(rows: list[object]) -> None:
    with pytest.raises(UserError, match=f"quiz must have rows in train, got none of {len(rows)}"):
        task(*rows).examples("train", n=1, seed=0)


def test_a_split_is_read_once() -> None:
    asked: list[Split] = []

    def rows(split: Split) -> Rows:
        asked.append(split)
        return Rows([{"q": split}], 0)

    quiz = RowTask("quiz", "generative", 0.0, rows, read)
    for split in ("val", "train", "val"):
        assert prompts(quiz.examples(split, n=1, seed=0)) == [split]
    assert asked == ["val", "train"]


def test_two_tasks_do_not_share_what_they_read() -> None:
    assert len(task("a").load("val").examples) == 1
    assert len(task("a", "b").load("val").examples) == 2
