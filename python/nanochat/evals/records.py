"""One JSON object for each example of an evaluation, so that two models can be compared by example.

    {"task": "gsm8k", "index": 7, "prompt": ..., "reference": ..., "correct": true,
     "text": ..., "reason": "stop", "verdict": "right", "parts": [with tool calls, if any]}

With several samples of each example there is ``num_correct`` instead of ``correct``, and
``samples`` has what is in the last line, once for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write
from nanochat.tasks.files import read_rows

Record = dict[str, Any]
TOO_LONG = MappingProxyType({"text": "", "reason": "too_long", "verdict": "too_long"})  # not asked


def num_right(record: Record) -> int:
    """Samples of the example that are right."""
    return int(record["num_correct"] if "num_correct" in record else record["correct"])


def write_records(path: Path, records: Sequence[Record]) -> None:
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))


@dataclass(frozen=True)
class Difference:
    """Two models on the examples that both were asked; indices of those that changed."""

    gained: tuple[int, ...]
    lost: tuple[int, ...]
    num_shared: int


def compare_records(before: Path, after: Path) -> Difference:
    """What the model of ``after`` answers better, and worse, than that of ``before``.

    Raises: UserError if a file holds no records, or the two no example in common.
    """
    old = _by_example(before)
    changes = {
        index: right - old[index, prompt]
        for (index, prompt), right in _by_example(after).items()
        if (index, prompt) in old
    }
    if not changes:
        raise UserError(
            f"records: {before} and {after} must share examples, and share none; they are of other "
            "tasks, or of another --seed"
        )
    return Difference(
        gained=tuple(index for index, change in changes.items() if change > 0),
        lost=tuple(index for index, change in changes.items() if change < 0),
        num_shared=len(changes),
    )


def _by_example(path: Path) -> dict[tuple[int, str], int]:
    """Right samples by index and prompt: another seed asks other questions under an index."""
    rows = read_rows(path)
    try:
        if rows.num_malformed:
            raise ValueError(f"{rows.num_malformed} lines are no objects")
        return {(int(row["index"]), str(row["prompt"])): num_right(row) for row in rows.rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"records: {path} does not hold records of an evaluation: {error}"
        ) from error
