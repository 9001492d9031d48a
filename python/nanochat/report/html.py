"""A page as one HTML file: figures and style inside, no script, nothing loaded from elsewhere.

The policy in its head allows this one style, by its hash, and nothing else: should a character of
model output ever act as markup, a browser would still refuse to run, load or send anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from pathlib import Path

from nanochat.report.content import (
    Block,
    Code,
    Console,
    Conversation,
    Facts,
    Figure,
    Figures,
    Message,
    Page,
    Paragraph,
    Part,
    Row,
    Sample,
    Section,
    Table,
    Text,
    inlines,
    visible,
)

_HERE = Path(__file__).parent
CHART_STYLE = (_HERE / "chart.css").read_text()


def render(page: Page) -> str:
    """The whole file."""
    style = CHART_STYLE + (_HERE / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    links = "".join(f'<a href="#{slug(s.title)}">{_escape(s.title)}</a>' for s in page.sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_escape(page.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{_escape(page.title)}</h1>\n{_facts(page.facts)}\n"
        + "\n".join(f"<p>{_text(note.text)}</p>" for note in page.notes)
        + f'\n<nav aria-label="Sections">{links}</nav>\n</header>\n<main>\n'
        + "\n".join(_section(section) for section in page.sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section) -> str:
    name = slug(section.title)
    blocks = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{_escape(section.title)}</h2>\n'
        f"{blocks}\n</section>"
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Facts():
            return _facts(block)
        case Table():
            return _table(block)
        case Figures(caption, figures):
            images = "\n".join(_figure(figure) for figure in figures)
            return (
                f"<figure>\n<figcaption>{_escape(caption)}</figcaption>\n"
                f'<div class="charts">\n{images}\n</div>\n</figure>'
            )
        case Conversation(messages):
            return f'<ol class="talk">\n{"".join(_message(message) for message in messages)}</ol>'
        case Sample(text):
            return f'<blockquote dir="auto">{_escape(text)}</blockquote>'
        case Console(text):
            return f"<pre>{_escape(text)}</pre>"


def _facts(facts: Facts) -> str:
    items = "".join(
        f"<div><dt>{_escape(label)}</dt><dd>{_escape(value)}</dd></div>"
        for value, label in facts.items
    )
    return f'<dl class="facts">{items}</dl>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in table.header)
    rows = "\n".join(_row(row) for row in table.rows)
    caption = _escape(table.caption)
    # A wide table scrolls by itself, by keyboard too, so that the page never does.
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">\n<table>\n'
        f"<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n"
        "</tbody>\n</table>\n</div>"
    )


def _row(row: Row) -> str:
    name, *cells = row.cells
    kind = f' class="{row.kind}"' if row.kind else ""
    rest = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
    return f'<tr{kind}><th scope="row">{_text(name)}</th>{rest}</tr>'


def _figure(figure: Figure) -> str:
    """An SVG of ours, which has escaped what it shows."""
    return figure.svg.replace("<svg ", f'<svg role="img" aria-label="{_escape(figure.alt)}" ', 1)


def _message(message: Message) -> str:
    parts = "".join(_part(part) for part in message.parts)
    return (
        f'<li class="{slug(message.speaker)}"><span class="speaker">{_escape(message.speaker)}'
        f'</span><div class="said" dir="auto">{parts}</div></li>\n'
    )


def _part(part: Part) -> str:
    text = _escape(part.text)
    return text if part.kind == "text" else f'<code class="{part.kind}">{text}</code> '


def _text(text: Text) -> str:
    return "".join(
        f"<code>{_escape(part.text)}</code>" if isinstance(part, Code) else _escape(part)
        for part in inlines(text)
    )


def _escape(text: str) -> str:
    return escape(visible(text))
