"""Prompts to the letter, tokens that do not depend on how they were made, and what is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanochat.evals.core_prompts import Prompts, scored_from, whole_texts
from nanochat.evals.core_tasks import CORE_TASKS, CoreTask, Kind, load_rows, present_tasks
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.tokenizer.bpe import GPT2_PATTERN, SPLIT_PATTERN

ANSWER = "\nAnswer: "
TASKS = {task.name: task for task in CORE_TASKS}


def task_of(kind: Kind, *, shots: int = 1, delimiter: str = " ") -> CoreTask:
    return CoreTask(name="x", kind=kind, path="x", shots=shots, delimiter=delimiter)


CHOICES: list[dict[str, Any]] = [
    {"query": "Question: one?", "choices": ["yes", "no"], "gold": 1},
    {"query": "Question: two?", "choices": ["ja", "nein", "doch"], "gold": 0},
]
SCHEMAS: list[dict[str, Any]] = [
    {"context_options": ["The cup", "The bag"], "continuation": "is full.", "gold": 0},
    {"context_options": ["A man", "A woman"], "continuation": "sings.", "gold": 1},
]
WORDS: list[dict[str, Any]] = [
    {"context": " The capital of France is \n", "continuation": "Paris"},
    {"context": "\tTwo and two are", "continuation": "four. "},
]


def test_templates() -> None:
    assert whole_texts(task_of("multiple_choice", delimiter=ANSWER), CHOICES, 1) == [
        f"Question: one?\nAnswer: no\n\nQuestion: two?\nAnswer: {choice}"
        for choice in ("ja", "nein", "doch")
    ]
    assert whole_texts(task_of("multiple_choice", shots=0), CHOICES, 0) == [
        "Question: one? yes",
        "Question: one? no",
    ]
    assert whole_texts(task_of("schema"), SCHEMAS, 0) == [
        "A woman sings.\n\nThe cup is full.",
        "A woman sings.\n\nThe bag is full.",
    ]
    assert whole_texts(task_of("language_modeling"), WORDS, 1) == [
        "The capital of France is Paris\n\nTwo and two are",
        "The capital of France is Paris\n\nTwo and two are four. ",
    ]
    # A delimiter that ends in a space does not leave it to the prompt.
    assert whole_texts(task_of("language_modeling", shots=0, delimiter=ANSWER), WORDS, 0) == [
        "The capital of France is\nAnswer:",
        "The capital of France is\nAnswer: Paris",
    ]


def scored(tokenizer: Tokenizer, task: CoreTask, rows: list[dict[str, Any]], i: int) -> list[str]:
    example = Prompts(task, rows, tokenizer, context=1000).example(i)
    return [tokenizer.decode(row.ids[row.start :]) for row in example.rows]


def test_what_is_scored(byte_tokenizer: Tokenizer) -> None:
    # From where choices differ, to the end; here bytes are tokens.
    assert scored(byte_tokenizer, task_of("multiple_choice"), CHOICES, 0) == ["yes", "no"]
    # What the contexts have in common counts as continuation.
    assert scored(byte_tokenizer, task_of("schema"), SCHEMAS, 1) == ["man sings.", "man sings."]
    assert scored(byte_tokenizer, task_of("language_modeling"), WORDS, 0) == [" Paris"]


def test_a_choice_that_begins_another_has_a_token_scored() -> None:
    task = task_of("multiple_choice")
    assert scored_from(task, [[9, 1, 2], [9, 1, 2, 3]]) == [2, 2]
    assert scored_from(task, [[9, 1], [9, 1]]) == [1, 1]
    assert scored_from(task_of("schema"), [[9, 4, 5], [9, 4, 5]]) == [1, 1]
    assert scored_from(task_of("schema"), [[9, 4, 5], [9, 9, 4, 5]]) == [1, 2]
    # A continuation that changes the prompt's last token is scored from that one on.
    assert scored_from(task_of("language_modeling"), [[9, 1, 2], [9, 1, 7, 8]]) == [2, 2]


def test_long_prompts_lose_the_same_beginning_in_every_row(byte_tokenizer: Tokenizer) -> None:
    task = task_of("multiple_choice")
    whole = Prompts(task, CHOICES, byte_tokenizer, context=1000).example(1)
    cut = Prompts(task, CHOICES, byte_tokenizer, context=20).example(1)
    assert (whole.num_cropped, cut.num_cropped) == (0, len(whole.rows[1].ids) - 20)
    for long, short in zip(whole.rows, cut.rows, strict=True):
        assert short.ids == long.ids[cut.num_cropped :]
        assert short.ids[short.start :] == long.ids[long.start :]
    assert cut.prompt_sha256 == whole.prompt_sha256
    # A continuation beyond the context is scored as far as it can be.
    (row,) = Prompts(task_of("language_modeling"), WORDS, byte_tokenizer, context=3).example(0).rows
    assert (byte_tokenizer.decode(row.ids), row.start) == ("ris", 1)


@pytest.fixture(scope="module", params=[SPLIT_PATTERN, GPT2_PATTERN], ids=["ours", "gpt2"])
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    """White space in all lengths is a token, so that a wrong split shows."""
    texts = [f"{row} The capital.\n\nQuestion: is it?\nAnswer: it is" for row in (CHOICES, WORDS)]
    texts += ["a" + space * n + "b" for space in ("\n", " ", "\n\n ") for n in range(1, 6)]
    ranks = train_bpe(texts * 4, 400, request.param, num_threads=1)
    return Tokenizer.from_ranks(ranks, request.param)


HARD = [
    "The end.", "a\r", "numbers 12345", "dots...", "tab\t", "two  ", "\u00a0nbsp", "newline\n",
    " lead", "\n\nlead", "can't", "'s", "\u2028sep", "!\n", "\u3000wide", "4", "\x85next",
]  # fmt: skip


def test_tokens_of_parts_are_those_of_the_whole(trained: Tokenizer) -> None:
    rows = [{"query": q, "choices": [c, "x"], "gold": 0} for q in HARD for c in HARD]
    rows = rows[:: len(HARD) + 3] + rows[:40]
    task = task_of("multiple_choice", shots=3, delimiter="")
    prompts = Prompts(task, rows, trained, context=10_000)
    for i in range(len(rows)):
        ids = [[trained.bos, *trained.encode(text)] for text in whole_texts(task, rows, i)]
        assert [row.ids for row in prompts.example(i).rows] == ids, rows[i]


def test_tokens_of_parts_are_those_of_the_whole_on_real_rows(
    trained: Tokenizer, real_data: Path
) -> None:
    for task in present_tasks(real_data / "eval"):
        rows = load_rows(task, real_data / "eval", max_rows=200).rows
        prompts = Prompts(task, rows, trained, context=100_000)
        for i in range(0, len(rows), 9):
            ids = [[trained.bos, *trained.encode(text)] for text in whole_texts(task, rows, i)]
            made = [row.ids for row in prompts.example(i).rows]
            assert made == (ids[1:] if task.kind == "language_modeling" else ids)
