"""The chat protocol ``nanochat.v1`` without a socket: frames in, events out; facts in, frames out.

One JSON object per text frame. A client sends the whole conversation with every request and gives
each request an id of its own; several may run at once on one socket.

    > {"type": "chat", "id": "r1", "messages": [{"role": "user", "content": "hi"}],
       "sampling": {"max_tokens": 256, "temperature": 0.8, "top_k": 50, "top_p": 1, "min_p": 0,
                    "repetition_penalty": 1, "seed": 1, "stop": []}}
    > {"type": "stop", "id": "r1"}
    < {"type": "hello", "protocol": 1, "model": {...}, "limits": {...}, "defaults": {...}}
    < {"type": "start", "id": "r1", "prompt_tokens": 12, "cached_tokens": 8,
       "dropped_messages": 0, "seed": 1}        the oldest turns go when the context is full
    < {"type": "delta", "id": "r1", "text": "..."}
    < {"type": "tool", "id": "r1", "name": "calculator", "input": "6*7", "output": "42"}
    < {"type": "done", "id": "r1", "reason": "stop|length|cancelled", "seed": 1, "usage": {...}}
    < {"type": "error", "id": "r1", "code": "...", "message": "..."}

Every answer to a request begins with ``start`` and ends with ``done``, or is one ``error``, which
may also come after ``start``. ``start`` comes when the answer does, after queue and prompt: only
then is it known how much of the prompt was cached. A request that is not refused is accepted.
Messages of the server carry ``seq``, counted from 0 for each id, and from 0 for those without an
id. An error without an id concerns no request of this socket: a frame that cannot be read, or an id
that is already running, whose request goes on. ``stop`` for an id that is not running does nothing,
since it may have crossed its ``done``. What ``sampling`` leaves out takes the defaults of
``hello``; unknown fields are ignored. A server that wants a token takes it in the header
``Authorization: Bearer`` of the handshake, or as ``"token"`` in a chat message, since a browser
cannot set headers.

Whatever the frame holds, ``receive`` returns an event and raises nothing.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from nanochat.engine import Completion, Sampling
from nanochat.tokenizer import conversation

SUBPROTOCOL = "nanochat.v1"
VERSION = 1

ErrorCode = Literal["bad_request", "too_long", "busy", "unauthorized", "internal"]

_MAX_ID_CHARS = 64
_MAX_STOPS = 8
_MAX_STOP_CHARS = 64
_MAX_SHOWN_CHARS = 300  # of an error message: it may quote the client
_SAMPLING_FIELDS = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop",
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one socket may ask for; told in ``hello``."""

    context: int  # tokens of prompt and answer together
    message_bytes: int = 256 * 1024
    messages: int = 500  # of one conversation
    requests: int = 4  # at once on one socket


@dataclass(frozen=True)
class Chat:
    id: str
    messages: list[dict[str, Any]]
    sampling: Sampling


@dataclass(frozen=True)
class Stop:
    id: str


@dataclass(frozen=True)
class Refused:
    """To be answered with :meth:`Protocol.error`."""

    id: str | None
    code: ErrorCode
    message: str


Event = Chat | Stop | Refused


