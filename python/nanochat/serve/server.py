"""The websocket server: a shell around protocol.py, routes.py and the engine.

One event loop, one reader per socket and one task per answer; the engine runs on its own thread and
tokenising on a worker, so the loop never blocks. A socket that closes drops its answers, which
cancels them in the engine within a step. A client that reads slowly blocks only its own tasks: text
gathers in its streams (bounded by max_tokens) and goes out as fewer, longer deltas.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import websockets
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.engine import Engine, Sampling, Stream
from nanochat.serve import routes
from nanochat.serve.history import newest_turns
from nanochat.serve.metrics import Metrics
from nanochat.serve.protocol import SUBPROTOCOL, Chat, Limits, Protocol, Refused, Stop

DEFAULTS = Sampling(max_tokens=256, temperature=0.6, top_k=50)
MAX_QUEUED = 256  # requests that wait for a slot, over all sockets; more are told busy
MAX_FRAME_BYTES = 1 << 20  # a longer frame ends its socket with close code 1009
CLOSE_TIMEOUT_S = 2.0  # what a client that does not answer may delay our end by

_log = logging.getLogger("nanochat.serve")


def serve(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "nanochat",
    token: str | None = None,
    stop_with_stdin: bool = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; prints ``chat page: URL`` when ready. The engine stays open.

    Args:
        port: 0 takes a free one.
        token: Secret that clients must show; required when ``host`` is not this machine's own.
        stop_with_stdin: Also end when standard input ends: the server then cannot outlive the
            program that started it.
    Raises: UserError if the address cannot be bound.
    """
    asyncio.run(_serve_until_told(engine, host, port, name, token, stop_with_stdin))


async def _serve_until_told(
    engine: Engine, host: str, port: int, name: str, token: str | None, stop_with_stdin: bool
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if stop_with_stdin:

        def drain() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin)
                stop.set()

        loop.add_reader(sys.stdin, drain)
    async with listen(engine, host=host, port=port, name=name, token=token) as url:
        say(f"chat page: {url}")
        await stop.wait()


