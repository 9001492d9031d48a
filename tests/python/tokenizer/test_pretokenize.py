"""The scanners find tiktoken's pieces: classes, fuzz, bytes that are not UTF-8, endless runs."""

from __future__ import annotations

import random
import time

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import _core
from nanochat.testing.peers import tiktoken_pieces
from nanochat.tokenizer import CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN, SPLIT_PATTERN

PATTERNS = {
    "nanochat": SPLIT_PATTERN,
    "gpt4": GPT4_PATTERN,
    "gpt2": GPT2_PATTERN,
    "cl100k": CL100K_PATTERN,
}
each_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)

EVERY_BYTE = {bytes([i]): i for i in range(256)}
# One or more of every kind that the pattern tells apart, in every length of UTF-8.
TRICKY = "".join(
    [
        "'sdmtlverSDMTLVER\u017fxZ",  # apostrophe, contractions, long s
        "\xe9\xdf\u0130\u4e2d\u3042\ud55c\u05d0\u0e01\U00020000",  # letters
        "019\u0664\xb2\u2167\U0001d7d8",  # numbers
        "\r\n\n",
        " \t\x0b\x0c\x85\xa0\u3000\u2028",  # white space
        ".!-_\x00\x1c\u200b\u200d\u0301\ufe0f\U0001f600\ufffd\ue000",  # the rest
    ]
)


def matches(pattern: str, text: str) -> str:
    """The characters of ``text`` in matches of ``pattern``: tiktoken drops what does not match."""
    encoding = tiktoken.Encoding(
        "probe", pat_str=pattern, mergeable_ranks=EVERY_BYTE, special_tokens={}
    )
    return bytes(encoding.encode_ordinary(text)).decode()


def split(text: str | bytes, pattern: str = SPLIT_PATTERN) -> list[bytes]:
    return _core.bpe_pretokenize(text.encode() if isinstance(text, str) else text, pattern)


def test_class_of_every_code_point_is_tiktokens() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    expected = bytearray(0x110000)
    for pattern, cls in [(r"\p{L}", 1), (r"\p{N}", 2), (r"\s", 3), (r"[\r\n]", 4)]:
        for char in matches(pattern, every):
            expected[ord(char)] = cls
    assert bytes(map(_core.bpe_char_class, range(0x110000))) == bytes(expected)


def test_unicode_version_is_16() -> None:
    classes = [_core.bpe_char_class(c) for c in range(0x110000)]
    assert _core.UNICODE_VERSION == "16.0"
    assert (classes.count(1), classes.count(2), classes.count(3) + classes.count(4)) == (
        141_028,
        1_911,
        25,
    )


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        ("I'll we'RE it'street", ["I", "'ll", " we", "'RE", " it", "'s", "treet"]),
        ("x'\u017f 'l", ["x", "'\u017f", " '", "l"]),
        ("12345", ["12", "34", "5"]),
        ("a 1", ["a", " ", "1"]),
        ("a   b", ["a", "  ", " b"]),
        ("a   ", ["a", "   "]),
        ("a \n \n  b", ["a", " \n \n", " ", " b"]),
        ("x.\r\n\ny", ["x", ".\r\n\n", "y"]),
        ("\t\tif", ["\t", "\tif"]),
        (" ...a", [" ...", "a"]),
        ("e\u0301a", ["e", "\u0301a"]),
    ],
)
def test_pieces_by_hand(text: str, pieces: list[str]) -> None:
    assert [piece.decode() for piece in split(text)] == pieces
    assert tiktoken_pieces([text], SPLIT_PATTERN) == [[piece.encode() for piece in pieces]]


@pytest.mark.parametrize(
    ("pattern", "text", "pieces"),
    [
        ("gpt2", "I'll we'RE 12345", ["I", "'ll", " we", "'", "RE", " 12345"]),
        ("gpt2", "a \n \n  b\n", ["a", " \n \n ", " b", "\n"]),
        ("gpt2", "x.\r\n\ny\tz 's", ["x", ".", "\r\n", "\n", "y", "\t", "z", " '", "s"]),
        ("gpt4", "12345 a \n ", ["123", "45", " a", " \n", " "]),
        ("cl100k", "12345 a \n ", ["123", "45", " a", " \n "]),
        ("cl100k", "a \n  b \n", ["a", " \n", " ", " b", " \n"]),
    ],
)
def test_pieces_of_the_other_patterns_by_hand(pattern: str, text: str, pieces: list[str]) -> None:
    assert [piece.decode() for piece in split(text, PATTERNS[pattern])] == pieces
    assert tiktoken_pieces([text], PATTERNS[pattern]) == [[piece.encode() for piece in pieces]]


@each_pattern
def test_pieces_are_tiktokens_on_random_text(pattern: str) -> None:
    rng = random.Random(1)
    for _ in range(40):
        texts = ["".join(rng.choices(TRICKY, k=rng.randrange(1, 12))) for _ in range(250)]
        assert [split(text, pattern) for text in texts] == tiktoken_pieces(texts, pattern)


@each_pattern
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(TRICKY))))
def test_pieces_are_tiktokens_on_any_text(pattern: str, texts: list[str]) -> None:
    assert [split(text, pattern) for text in texts] == tiktoken_pieces(texts, pattern)


def test_pattern_without_a_scanner_is_refused() -> None:
    with pytest.raises(ValueError, match="no scanner for the pattern x"):
        split("x", "x")


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40) | st.text(TRICKY).map(lambda text: text.encode()[:-1]))
def test_each_byte_that_is_not_utf8_is_one_other_character(data: bytes) -> None:
    pieces = split(data)
    assert b"".join(pieces) == data
    # surrogateescape makes one character of each such byte, by the same rules.
    escaped = data.decode("utf-8", "surrogateescape")
    other = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in escaped)
    lengths = [len(piece.decode("utf-8", "surrogateescape")) for piece in pieces]
    assert lengths == [len(p.decode()) for p in split(other)]


@pytest.mark.parametrize(
    "invalid",
    [
        b"\xc0\xaf",  # overlong
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",  # a surrogate
        b"\xf4\x90\x80\x80",  # beyond U+10FFFF
        b"\xf8\x88\x80\x80\x80",
        b"\xe4\xb8",  # truncated
        b"\x80\x80",
    ],
)
def test_letters_join_one_invalid_byte_but_not_a_run_of_them(invalid: bytes) -> None:
    assert split(invalid + b"a") == [invalid, b"a"]
    assert split(b"\xffa") == [b"\xffa"]


@pytest.mark.parametrize("cut", range(1, 4))
def test_truncated_character_at_the_end_is_not_read_past(cut: int) -> None:
    assert split("a\U00020000".encode()[:-cut]) == [
        b"a",
        "\U00020000".encode()[:-cut],
    ]


@each_pattern
@pytest.mark.parametrize("unit", [" ", "a", "1", "\n", "!", "'", "\u3000", "\u4e2d", "\xff", " \n"])
def test_a_million_characters_in_a_row_take_linear_time(unit: str, pattern: str) -> None:
    data = (unit * 1_000_000 + "x").encode()
    started = time.perf_counter()
    assert b"".join(split(data, pattern)) == data
    assert time.perf_counter() - started < 2  # about 0.05 s; a quadratic scan would take minutes
