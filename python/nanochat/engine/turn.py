"""One completion as a state machine over tokens: text, tool calls, forced tokens, the end.

    text --python_start--> code --python_end--> calculator; output_start, result, output_end are
                                                forced into the stream, then text goes on

It knows no model and no batch: the engine asks which token is forced, else samples one, and tells
what it took. A calculator that refuses answers ``error: <why>``, which is forced all the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from nanochat.engine.calculator import calculate_or_explain
from nanochat.engine.sampling import Sampling
from nanochat.engine.text import TextStream
from nanochat.tokenizer import Tokenizer

PieceKind = Literal["text", "tool_call", "tool_output"]
Reason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Piece:
    """Something to show: a stretch of text, code the model ran, or what the calculator said."""

    kind: PieceKind
    text: str


class Turn:
    """Tokens of one completion; ``reason`` is None until it has ended."""

    def __init__(
        self, tokenizer: Tokenizer, sampling: Sampling, *, num_prompt: int, context: int
    ) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special.values())
        self.stop_ids = frozenset({tokenizer.assistant_end, tokenizer.bos, *sampling.stop_ids})
        self._max_tokens = min(sampling.max_tokens, context - num_prompt)
        self._text = TextStream(sampling.stop)
        self._code: list[int] | None = None  # tokens since python_start
        self._forced: deque[int] = deque()
        self.ids: list[int] = []
        self.mask: list[int] = []  # 1 where the model chose the token, 0 where it was forced
        self.pieces: list[Piece] = []
        self.reason: Reason | None = None

    @property
    def forced(self) -> int | None:
        """The token that must come next, if the model is not asked."""
        return self._forced[0] if self._forced else None

    def accept(self, token: int) -> list[Piece]:
        """Take the next token; returns what it makes visible. The stop token is not kept."""
        assert self.reason is None
        is_forced = bool(self._forced)
        if is_forced:
            expected = self._forced.popleft()
            assert token == expected
        elif token in self.stop_ids:
            return self.finish("stop")
        self.ids.append(token)
        self.mask.append(0 if is_forced else 1)
        shown: list[Piece] = [] if is_forced else self._advance(token)
        self.pieces += shown
        if self._text.stopped:
            return shown + self.finish("stop")
        if len(self.ids) >= self._max_tokens:
            return shown + self.finish("length")
        return shown

    def finish(self, reason: Reason) -> list[Piece]:
        """End here; returns the text that was still held back."""
        self.reason = reason
        rest = self._show_text(self._text.flush())
        self.pieces += rest
        return rest

    def _advance(self, token: int) -> list[Piece]:
        """One token that the model chose."""
        tokenizer = self._tokenizer
        if token == tokenizer.python_start:
            self._code = []
            return self._show_text(self._text.flush())
        if token == tokenizer.python_end and self._code is not None:
            code = tokenizer.decode(self._code)
            result = calculate_or_explain(code)
            self._code = None
            self._forced.append(tokenizer.output_start)
            self._forced.extend(tokenizer.encode(result))
            self._forced.append(tokenizer.output_end)
            return [Piece("tool_call", code), Piece("tool_output", result)]
        if token in self._special:
            return []
        if self._code is not None:
            self._code.append(token)
            return []
        return self._show_text(self._text.push(tokenizer.decode_bytes([token])))

    @staticmethod
    def _show_text(text: str) -> list[Piece]:
        return [Piece("text", text)] if text else []
