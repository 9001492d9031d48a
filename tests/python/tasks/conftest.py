"""A folder of sets as small as they can be, and the oracle, whose replies are the references."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nanochat.tasks import Example
from nanochat.tokenizer.conversation import validate

WriteSet = Callable[..., Path]


@pytest.fixture
def write_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteSet:
    """Writes rows as a set of that name; returns the folder. Nothing lies in NANOCHAT_HOME."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    folder = tmp_path / "eval"

    def write(name: str, rows: Sequence[Any]) -> Path:
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        return folder

    return write


def said(example: Example) -> str:
    """The text of the reference, as the engine would hand it to a grader."""
    content = example.reference["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@pytest.fixture
def oracle() -> Callable[[Sequence[Example]], list[str]]:
    """Verdicts on the references; each is a conversation that can be learnt from."""

    def verdicts(examples: Sequence[Example]) -> list[str]:
        for example in examples:
            validate(example.conversation)
        return [example.verdict(said(example)) for example in examples]

    return verdicts
