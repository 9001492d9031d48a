"""Text that would act in any medium is spelled out, and nothing else is touched."""

from __future__ import annotations

import pytest

from nanochat.report.content import MAX_TEXT, Code, Row, Table, one_line, plain, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nb<U+000D>c"),
        ("\x00\x1b[2J", "<U+0000><U+001B>[2J"),
        ("\u202egpj.exe", "<U+202E>gpj.exe"),
        ("\ud83d", "<U+D83D>"),
        (
            "caf\u00e9 \u4f60\u597d \U0001f600\u200d \u05d0",
            "caf\u00e9 \u4f60\u597d \U0001f600\u200d \u05d0",
        ),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(visible(text)) == shown
    shown.encode()


def test_long_text_says_how_much_is_left_out() -> None:
    assert visible(MAX_TEXT * "x") == MAX_TEXT * "x"
    assert visible((MAX_TEXT + 1234) * "x").endswith("x ... (1,234 more characters)")


def test_one_line() -> None:
    assert one_line("a\n\n b\t") == "a b "


def test_plain() -> None:
    assert plain(("a ", Code("b"))) == "a b"
    assert plain(Code("b")) == "b"


def test_a_table_without_a_column() -> None:
    table = Table("t", ("a", "b", "c"), (Row(("1", "2", "3"), "part"),))
    assert table.without_column("b") == Table("t", ("a", "c"), (Row(("1", "3"), "part"),))
