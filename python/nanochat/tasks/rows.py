"""Tasks whose examples are the rows of files, one row an example.

A row that is not what it should be makes no example and is counted. A row whose prompt was there
before is counted too and stays, since published scores are over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanochat.common.errors import UserError
from nanochat.data.shuffle import permutation
from nanochat.data.tinyworld.draw import Split
from nanochat.tasks.base import Example, Kind
from nanochat.tasks.files import Rows

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """What a split of a set holds, in the order of its file."""

    examples: tuple[Example, ...]
    num_malformed: int
    num_duplicates: int


@dataclass(frozen=True)
class RowTask:
    """A task made of rows.

    Attributes:
        rows: The rows of a split; called once.
        read: The example of a row. Raises: ValueError for a row that is none.
    """

    name: str
    kind: Kind
    chance: float
    rows: Callable[[Split], Rows]
    read: Callable[[Row], Example]
    _loaded: dict[Split, Loaded] = field(default_factory=dict, repr=False, compare=False)

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        """As :meth:`nanochat.tasks.base.Task.examples`; fewer are the first of more."""
        examples = self.load(split).examples
        return [examples[i] for i in permutation(len(examples), seed)[:n]]

    def load(self, split: Split) -> Loaded:
        """The whole split. Raises: UserError if no row is an example."""
        if split not in self._loaded:
            self._loaded[split] = self._load(split)
        return self._loaded[split]

    def _load(self, split: Split) -> Loaded:
        rows = self.rows(split)
        examples, num_malformed = [], rows.num_malformed
        for row in rows.rows:
            try:
                examples.append(self.read(row))
            except ValueError:
                num_malformed += 1
        if not examples:
            raise UserError(
                f"tasks: {self.name} must have rows in {split}, got none of {num_malformed} lines "
                "that can be read; look at the file"
            )
        prompts = {example.messages[-1]["content"] for example in examples}
        return Loaded(tuple(examples), num_malformed, len(examples) - len(prompts))


def text_of(row: Row, field: str) -> str:
    """A field that is text, and not blank.

    Raises: ValueError if it is not.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"row: {field} must be text, got {value!r:.80}")
    return value
