"""Conversations out of files: .jsonl (.zst, .gz), a row a line, and .parquet.

A row that is no conversation is counted and left out, whatever is wrong with it, and the first one
is remembered for the message. What makes a whole file unreadable (a truncated stream, a damaged
footer) is an error instead: rows would be lost without anyone knowing how many.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.data import held_out
from nanochat.data.files import LINES_BYTES, find_files, parquet_errors
from nanochat.data.forms import Conversation
from nanochat.data.streams import open_bytes, read_bytes

FORMATS = (".jsonl", ".parquet")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@dataclass
class Tally:
    """What was met while rows were read."""

    num_rows: int = 0
    num_malformed: int = 0
    first_malformed: str = ""  # file, line and reason
    unfilled: dict[str, str] = field(default_factory=dict)  # {{key}} that nobody filled: first row


def read_chats(
    path: Path | str,
    tally: Tally,
    *,
    convert: Callable[[Any], Conversation],
    fill: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Conversation]]:
    """(digest, conversation) of each row of a folder, glob or file; ``tally`` counts as it goes.

    Args:
        convert: Row to conversation; raises ValueError for a row that is none.
        fill: Each ``{{key}}`` in a row becomes its value.
    Raises: UserError if nothing is found or a file cannot be read to its end.
    """
    for file in find_files(path, FORMATS, "conversations"):
        for where, row in _parquet_rows(file) if file.suffix == ".parquet" else _lines(file):
            tally.num_rows += 1
            try:
                conversation = convert(_parsed(row) if isinstance(row, bytes) else row)
                text = json.dumps(conversation, sort_keys=True, ensure_ascii=False)
                if "{{" in text:
                    text = _filled(text, fill or {})
                    conversation = json.loads(text)
                digest = held_out.digest(text)
            except (ValueError, TypeError, RecursionError) as error:
                tally.num_malformed += 1
                tally.first_malformed = tally.first_malformed or f"{where}: {error}"
                continue
            for key in _PLACEHOLDER.findall(text):
                tally.unfilled.setdefault(key, where)
            yield digest, conversation


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Blank lines are no rows. Lines end at \\n only: JSON strings may hold U+2028."""
    line_number = 1
    with open_bytes(path) as stream:
        while data := read_bytes(stream, path, LINES_BYTES, line=True):
            lines = data.removesuffix(b"\n").split(b"\n")
            for number, line in enumerate(lines, line_number):
                if line.strip():
                    yield f"{path}:{number}", line
            line_number += len(lines)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    row_number = 1
    with parquet_errors(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            for number, row in enumerate(batch.to_pylist(), row_number):
                yield f"{path}: row {number}", row
            row_number += len(batch)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the line") from error


def _filled(text: str, fill: Mapping[str, str]) -> str:
    """``text`` is JSON, and stays it."""

    def value(placeholder: re.Match[str]) -> str:
        if placeholder[1] not in fill:
            return placeholder[0]
        return json.dumps(fill[placeholder[1]], ensure_ascii=False)[1:-1]

    return _PLACEHOLDER.sub(value, text)
