"""The client against the real server with a tiny model, in one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
import websockets
from websockets.asyncio.server import ServerConnection

from nanochat.chat.client import ChatError, Client, Done, Text, Tool, websocket_url
from nanochat.common.errors import UserError
from nanochat.engine import Engine
from nanochat.serve.server import listen


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(limited())


async def _ask(client: Client, question: str) -> tuple[str, Done]:
    pieces = [piece async for piece in client.ask(question)]
    done = pieces[-1]
    assert isinstance(done, Done)
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)), done


def test_a_conversation_goes_along_whole(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0, name="tiny") as url:
            client = Client(url, system="Be brief.", sampling={"max_tokens": 12, "seed": 1})
            assert (await client.model())["name"] == "tiny"
            first, done = await _ask(client, "hi")
            assert done.seed == 1
            _, later = await _ask(client, "and?")
            assert later.usage["prompt_tokens"] > done.usage["prompt_tokens"] + len("and?")
            client.clear()
            again, done_again = await _ask(client, "hi")
            assert again == first
            assert done_again.usage["prompt_tokens"] == done.usage["prompt_tokens"]

    _run(main)


def test_stop_ends_the_answer(unhurried_engine: Engine) -> None:
    async def main() -> None:
        async with listen(unhurried_engine, port=0) as url:
            client = Client(url, sampling={"max_tokens": 300, "seed": 1})
            await client.stop()  # nothing runs: nothing happens
            reason = ""
            async for piece in client.ask("hi"):
                await client.stop()
                if isinstance(piece, Done):
                    reason = piece.reason
            assert reason == "cancelled"

    _run(main)


def test_a_refusal_leaves_the_conversation_as_it_was(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0) as url:
            client = Client(url, sampling={"max_tokens": 4, "seed": 1})
            with pytest.raises(ChatError, match=r"too_long: .* 404 tokens and the context 320"):
                await _ask(client, "x" * 400)
            assert (await _ask(client, "hi"))[0]

    _run(main)


def test_a_token_goes_into_the_handshake(tiny_engine: Engine) -> None:
    async def main() -> None:
        async with listen(tiny_engine, port=0, token="sesame") as url:
            with pytest.raises(ChatError, match="unauthorized"):
                await _ask(Client(url), "hi")
            client = Client(url, token="sesame", sampling={"max_tokens": 2})
            assert (await _ask(client, "hi"))[1].reason == "length"

    _run(main)


def test_servers_that_are_not_ours() -> None:
    async def speak(connection: ServerConnection) -> None:
        frame = {"/text": "hello", "/list": "[]", "/other": '{"type": "hola"}'}
        assert connection.request is not None
        if connection.request.path in frame:
            await connection.send(frame[connection.request.path])

    async def main() -> None:
        async with websockets.serve(speak, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for path in ("/text", "/list", "/other"):
                with pytest.raises(UserError, match=r"does not speak nanochat\.v1"):
                    await Client(f"ws://127.0.0.1:{port}{path}").model()
            with pytest.raises(UserError, match="cannot talk to"):
                await Client(f"ws://127.0.0.1:{port}/hangs-up").model()
        with pytest.raises(UserError, match="is the server running"):
            await Client(f"http://127.0.0.1:{port}").model()

    _run(main)


def test_tool_calls_are_shown_and_sent_back() -> None:
    got: list[dict[str, object]] = []

    async def scripted(connection: ServerConnection) -> None:
        await connection.send('{"type": "hello", "model": {}}')
        got.append(json.loads(await connection.recv()))
        for message in (
            {"type": "start"},
            {"type": "delta", "text": "It "},
            {"type": "delta", "text": "is "},
            {"type": "tool", "name": "calculator", "input": "6*7", "output": "42"},
            {"type": "delta", "text": "42."},
            {"type": "done", "reason": "stop", "seed": 1, "usage": {}},
        ):
            await connection.send(json.dumps({**message, "id": "r1"}))

    async def main() -> None:
        async with websockets.serve(scripted, "127.0.0.1", 0) as server:
            client = Client(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            pieces = [piece async for piece in client.ask("6*7?")]
            assert pieces[2] == Tool("6*7", "42")
            await _ask(client, "sure?")
        assert got[1]["messages"] == [
            {"role": "user", "content": "6*7?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "It is "},
                    {"type": "python", "text": "6*7"},
                    {"type": "python_output", "text": "42"},
                    {"type": "text", "text": "42."},
                ],
            },
            {"role": "user", "content": "sure?"},
        ]

    _run(main)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:8000", "ws://host:8000/ws"),
        ("http://host:8000/", "ws://host:8000/ws"),
        ("https://host", "wss://host/ws"),
        ("ws://host:1/ws", "ws://host:1/ws"),
        ("ws://host:1/other", "ws://host:1/other"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    assert websocket_url(url) == expected


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://host", "http://"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="given as http://host:port"):
        websocket_url(url)
