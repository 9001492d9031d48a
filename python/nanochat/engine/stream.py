"""One completion as an asynchronous iterator, fed by the engine thread.

The inbox is not bounded by a size of its own: a completion has at most ``max_tokens`` tokens, so a
slow consumer holds back a few kilobytes of its own text and nobody else; what has gathered since
it last looked is handed over as one piece. Pausing its slot would save nothing and hold the slot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from nanochat.engine.request import Completion, Event, Request
from nanochat.engine.turn import Piece


class Stream:
    """``async for piece in stream``; dropped or cancelled, its request ends within one step.

    Attributes:
        completion: None until the iteration has ended.
    """

    def __init__(self, submit: Callable[[Callable[[Event], None]], Request]) -> None:
        loop = asyncio.get_running_loop()
        inbox: deque[Event] = deque()
        ready = asyncio.Event()

        # Holds no reference to the stream: when the consumer drops it, __del__ cancels.
        def deliver(event: Event) -> None:
            inbox.append(event)
            try:
                loop.call_soon_threadsafe(ready.set)
            except RuntimeError:
                return  # the loop is closed, so nobody will read; the stream's end cancels

        self._inbox = inbox
        self._ready = ready
        self._request = submit(deliver)
        self.completion: Completion | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self._request.prompt)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed; 0 until the first piece or the end."""
        return self._request.num_cached

    @property
    def seed(self) -> int:
        return self._request.seed

    def cancel(self) -> None:
        """Stop generating; the iteration ends after what was generated until then."""
        self._request.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_request"):  # not if submit raised
            self._request.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """Raises: what broke the engine, if something did."""
        if self.completion is not None:
            raise StopAsyncIteration
        while not self._inbox:
            self._ready.clear()
            await self._ready.wait()
        event = self._inbox.popleft()
        if isinstance(event, BaseException):
            self._inbox.appendleft(event)  # asked again, it says the same
            raise event
        if not isinstance(event, Piece):
            self.completion = event
            raise StopAsyncIteration
        if event.kind != "text":
            return event
        texts = [event.text]
        while self._inbox and isinstance(more := self._inbox[0], Piece) and more.kind == "text":
            texts.append(more.text)
            self._inbox.popleft()
        return Piece("text", "".join(texts))