class _RefusedError(Exception):
    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Protocol:
    """One socket's side of the conversation: which ids are running, and the count of messages.

    Args:
        defaults: Sampling for the fields that a request leaves out.
        token: Secret that a chat must show, unless ``is_authorized`` says that the handshake did.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        defaults: Sampling,
        token: str | None = None,
        is_authorized: bool = False,
    ) -> None:
        self._limits = limits
        self._defaults = defaults
        self._token = token
        self._is_authorized = is_authorized or token is None
        self._running: set[str] = set()
        self._seq: Counter[str | None] = Counter()

    # From the client.

    def receive(self, frame: str | bytes) -> Event:
        """What one frame asks for. A :class:`Chat` is running from here to its done or error."""
        request_id: str | None = None
        try:
            message = self._parse(frame)
            kind = message.get("type")
            if kind not in ("chat", "stop"):
                raise _RefusedError("bad_request", f"type must be chat or stop, got {kind!r}")
            request_id = _read_id(message)
            if kind == "stop":
                return Stop(request_id)
            if request_id in self._running:
                duplicate, request_id = request_id, None
                raise _RefusedError("bad_request", f"id {duplicate!r} is already running")
            chat = self._read_chat(request_id, message)
        except _RefusedError as error:
            return Refused(request_id, error.code, str(error))
        except RecursionError:  # of the JSON parser, or of repr on what it gave
            return Refused(request_id, "bad_request", "message is nested too deeply")
        self._running.add(chat.id)
        return chat

    def _parse(self, frame: str | bytes) -> dict[str, Any]:
        if isinstance(frame, bytes):
            raise _RefusedError("bad_request", "frames must be text, got a binary one")
        num_bytes = len(frame.encode("utf-8", "surrogatepass"))
        if num_bytes > self._limits.message_bytes:
            raise _RefusedError(
                "too_long",
                f"a message may have {self._limits.message_bytes} bytes, got {num_bytes}",
            )
        try:
            message = json.loads(frame)
        except ValueError as error:
            raise _RefusedError("bad_request", f"message is not JSON: {error}") from None
        if not isinstance(message, dict):
            raise _RefusedError(
                "bad_request", f"message must be an object, got {type(message).__name__}"
            )
        return message

    def _read_chat(self, request_id: str, message: dict[str, Any]) -> Chat:
        self._authorize(message.get("token"))
        if len(self._running) >= self._limits.requests:
            raise _RefusedError(
                "busy", f"a socket may run {self._limits.requests} requests at once; wait for one"
            )
        return Chat(
            request_id,
            self._read_messages(message.get("messages")),
            self._read_sampling(message.get("sampling")),
        )

    def _authorize(self, token: object) -> None:
        if self._is_authorized:
            return
        assert self._token is not None
        shown = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else b""
        if not hmac.compare_digest(shown, self._token.encode()):
            raise _RefusedError("unauthorized", "this server wants a token, and this is not it")
        self._is_authorized = True

    def _read_messages(self, messages: object) -> list[dict[str, Any]]:
        if not isinstance(messages, list):
            raise _RefusedError(
                "bad_request", f"messages must be a list, got {type(messages).__name__}"
            )
        if len(messages) > self._limits.messages:
            raise _RefusedError(
                "too_long",
                f"a conversation may have {self._limits.messages} messages, got {len(messages)}",
            )
        try:
            conversation.validate({"messages": messages})
        except ValueError as error:
            raise _RefusedError("bad_request", str(error)) from None
        if messages[-1]["role"] != "user":
            raise _RefusedError("bad_request", "the last message must be from user")
        return messages

    def _read_sampling(self, given: object) -> Sampling:
        if given is None:
            return self._defaults
        if not isinstance(given, dict):
            raise _RefusedError(
                "bad_request", f"sampling must be an object, got {type(given).__name__}"
            )
        fields = {name: given[name] for name in _SAMPLING_FIELDS if name in given}
        if "stop" in fields:
            fields["stop"] = _read_stops(fields["stop"])
        try:
            return replace(self._defaults, **fields)
        except ValueError as error:
            raise _RefusedError("bad_request", str(error)) from None

    # To the client.

    def hello(self, model: Mapping[str, Any]) -> str:
        defaults = {name: getattr(self._defaults, name) for name in _SAMPLING_FIELDS}
        limits = asdict(self._limits)
        return self._message(
            "hello", None, protocol=VERSION, model=model, limits=limits, defaults=defaults
        )

    def start(
        self,
        request_id: str,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        dropped_messages: int,
        seed: int,
    ) -> str:
        return self._message(
            "start",
            request_id,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            dropped_messages=dropped_messages,
            seed=seed,
        )

    def delta(self, request_id: str, text: str) -> str:
        return self._message("delta", request_id, text=text)

    def tool(self, request_id: str, *, code: str, output: str) -> str:
        return self._message("tool", request_id, name="calculator", input=code, output=output)

    def done(self, request_id: str, completion: Completion) -> str:
        usage = asdict(completion.usage)
        usage["ttft_ms"] = round(usage["ttft_ms"], 3)
        usage["tokens_per_second"] = round(usage["tokens_per_second"], 3)
        frame = self._message(
            "done", request_id, reason=completion.reason, seed=completion.seed, usage=usage
        )
        self._end(request_id)
        return frame

    def error(self, request_id: str | None, code: ErrorCode, message: str) -> str:
        if len(message) > _MAX_SHOWN_CHARS:
            message = message[: _MAX_SHOWN_CHARS - 3] + "..."
        frame = self._message("error", request_id, code=code, message=message)
        if request_id is not None:
            self._end(request_id)
        return frame

    def _end(self, request_id: str) -> None:
        self._running.discard(request_id)
        del self._seq[request_id]

    def _message(self, kind: str, request_id: str | None, **fields: Any) -> str:
        head: dict[str, Any] = {"type": kind}
        if request_id is not None:
            head["id"] = request_id
        head["seq"] = self._seq[request_id]
        self._seq[request_id] += 1
        return json.dumps({**head, **fields})  # ASCII, so that any text can be sent


def _read_id(message: dict[str, Any]) -> str:
    value = message.get("id")
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_ID_CHARS:
        raise _RefusedError(
            "bad_request", f"id must be text of 1 to {_MAX_ID_CHARS} characters, got {value!r}"
        )
    return value


def _read_stops(stops: object) -> tuple[str, ...]:
    rule = f"sampling: stop must be at most {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARS} characters"
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS:
        raise _RefusedError("bad_request", f"{rule}, got {stops!r}")
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= _MAX_STOP_CHARS:
            raise _RefusedError("bad_request", f"{rule}, got {stop!r}")
    return tuple(stops)
