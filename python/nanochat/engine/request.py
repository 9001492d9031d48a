"""What goes into the engine for one prompt, and what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nanochat.engine.sampling import Sampling, fresh_seed
from nanochat.engine.turn import Piece, Reason, Turn


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float  # from submission to the first token, waiting in the queue included
    tokens_per_second: float  # after the first token; 0 when there was no second one
    cached_tokens: int = 0  # of the prompt, keys and values that were there already


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities where a token was drawn, at temperature 1 and without cuts."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the likeliest tokens, falling


@dataclass(frozen=True)
class Completion:
    """What became of one prompt.

    Attributes:
        ids: Generated tokens, those of tool calls and results included; not the stop token.
        mask: 1 where the model chose the token, 0 where a tool result was forced.
        text: What a user reads: no special tokens, no tool calls or results.
        pieces: Text, tool calls and results in order.
        reason: ``stop`` (assistant_end, bos or a stop text), ``length`` (max_tokens or the context
            is full), ``cancelled``.
        seed: The one used; with the same prompt and sampling it gives the same tokens.
        logprobs: Of the tokens that the model chose, the stop token included; None if not asked.
    """

    ids: list[int]
    mask: list[int]
    text: str
    pieces: list[Piece]
    reason: Reason
    seed: int
    usage: Usage
    logprobs: list[TokenLogprobs] | None = None


Event = Piece | Completion | BaseException  # the last two end a request


class Request:
    """One prompt on its way through the engine."""

    def __init__(
        self, prompt: list[int], sampling: Sampling, turn: Turn, deliver: Callable[[Event], None]
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.seed = fresh_seed() if sampling.seed is None else sampling.seed
        self.turn = turn
        self.deliver = deliver
        self.is_cancelled = False
        self.num_cached = 0
        self.logprobs: list[TokenLogprobs] = []
        self.submitted_s = time.perf_counter()
        self.first_token_s: float | None = None
        self._tell: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Give up; the request ends within one step. Any thread, any number of times."""
        self.is_cancelled = True
        if self._tell is not None:
            self._tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Whom to tell of a cancellation, now that there is somebody."""
        self._tell = tell
        if self.is_cancelled:
            tell()

    def completion(self) -> Completion:
        now = time.perf_counter()
        turn, first = self.turn, self.first_token_s
        later = len(turn.ids) - 1
        usage = Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=self.num_cached,
            completion_tokens=len(turn.ids),
            ttft_ms=1e3 * ((now if first is None else first) - self.submitted_s),
            tokens_per_second=later / (now - first) if first is not None and later > 0 else 0.0,
        )
        assert turn.reason is not None
        text = "".join(piece.text for piece in turn.pieces if piece.kind == "text")
        logprobs = None if self.sampling.logprobs is None else self.logprobs
        return Completion(
            turn.ids, turn.mask, text, turn.pieces, turn.reason, self.seed, usage, logprobs
        )
