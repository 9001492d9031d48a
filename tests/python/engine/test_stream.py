"""The bridge from the engine thread to an event loop, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from nanochat.engine import Piece, Sampling, Stream
from nanochat.engine.request import Event, Request
from nanochat.engine.turn import Turn
from nanochat.tokenizer import Tokenizer


def _stream(tokenizer: Tokenizer, events: list[Event]) -> tuple[Stream, Request]:
    """A stream whose engine delivers ``events``, then the completion, before anybody listens."""
    made: list[Request] = []

    def submit(deliver: Callable[[Event], None]) -> Request:
        turn = Turn(tokenizer, Sampling(), num_prompt=1, context=10)
        request = Request([0], Sampling(seed=5), turn, deliver)
        made.append(request)
        for event in events:
            deliver(event)
        turn.finish("stop")
        deliver(request.completion())
        return request

    return Stream(submit), made[0]


def test_text_that_gathered_comes_as_one_piece(byte_tokenizer: Tokenizer) -> None:
    async def main() -> None:
        call = Piece("tool_call", "1+1")
        stream, _ = _stream(
            byte_tokenizer,
            [Piece("text", "a"), Piece("text", "b"), call, Piece("text", "c"), Piece("text", "d")],
        )
        assert stream.completion is None
        assert [piece async for piece in stream] == [Piece("text", "ab"), call, Piece("text", "cd")]
        assert stream.completion is not None
        assert (stream.completion.reason, stream.completion.seed, stream.seed) == ("stop", 5, 5)
        assert [piece async for piece in stream] == []  # the end stays the end

    asyncio.run(main())


def test_an_error_is_raised_every_time(byte_tokenizer: Tokenizer) -> None:
    async def main() -> None:
        stream, _ = _stream(byte_tokenizer, [Piece("text", "a"), OSError("broken")])
        assert await anext(stream) == Piece("text", "a")
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                await anext(stream)

    asyncio.run(main())


def test_a_dropped_stream_cancels(byte_tokenizer: Tokenizer) -> None:
    async def main() -> None:
        stream, request = _stream(byte_tokenizer, [Piece("text", "a")])
        async for _ in stream:
            break
        assert not request.is_cancelled
        del stream
        assert request.is_cancelled

    asyncio.run(main())


def test_delivery_to_a_closed_loop_is_harmless(byte_tokenizer: Tokenizer) -> None:
    async def main() -> Request:
        return _stream(byte_tokenizer, [])[1]

    request = asyncio.run(main())
    request.deliver(Piece("text", "late"))
    assert request.is_cancelled
