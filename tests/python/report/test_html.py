"""The page as a browser meets it: well formed, self-contained, and deaf to what models say."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from nanochat.report import html
from nanochat.report.card import card
from nanochat.report.comparison import comparison
from nanochat.report.content import Code, Facts, Page, Paragraph, Row, Sample, Section, Table
from nanochat.report.runs import read_run

from .conftest import HOSTILE_TEXT, change

VOID = {"meta"}
NO_END = {"path"}  # self-closing inside SVG


class Document(HTMLParser):
    """Checks the nesting while it reads; keeps elements, text by element, and the style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in NO_END
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_with(text: str) -> Page:
    table = Table(text, (text, "b"), (Row((text, Code(text))),))
    section = Section("Only", (Paragraph(text), table, Sample(text)))
    return Page(text, Facts(((text, text),)), (Paragraph(text),), (section,))


def check(text: str) -> Document:
    """What holds for every page."""
    document = Document(text)
    attributes = [
        (tag, name, value or "") for tag, a in document.elements for name, value in a.items()
    ]
    assert not [name for _, name, _ in attributes if name.startswith("on") or name == "style"]
    for _, name, value in attributes:
        assert name not in ("src", "srcset", "action", "xlink:href")
        if name == "href":
            assert value.startswith("#")
    tags = {tag for tag, _ in document.elements}
    assert not tags & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "img",
        "image",
    }
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in attributes if name == "href"} == set(ids)
    headings = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    for svg in document.all("svg"):
        assert svg["role"] == "img" and svg["aria-label"]
    assert all(cell["scope"] in ("col", "row") for cell in document.all("th"))
    assert text.count("<caption>") == text.count("<table>")
    return document


def test_a_card_is_one_sound_file(run_dir: Path) -> None:
    text = html.render(card(read_run(run_dir), dollars_per_hour=3.0))
    document = check(text)
    assert len(document.all("svg")) == 3  # accuracies, loss, throughput
    assert ("dd", "36.7M") in document.texts
    assert ("code", "12*7") in document.texts


def test_a_comparison_is_one_too(run_dir: Path, other_run: Path) -> None:
    runs = [read_run(run_dir), read_run(other_run)]
    check(html.render(comparison(runs, dollars_per_hour=0.0)))


@pytest.mark.parametrize("text", HOSTILE_TEXT)
def test_data_cannot_act(text: str) -> None:
    document = check(html.render(page_with(text)))
    plain = check(html.render(page_with("plain")))
    assert [tag for tag, _ in document.elements] == [tag for tag, _ in plain.elements]


def test_hostile_records_leave_the_page_as_it_is(run_dir: Path) -> None:
    """Whatever a foreign record holds in its strings."""
    for text in HOSTILE_TEXT:
        change(
            run_dir,
            "base_eval",
            command=text, commit=text, samples=[text], config={text: text}, backends={text: text},
            metrics={text: 1.0, f"{text}_bpb": 2.0},
        )  # fmt: skip
        page = html.render(card(read_run(run_dir), dollars_per_hour=0.0))
        check(page)
        page.encode()
        assert not re.search("[\\x00-\\x08\\u202a-\\u202e]", page)


def test_the_policy_allows_this_style_and_nothing_else(run_dir: Path) -> None:
    text = html.render(card(read_run(run_dir), dollars_per_hour=0.0))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None and text.count("<style") == 1
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policies = [m for m in Document(text).all("meta") if m.get("http-equiv")]
    assert [policy["content"] for policy in policies] == [
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert text.index("Content-Security-Policy") < text.index("<style")
    assert not re.search(r"url\(|@import|expression", style[1])


def test_colours_have_contrast() -> None:
    """WCAG AA, 4.5 to 1, for text on each ground that it stands on, light and dark."""
    style = (Path(html.__file__).parent / "chart.css").read_text()
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    for palette in (light, dark):
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", palette))
        for text in ("ink", "muted", "accent"):
            for ground in ("paper", "raised", "sunken", "tint"):
                assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
        for i in range(6):  # graphics: 3 to 1
            assert contrast(colors[f"c{i}"], colors["paper"]) >= 3


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