@asynccontextmanager
async def listen(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "nanochat",
    token: str | None = None,
    max_queued: int = MAX_QUEUED,
) -> AsyncIterator[str]:
    """A server in a running event loop while the block lasts; gives the URL of its page."""
    if token is None and not routes.is_loopback(host):
        raise UserError(f"serve: --host {host} opens the model to the network; add --token SECRET")
    server = _Server(engine, name=name, token=token, max_queued=max_queued)
    pages = routes.Routes(routes.is_loopback(host), server.health, server.metrics_text)

    def process_request(_: ServerConnection, request: Request) -> Response | None:
        return pages.respond(request)

    def select_subprotocol(
        _: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None

    try:
        listener = await websockets.serve(
            server.handle,
            host,
            port,
            process_request=process_request,
            select_subprotocol=select_subprotocol,
            compression=None,  # deltas are short: it would cost memory and gain little
            max_size=MAX_FRAME_BYTES,
            close_timeout=CLOSE_TIMEOUT_S,
            logger=_quiet_logger(),
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"serve: port {port} of {host} is in use; stop the other program or give --port"
            ) from None
        raise UserError(f"serve: cannot listen on {host} port {port}: {error.strerror}") from None
    async with listener:
        bound = listener.sockets[0].getsockname()[1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/"


def _quiet_logger() -> logging.Logger:
    """The library's log without the traceback for every stranger that speaks no HTTP."""
    logger = logging.getLogger("nanochat.serve.websockets")
    logger.addFilter(_is_not_a_failed_handshake)
    return logger


def _is_not_a_failed_handshake(record: logging.LogRecord) -> bool:
    return "handshake failed" not in record.getMessage()


class _Server:
    """What the sockets share."""

    def __init__(self, engine: Engine, *, name: str, token: str | None, max_queued: int) -> None:
        config = engine.config
        self.engine = engine
        self.token = token
        self.max_queued = max_queued
        self.metrics = Metrics()
        self.limits = Limits(context=engine.context)
        self.model: dict[str, Any] = {
            "name": name,
            "arch": config.arch,
            "n_layer": config.n_layer,
            "n_embd": config.n_embd,
            "vocab_size": config.vocab_size,
            "parameters": config.num_parameters(),
        }
        self._num_connections = 0
        self._started_s = time.monotonic()

    async def handle(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        is_authorized = self.token is not None and routes.bears_token(request, self.token)
        protocol = Protocol(
            self.limits, defaults=DEFAULTS, token=self.token, is_authorized=is_authorized
        )
        self._num_connections += 1
        try:
            await _Socket(self, connection, protocol).run()
        finally:
            self._num_connections -= 1

    def health(self) -> tuple[HTTPStatus, dict[str, Any]]:
        uptime_s = round(time.monotonic() - self._started_s, 1)
        facts = {"status": "ok", "model": self.model, "uptime_s": uptime_s}
        if self.engine.failure is not None:
            return HTTPStatus.SERVICE_UNAVAILABLE, {**facts, "status": "failed"}
        return HTTPStatus.OK, facts

    def metrics_text(self) -> str:
        return self.metrics.text(
            connections=self._num_connections,
            running=self.engine.num_running,
            queued=self.engine.num_queued,
            engine=self.engine.statistics(),
            uptime_s=round(time.monotonic() - self._started_s, 3),
        )


@dataclass
class _Answer:
    """A request of one socket from its arrival to its last message."""

    chat: Chat
    stream: Stream | None = None  # None while its prompt is being rendered
    num_dropped: int = 0  # oldest messages that the model does not see
    is_stopped: bool = False

    def stop(self) -> None:
        self.is_stopped = True
        if self.stream is not None:
            self.stream.cancel()


class _Socket:
    """One client: reads its frames, and runs a task for each of its answers."""

    def __init__(self, server: _Server, connection: ServerConnection, protocol: Protocol) -> None:
        self._server = server
        self._connection = connection
        self._protocol = protocol
        self._answers: dict[str, _Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            await self._connection.send(self._protocol.hello(self._server.model))
            async for frame in self._connection:
                await self._receive(frame)
        except websockets.ConnectionClosed:
            pass  # gone without a goodbye
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _receive(self, frame: str | bytes) -> None:
        match self._protocol.receive(frame):
            case Chat() as chat:
                answer = self._answers[chat.id] = _Answer(chat)
                task = asyncio.create_task(self._run_answer(answer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Stop(id=request_id):
                if request_id in self._answers:
                    self._answers[request_id].stop()
            case Refused() as refused:
                await self._refuse(refused)

    async def _run_answer(self, answer: _Answer) -> None:
        chat = answer.chat
        try:
            refused = await self._begin(answer)
            if refused is not None:
                await self._refuse(refused)
            else:
                await self._send_answer(answer)
        except websockets.ConnectionClosed:
            pass  # the reader sees it too, and ends the socket
        except Exception as error:  # told to the client, and to our log in full
            _log.error("serve: an answer failed", exc_info=error)
            message = "the engine failed; the server's log says why"
            with suppress(websockets.ConnectionClosed):
                await self._refuse(Refused(chat.id, "internal", message))
        finally:
            answer.stop()
            if self._answers.get(chat.id) is answer:  # else the client has used the id again
                del self._answers[chat.id]

    async def _begin(self, answer: _Answer) -> Refused | None:
        """Render the prompt and hand it to the engine, if it fits and there is room."""
        server, engine, chat = self._server, self._server.engine, answer.chat
        room = min(chat.sampling.max_tokens, engine.context // 3)  # left for the answer
        ids, answer.num_dropped = await asyncio.to_thread(
            newest_turns, engine.tokenizer, chat.messages, limit=engine.context - room
        )
        if len(ids) >= engine.context:
            return Refused(
                chat.id,
                "too_long",
                f"the message has {len(ids)} tokens and the context {engine.context}; shorten it",
            )
        if engine.num_queued >= server.max_queued:
            return Refused(chat.id, "busy", f"{engine.num_queued} requests wait; try again later")
        try:
            answer.stream = engine.stream(ids, chat.sampling)
        except RuntimeError as error:
            return Refused(chat.id, "internal", str(error))
        if answer.is_stopped:
            answer.stream.cancel()
        return None

    async def _send_answer(self, answer: _Answer) -> None:
        protocol, send, stream = self._protocol, self._connection.send, answer.stream
        request_id = answer.chat.id
        assert stream is not None
        piece = await anext(stream, None)
        await send(
            protocol.start(
                request_id,
                prompt_tokens=stream.prompt_tokens,
                cached_tokens=stream.cached_tokens,
                dropped_messages=answer.num_dropped,
                seed=stream.seed,
            )
        )
        code = ""
        while piece is not None:
            if piece.kind == "text":
                await send(protocol.delta(request_id, piece.text))
            elif piece.kind == "tool_call":
                code = piece.text
            else:
                await send(protocol.tool(request_id, code=code, output=piece.text))
            piece = await anext(stream, None)
        assert stream.completion is not None
        self._server.metrics.completed(stream.completion)
        await send(protocol.done(request_id, stream.completion))

    async def _refuse(self, refused: Refused) -> None:
        self._server.metrics.refused(refused.code)
        await self._connection.send(self._protocol.error(refused.id, refused.code, refused.message))
