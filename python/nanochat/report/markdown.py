"""A page as GitHub-flavoured markdown, its figures as files beside it.

Nothing that a model, a user or another machine wrote may act as markdown or HTML. In prose and
tables all punctuation is escaped; literal text stands in code spans; what models said stands in
code blocks whose every line begins with a margin, so that no line of it can end the block.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

from nanochat.report.content import (
    Block,
    Code,
    Console,
    Conversation,
    Facts,
    Figures,
    Message,
    Page,
    Paragraph,
    Part,
    Sample,
    Table,
    Text,
    inlines,
    one_line,
    plain,
    visible,
)

WIDTH = 88  # characters of a line of what a model said

FigurePath = Callable[[str], str]  # name of a figure to the address of its file


def render(page: Page, figure_path: FigurePath) -> str:
    """The whole page."""
    parts = [f"# {_escape(page.title)}", _facts(page.facts)]
    parts += [_block(note, figure_path) for note in page.notes]
    for section in page.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [_block(block, figure_path) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, figure_path: FigurePath) -> str:
    match block:
        case Paragraph(text):
            # What would begin a list or underline a heading at the start of a line.
            return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", _text(text))
        case Facts():
            return _facts(block)
        case Table():
            return _table(block)
        case Figures(caption, figures):
            images = (f"![{_escape(f.alt)}]({figure_path(f.name)})" for f in figures)
            return "\n\n".join([f"**{_escape(caption)}**", "\n".join(images)])
        case Conversation(messages):
            return _fenced("\n".join(_message(message) for message in messages))
        case Sample(text):
            return _fenced(_margin("", text))
        case Console(text):
            return _fenced(visible(text))


def _facts(facts: Facts) -> str:
    return " \u00b7 ".join(f"**{_escape(value)}** {_escape(label)}" for value, label in facts.items)


def _table(table: Table) -> str:
    lines = [[_escape(name) for name in table.header], ["---"] * len(table.header)]
    for row in table.rows:
        cells = [_text(cell, in_table=True) for cell in row.cells]
        if row.kind == "part":
            cells[0] = f"&nbsp;&nbsp;{cells[0]}"
        elif row.kind == "sum":
            cells[0] = f"**{cells[0]}**"
        lines.append(cells)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{_escape(table.caption)}**\n\n{rows}"


def _text(text: Text, *, in_table: bool = False) -> str:
    """Code with a bar is prose in a table: no escape of it is read alike by all parsers."""
    return "".join(
        _code(part.text)
        if isinstance(part, Code) and not (in_table and "|" in part.text)
        else _escape(plain(part))
        for part in inlines(text)
    )


def _escape(text: str) -> str:
    """Prose on one line in which no character acts, and no address becomes a link."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", one_line(text))
    escaped = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp|javascript):", r"\1&#58;", escaped)
    return re.sub(r"(?i)\b(www)\.", r"\1&#46;", escaped).replace("@", "&#64;")


def _code(text: str) -> str:
    """A code span on one line that no backtick inside can end."""
    text = one_line(text).strip()
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text[0] in "`" or text[-1] in "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _message(message: Message) -> str:
    return _margin(message.speaker, "".join(_part(part) for part in message.parts))


def _part(part: Part) -> str:
    """A tool call reads [12*7 = 84]."""
    if part.kind == "python":
        return f"[{part.text}"
    return f" = {part.text}] " if part.kind == "python_output" else part.text


def _margin(speaker: str, text: str) -> str:
    """``text`` behind a margin that names the speaker on the first line."""
    lines = [
        wrapped
        for line in visible(text).expandtabs(4).split("\n")
        for wrapped in textwrap.wrap(line, WIDTH, replace_whitespace=False) or [""]
    ]
    margins = [f"{speaker:>8} | ", *["         | "] * (len(lines) - 1)]
    return "\n".join((m + line).rstrip() for m, line in zip(margins, lines, strict=True))
