"""A websocket client of nanochat.v1 for programs and terminals: one answer at a time.

It knows nothing of the server but the protocol, and keeps the conversation, which goes along whole
with every question.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from nanochat.common.errors import UserError

SUBPROTOCOL = Subprotocol("nanochat.v1")
OPEN_TIMEOUT_S = 10.0
_ID = "r1"  # of the one request of a connection


@dataclass(frozen=True)
class Text:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class Tool:
    """The model ran ``code``, and this came out."""

    code: str
    output: str


@dataclass(frozen=True)
class Done:
    """The end of an answer."""

    reason: str
    seed: int
    usage: dict[str, Any]


class ChatError(Exception):
    """The server refused a question, or failed at it."""


class Client:
    """A conversation with the server at ``url``.

    A connection lives as long as one answer, since the protocol needs none in between: a person may
    think for an hour, and the server may be restarted meanwhile.

    Args:
        url: Where the page is (http), or the socket itself (ws); ``/ws`` is added to a bare host.
        token: Sent in the handshake.
        sampling: Fields of the protocol's ``sampling`` object; the server fills in the others.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        system: str | None = None,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        self.url = websocket_url(url)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._system = system
        self._sampling = sampling or {}
        self._connection: ClientConnection | None = None
        self._messages: list[dict[str, Any]] = []
        self.clear()

    async def model(self) -> dict[str, Any]:
        """What the server says of its model. Raises: UserError if it cannot be reached."""
        async with self._connected() as (_, hello):
            model: dict[str, Any] = hello["model"]
            return model

    def clear(self) -> None:
        """Forget the conversation, not the system message."""
        self._messages = []
        if self._system is not None:
            self._messages.append({"role": "system", "content": self._system})

    async def ask(self, question: str) -> AsyncIterator[Text | Tool | Done]:
        """The answer as it comes, ending with :class:`Done`; then both are in the conversation.

        Raises: ChatError if the server refuses, and the question is forgotten; UserError if it
            cannot be reached or the connection is lost.
        """
        messages = [*self._messages, {"role": "user", "content": question}]
        request = {"type": "chat", "id": _ID, "messages": messages, "sampling": self._sampling}
        parts: list[dict[str, str]] = []
        async with self._connected() as (connection, _):
            await connection.send(json.dumps(request))
            while True:
                message = await self._receive(connection)
                if message["type"] == "error":
                    raise ChatError(f"{message['code']}: {message['message']}")
                if message["type"] == "delta":
                    parts.append({"type": "text", "text": message["text"]})
                    yield Text(message["text"])
                elif message["type"] == "tool":
                    parts.append({"type": "python", "text": message["input"]})
                    parts.append({"type": "python_output", "text": message["output"]})
                    yield Tool(message["input"], message["output"])
                elif message["type"] == "done":
                    self._messages = [*messages, {"role": "assistant", "content": _joined(parts)}]
                    yield Done(message["reason"], message["seed"], message["usage"])
                    return

    async def stop(self) -> None:
        """Ask the server to end the running answer, if there is one; ``ask`` comes to its Done."""
        if self._connection is not None:
            with suppress(websockets.ConnectionClosed):  # then ``ask`` is about to say so
                await self._connection.send(json.dumps({"type": "stop", "id": _ID}))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
        """A connection after its hello. Turns whatever fails on it into a UserError."""
        try:
            async with websockets.connect(
                self.url,
                subprotocols=[SUBPROTOCOL],
                additional_headers=self._headers,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                proxy=None,  # a model is served from near
            ) as connection:
                hello = await self._receive(connection)
                if hello["type"] != "hello":
                    raise UserError(f"chat: {self.url} does not speak {SUBPROTOCOL}")
                self._connection = connection
                yield connection, hello
        except (OSError, websockets.WebSocketException) as error:
            hint = "; is the server running?" if isinstance(error, OSError) else ""
            raise UserError(f"chat: cannot talk to {self.url}: {error}{hint}") from error
        finally:
            self._connection = None

    async def _receive(self, connection: ClientConnection) -> dict[str, Any]:
        frame = await connection.recv()
        try:
            message = json.loads(frame)
        except ValueError:
            message = None
        if not isinstance(message, dict) or "type" not in message:
            raise UserError(f"chat: {self.url} does not speak {SUBPROTOCOL}")
        return message


def websocket_url(url: str) -> str:
    """``http://host:8000`` and ``ws://host:8000/ws`` are the same server.

    Raises: UserError for anything that is not an address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise UserError(f"chat: a server is given as http://host:port, got {url}")
    path = parts.path if parts.path not in ("", "/") else "/ws"
    return f"{scheme}://{parts.netloc}{path}"


def _joined(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    """Neighbouring stretches of text as one."""
    joined: list[dict[str, str]] = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text":
            joined[-1]["text"] += part["text"]
        else:
            joined.append(dict(part))
    return joined
