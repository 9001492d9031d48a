"""The markdown is what it says: parsed by another's parser, nothing of the data acts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nanochat.report import markdown
from nanochat.report.content import Code, Facts, Page, Paragraph, Row, Section, Table

from .conftest import HOSTILE_TEXT, change, page_of


def tokens_of(text: str) -> list[Token]:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    return tokens + [child for token in tokens for child in token.children or ()]


def page_with(text: str) -> str:
    table = Table(text, (text, "b"), (Row((text, Code(text))), Row((Code(text), text), "part")))
    blocks = (Paragraph(text), Paragraph(("x", Code(text))), table)
    page = Page(text, Facts(((text, text),)), (Paragraph(text),), (Section(text, blocks),))
    return markdown.render(page, lambda name: name)


@pytest.mark.parametrize(
    "text", [*HOSTILE_TEXT, "- item", "1. item", "===", "+", "=", "`", "a|b\\"]
)
def test_data_cannot_act(text: str) -> None:
    tokens = tokens_of(page_with(text))
    kinds = {token.type for token in tokens}
    acting = {"html_inline", "html_block", "link_open", "image", "hr", "fence", "code_block"}
    acting |= {"blockquote_open", "bullet_list_open", "ordered_list_open", "em_open"}
    assert not kinds & acting
    assert sum(token.type == "heading_open" for token in tokens) == 2
    assert sum(token.type == "tr_open" for token in tokens) == 3
    assert sum(token.type in ("td_open", "th_open") for token in tokens) == 6
    prose = [token.content for token in tokens if token.type == "inline"]
    assert not any("://" in line.replace("`", "") for line in prose if "`" not in line)


@pytest.mark.parametrize("address", ["https://a.example", "www.a.example", "a@b.example"])
def test_no_address_is_left_for_a_renderer_to_link(address: str) -> None:
    assert address not in page_with(address).replace(f"`{address}`", "")


def test_what_models_say_stays_in_its_block(run_dir: Path) -> None:
    change(run_dir, "base_eval", samples=HOSTILE_TEXT)
    tokens = tokens_of(page_of(run_dir))
    fences = [token for token in tokens if token.type == "fence"]
    assert len(fences) == 2 + len(HOSTILE_TEXT) + 1  # conversations, samples, how to talk to it
    for fence in fences[:-1]:
        for line in fence.content.splitlines():
            assert line[8:10] == " |"
            assert len(line) <= 100
    assert not {t.type for t in tokens} & {"html_inline", "html_block", "link_open"}


def test_conversations_read_well(run_dir: Path) -> None:
    text = page_of(run_dir)
    assert "     You | What is 12 times 7?\n" in text
    assert "nanochat | Let me compute. [12*7 = 84] It is 84.\n" in text


def test_code_with_backticks() -> None:
    spans = [t.content for t in tokens_of(page_with("a ``b` c`")) if t.type == "code_inline"]
    assert spans == 3 * ["a ``b` c`"]


def test_a_bar_in_the_code_of_a_table() -> None:
    """A parser drops the cells that a row has beyond its header, so their number proves nothing."""
    command = "a \\| b || c"
    tokens = MarkdownIt("commonmark").enable("table").parse(page_with(command))
    cells = [
        "".join(child.content for child in cell.children or ())
        for before, cell in pairwise(tokens)
        if before.type == "td_open"
    ]
    assert [cell.strip() for cell in cells] == 4 * [command]
