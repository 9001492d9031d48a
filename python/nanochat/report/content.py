"""What a page says, as a small tree; ``markdown`` and ``html`` draw the same tree.

Nothing here knows of markup. Text is text: names, commands and what a model said may hold any
character, and each writer makes sure that none of them acts. ``visible`` serves both: it spells out
the characters that would act in any medium, or could not be saved at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Code:
    """Text to be taken literally: a command, an option, the name of a stage."""

    text: str


Inline = str | Code
Text = Inline | tuple[Inline, ...]


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Facts:
    """The few numbers that are read first: (value, what it is)."""

    items: tuple[tuple[str, str], ...]


Kind = Literal["", "part", "sum"]  # a part belongs to the sum above it


@dataclass(frozen=True)
class Row:
    cells: tuple[Text, ...]
    kind: Kind = ""


@dataclass(frozen=True)
class Table:
    """Rows as long as the header; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def without_column(self, name: str) -> Table:
        i = self.header.index(name)
        rows = (replace(row, cells=row.cells[:i] + row.cells[i + 1 :]) for row in self.rows)
        return replace(self, header=self.header[:i] + self.header[i + 1 :], rows=tuple(rows))


@dataclass(frozen=True)
class Figure:
    """An SVG image of ``charts``; ``name`` is that of its file where a page cannot hold it."""

    name: str
    svg: str = field(repr=False)
    alt: str


@dataclass(frozen=True)
class Figures:
    """Figures to be seen together."""

    caption: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Part:
    kind: Literal["text", "python", "python_output"]
    text: str


@dataclass(frozen=True)
class Message:
    speaker: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Sample:
    """Text that a model wrote."""

    text: str


@dataclass(frozen=True)
class Console:
    """Lines to type."""

    text: str


Block = Paragraph | Facts | Table | Figures | Conversation | Sample | Console


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    title: str
    facts: Facts
    notes: tuple[Paragraph, ...]
    sections: tuple[Section, ...]


def figures_of(page: Page) -> list[Figure]:
    blocks = [block for section in page.sections for block in section.blocks]
    return [figure for block in blocks if isinstance(block, Figures) for figure in block.figures]


MAX_TEXT = 4000  # characters of one stretch of model output; the files of the run hold the rest

# Control characters, but for tab and newline; marks that reorder what is shown; halves of
# surrogate pairs, which JSON may hold and UTF-8 may not.
_ACTING = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
    "\\ud800-\\udfff\\ufeff]"
)


def visible(text: str) -> str:
    """At most ``MAX_TEXT`` characters of ``text``, acting ones spelled out: <U+202E>."""
    left_out = len(text) - MAX_TEXT
    if left_out > 0:
        text = f"{text[:MAX_TEXT]} ... ({left_out:,} more characters)"
    return _ACTING.sub(lambda match: f"<U+{ord(match[0]):04X}>", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Every stretch of white space as one space."""
    return re.sub(r"\s+", " ", visible(text))


def inlines(text: Text) -> tuple[Inline, ...]:
    return text if isinstance(text, tuple) else (text,)


def plain(text: Text) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in inlines(text))
