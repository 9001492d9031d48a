"""Multiple choice: how a question with lettered choices is put, and read from a row.

    Multiple Choice question: What do bees make?
    - glass=A
    - honey=B

    Respond only with the letter of the correct answer.

The letter stands behind its text: a model has read a choice when it meets its letter, and the B of
``=B`` is the token that it has to reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase as LETTERS
from typing import Any

from nanochat.tasks.base import Example, ask
from nanochat.tasks.grading import is_exactly
from nanochat.tasks.rows import Row, text_of


def choice_example(row: Row) -> Example:
    """The example of a row in one of the forms in which the sets are published.

        question, choices [text], answer index, subject       MMLU; the subject may be missing
        query, choices [text], gold index                     CORE
        question, choices {text [...], label [...]}, answerKey label      ARC

    Raises: ValueError for another row, and an answer that is none of the choices.
    """
    is_core = "query" in row
    question = (
        text_of(row, "query").removeprefix("Question: ") if is_core else text_of(row, "question")
    )
    choices: Any = row.get("choices")
    labels: Any = None
    if isinstance(choices, dict):
        choices, labels = choices.get("text"), choices.get("label")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise ValueError(f"row: choices must be a list of texts, got {choices!r:.80}")
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"row: choices must be 2 to {len(LETTERS)}, got {len(choices)}")
    if labels is None:
        answer = row.get("gold" if is_core else "answer")
    else:
        key = row.get("answerKey")
        answer = labels.index(key) if isinstance(labels, list) and key in labels else None
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"row: the answer must be one of {len(choices)} choices, got {answer!r}")
    subject = row.get("subject", "")
    return lettered(question, choices, answer, group=subject if isinstance(subject, str) else "")


def lettered(question: str, choices: Sequence[str], answer: int, *, group: str = "") -> Example:
    """A question to be answered with a letter; ``answer`` is an index."""
    letters = tuple(LETTERS[: len(choices)])
    lines = "".join(f"- {text}={letter}\n" for text, letter in zip(choices, letters, strict=True))
    return Example(
        messages=ask(
            f"Multiple Choice question: {question}\n{lines}\n"
            "Respond only with the letter of the correct answer."
        ),
        reference={"role": "assistant", "content": letters[answer]},
        check=is_exactly(letters[answer]),
        choices=letters,
        group=group,
    )
