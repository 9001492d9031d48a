"""One JSON object for each example of an evaluation, so that two models can be compared by example.

    {"task": "gsm8k", "index": 7, "prompt": ..., "reference": ..., "correct": true,
     "text": ..., "reason": "stop", "verdict": "right", "parts": [with tool calls, if any]}

With several samples of each example ``correct`` counts the right ones, and ``samples`` has what is
in the last line, once for each.
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


@dataclass(frozen=True)
class Difference:
    """Indices of examples that one model answers better than the other."""

    gained: tuple[int, ...]
    lost: tuple[int, ...]
    num_examples: int


def write_records(path: Path, records: Sequence[Record]) -> None:
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """What :func:`write_records` wrote.

    Raises: UserError for a file that is not there, or holds something else.
    """
    rows = read_rows(path)
    if rows.num_malformed or not all(
        {"index", "prompt", "correct"} <= row.keys() for row in rows.rows
    ):
        raise UserError(f"records: {path} must hold records of an evaluation; run chat-eval again")
    return rows.rows


def difference(before: Sequence[Record], after: Sequence[Record]) -> Difference:
    """What ``after`` gained and lost over the examples that both have.

    Raises: UserError if there are none: the sets, their order (the seed) or their number differ.
    """
    old = {(record["index"], record["prompt"]): int(record["correct"]) for record in before}
    pairs = [
        (record["index"], old[key], int(record["correct"]))
        for record in after
        if (key := (record["index"], record["prompt"])) in old
    ]
    if not pairs:
        raise UserError("records: both files must hold some of the same examples; use one --seed")
    return Difference(
        gained=tuple(index for index, first, second in pairs if second > first),
        lost=tuple(index for index, first, second in pairs if second < first),
        num_examples=len(pairs),
    )
