"""The state machine of a completion, fed by hand."""

from __future__ import annotations

import pytest

from nanochat.engine import Piece, Sampling
from nanochat.engine.turn import Turn
from nanochat.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(byte_tokenizer: Tokenizer) -> Tokenizer:
    return byte_tokenizer


def _turn(tokenizer: Tokenizer, *, num_prompt: int = 10, **sampling: object) -> Turn:
    how = Sampling(**sampling)  # type: ignore[arg-type]
    return Turn(tokenizer, how, num_prompt=num_prompt, context=100)


def _drive(turn: Turn, tokens: list[int]) -> list[Piece]:
    """Feed what the model would choose, letting the turn force its own in between."""
    shown: list[Piece] = []
    chosen = iter(tokens)
    while turn.reason is None:
        token = turn.forced
        if token is None:
            token = next(chosen, None)
            if token is None:
                break
        shown += turn.accept(token)
    return shown


@pytest.mark.parametrize("end", ["assistant_end", "bos"])
def test_stop_tokens_end_the_turn_and_are_not_kept(tokenizer: Tokenizer, end: str) -> None:
    turn = _turn(tokenizer)
    shown = _drive(turn, [*b"hi", getattr(tokenizer, end)])
    assert (turn.reason, turn.ids, turn.mask) == ("stop", [*b"hi"], [1, 1])
    assert shown == turn.pieces == [Piece("text", "h"), Piece("text", "i")]


def test_a_tool_call_forces_its_result(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer)
    code = [tokenizer.python_start, *b"6*7", tokenizer.python_end]
    shown = _drive(turn, [*b"=", *code, *b"!", tokenizer.assistant_end])
    assert shown == turn.pieces == [
        Piece("text", "="), Piece("tool_call", "6*7"), Piece("tool_output", "42"),
        Piece("text", "!"),
    ]  # fmt: skip
    result = [tokenizer.output_start, *b"42", tokenizer.output_end]
    assert turn.ids == [*b"=", *code, *result, *b"!"]
    assert turn.mask == [1] * 6 + [0] * 4 + [1]


def test_a_calculator_error_is_forced_as_text(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer)
    shown = _drive(turn, [tokenizer.python_start, *b"1/0", tokenizer.python_end])
    assert shown == [
        Piece("tool_call", "1/0"),
        Piece("tool_output", "error: division by zero"),
    ]
    assert turn.mask[-1] == 0
    assert turn.reason is None


def test_two_calls_in_one_turn(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer)
    start, end = tokenizer.python_start, tokenizer.python_end
    shown = _drive(turn, [start, *b"1+1", end, start, *b"2+2", end, tokenizer.assistant_end])
    assert [piece.text for piece in shown] == ["1+1", "2", "2+2", "4"]


def test_an_unfinished_call_is_not_text(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer)
    shown = _drive(turn, [*b"a", tokenizer.python_start, *b"1+", tokenizer.assistant_end])
    assert shown == [Piece("text", "a")]


def test_stray_special_tokens_are_not_text(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer)
    stray = [tokenizer.user_start, tokenizer.python_end, tokenizer.output_end, *b"a"]
    assert _drive(turn, stray) == [Piece("text", "a")]
    assert turn.ids == stray


def test_max_tokens_counts_forced_tokens(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer, max_tokens=5)
    _drive(turn, [tokenizer.python_start, *b"8", tokenizer.python_end, *b"xyz"])
    assert (turn.reason, len(turn.ids)) == ("length", 5)


def test_a_full_context_ends_the_turn(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer, num_prompt=97, max_tokens=50)
    _drive(turn, [*b"abcdef"])
    assert (turn.reason, turn.ids) == ("length", [*b"abc"])


def test_stop_text(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer, stop=("\n\n",))
    shown = _drive(turn, [*b"a\nb\n\nc"])
    assert (turn.reason, "".join(piece.text for piece in shown)) == ("stop", "a\nb")


def test_an_unfinished_character_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    turn = _turn(tokenizer, max_tokens=2)
    assert _drive(turn, [*"\u00e9\u00e9".encode()]) == [Piece("text", "\u00e9")]
    turn = _turn(tokenizer, max_tokens=1)
    assert _drive(turn, [*"\u00e9".encode()]) == turn.pieces == [Piece("text", "\ufffd")]
