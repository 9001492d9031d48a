"""Streamed text equals the text at once, whatever the cuts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanochat.engine.text import TextStream


def _feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(stop)
    shown = [stream.push(piece) for piece in pieces]
    shown.append(stream.flush())
    return shown, stream


@given(st.lists(st.binary(max_size=5)) | st.text().map(lambda t: [bytes([b]) for b in t.encode()]))
def test_any_cut_gives_the_same_text(pieces: list[bytes]) -> None:
    shown, _ = _feed(pieces)
    assert "".join(shown) == b"".join(pieces).decode("utf-8", "replace")


def test_a_character_appears_when_it_is_complete() -> None:
    cut = [bytes([byte]) for byte in "a\U0001f600b".encode()]
    shown, _ = _feed(cut)
    assert shown == ["a", "", "", "", "\U0001f600", "b", ""]


def test_an_unfinished_character_is_replaced_at_the_end_only() -> None:
    assert _feed([b"a", b"\xf0\x9f"])[0] == ["a", "", "\ufffd"]


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_texts_cut_at_their_first_occurrence(text: str, stops: list[str]) -> None:
    shown, stream = _feed([char.encode() for char in text], tuple(stops))
    # Of two stop texts the one that is complete first counts, which is what a stream can know.
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops) or "\0")]
    if not ends:
        assert "".join(shown) == text
        assert not stream.stopped
        return
    head = text[: ends[0]]
    assert "".join(shown) == head[: min(head.find(stop) for stop in stops if stop in head)]
    assert stream.stopped


def test_what_may_become_a_stop_text_is_held_back() -> None:
    assert _feed([b"x", b"E", b"N", b"y", b"E", b"N", b"D", b"z"], ("END",))[0] == [
        "x", "", "", "ENy", "", "", "", "", ""
    ]  # fmt: skip
