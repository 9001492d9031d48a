"""Tokenizer: a vocabulary with the nine special tokens behind it.

The file is JSON text, one token to a line (each byte as the Latin-1 character of the same number),
with the split pattern, its Unicode version and a SHA-256 over all of it: an edited or truncated
file is refused. The native encoder gives tiktoken's ids; special tokens in a text are text like any
other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nanochat import _core
from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write
from nanochat.tokenizer import conversation
from nanochat.tokenizer.bpe import SPLIT_PATTERN, available_cpus, train_bpe
from nanochat.tokenizer.split import split_by_regex, split_pattern

if TYPE_CHECKING:
    import tiktoken

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
"""In the order of ids, which follow those of the merges."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

_FORMAT = "nanochat tokenizer 1"


class Tokenizer:
    """Token ids of a text. Immutable; threads may share one.

    Attributes:
        vocab_size: Number of ids, special tokens included.
        special: Name -> id of the special tokens.
        dtype: Of ids in arrays: uint16 if every id fits, else uint32.
        hash: SHA-256 (hex) of vocabulary, pattern and special tokens; equal means the same ids.
    """

    def __init__(self, tokens: Sequence[bytes], pattern: str = SPLIT_PATTERN) -> None:
        """``tokens`` in the order of ids, special tokens not among them.

        Raises: ValueError unless they are distinct, with all 256 bytes among them, and the pattern
            one that ``train_bpe`` takes.
        """
        self.pattern = pattern
        self.special = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self._tokens = [*tokens, *(name.encode() for name in SPECIAL_TOKENS)]
        self.vocab_size = len(self._tokens)
        fits_16_bits = self.vocab_size <= 1 << 16
        self.dtype = np.dtype(np.uint16 if fits_16_bits else np.uint32)
        self._native_pattern = split_pattern(pattern)
        encoder = _core.BpeEncoder16 if fits_16_bits else _core.BpeEncoder32
        self._encoder = encoder(tokens, self._native_pattern)
        (
            self.bos,
            self.user_start,
            self.user_end,
            self.assistant_start,
            self.assistant_end,
            self.python_start,
            self.python_end,
            self.output_start,
            self.output_end,
        ) = self.special.values()
        self.hash = _hash(_content(tokens, pattern))

    @classmethod
    def from_ranks(cls, ranks: Mapping[bytes, int], pattern: str = SPLIT_PATTERN) -> Tokenizer:
        """From the vocabulary that ``train_bpe`` returns. Raises: ValueError if ids have gaps."""
        tokens = sorted(ranks, key=ranks.__getitem__)
        if [ranks[token] for token in tokens] != list(range(len(tokens))):
            raise ValueError(f"tokenizer: ranks must be 0 to {len(tokens) - 1}, each once")
        return cls(tokens, pattern)

    @classmethod
    def train(
        cls, texts: Iterable[str | bytes], vocab_size: int, *, num_threads: int | None = None
    ) -> Tokenizer:
        """Train one of at most ``vocab_size`` ids, here with the special tokens counted.

        Raises: ValueError below ``MIN_VOCAB_SIZE``, and what ``train_bpe`` raises.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise ValueError(
                f"tokenizer: vocab_size must be at least {MIN_VOCAB_SIZE}"
                f" (256 bytes and {len(SPECIAL_TOKENS)} special tokens), got {vocab_size}"
            )
        ranks = train_bpe(texts, vocab_size - len(SPECIAL_TOKENS), num_threads=num_threads)
        return cls.from_ranks(ranks)

    # Text to ids.

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of ``text``. Special tokens are not looked for; a lone surrogate becomes U+FFFD.

        Bytes need not be UTF-8: ``decode_bytes`` gives back any.
        """
        if self._native_pattern:
            return self._encoder.encode(text)
        flat, _ = self.encode_to_numpy([text], num_threads=1)
        ids: list[int] = flat.tolist()
        return ids

    def encode_batch(
        self, texts: Iterable[str | bytes], *, num_threads: int | None = None
    ) -> list[list[int]]:
        """``encode`` of each text, on several threads; None means all CPUs."""
        ids, offsets = self.encode_to_numpy(texts, num_threads=num_threads)
        flat, ends = ids.tolist(), offsets.tolist()
        return [flat[begin:end] for begin, end in pairwise(ends)]

    def encode_to_numpy(
        self, texts: Iterable[str | bytes | Any], *, num_threads: int | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """``encode`` of each text, laid end to end, and where each begins.

        Args:
            texts: As ``train_bpe`` takes them, Arrow arrays included; all are held until the end.
            num_threads: None means all CPUs this process may use.
        Returns: ids (n,) of ``dtype``; offsets (number of texts + 1,).
        """
        num_threads = available_cpus() if num_threads is None else num_threads
        if num_threads < 1:
            raise ValueError(f"tokenizer: num_threads must be at least 1, got {num_threads}")
        if self._native_pattern:
            return self._encoder.encode_to_numpy(texts, num_threads)
        pieces = [split_by_regex(self.pattern, _without_surrogates(text)) for text in texts]
        ids, offsets = self._encoder.encode_to_numpy(chain.from_iterable(pieces), num_threads)
        return ids, offsets[np.cumsum([0, *map(len, pieces)])]

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same vocabulary as a ``tiktoken.Encoding``."""
        return self._tiktoken

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        import tiktoken

        return tiktoken.Encoding(
            name=f"nanochat-{self.hash[:8]}",
            pat_str=self.pattern,
            mergeable_ranks={token: i for i, token in enumerate(self._ordinary)},
            special_tokens=self.special,
        )

    # Ids to text.

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of ``ids``, special tokens by name. Raises: ValueError for an unknown id."""
        tokens = []
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"tokenizer: ids must be 0 to {self.vocab_size - 1}, got {i}")
            tokens.append(self._tokens[i])
        return b"".join(tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes of text behind each id (V,): the denominator of bits per byte, 0 for specials."""
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        sizes[: len(self._ordinary)] = [len(token) for token in self._ordinary]
        return sizes

    # Conversations.

    def render_conversation(
        self, conv: conversation.Conversation, max_tokens: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids and mask (1: learn) of a conversation, see conversation.py; with ``max_tokens``,
        what :func:`conversation.fit` keeps of it.
        """
        ids, mask = conversation.render(self, conv)
        return (ids, mask) if max_tokens is None else conversation.fit(self, ids, mask, max_tokens)

    def render_prompt(self, conv: conversation.Conversation) -> list[int]:
        """Ids of a conversation that ends with a user's message, then assistant_start."""
        return conversation.render_prompt(self, conv)

    # Files.

    def save(self, path: Path | str) -> None:
        """Write the file complete or not at all. Raises: UserError if it cannot be written."""
        content = _content(self._ordinary, self.pattern)
        lines = json.dumps({**content, "sha256": self.hash}, indent=0)
        atomic_write(Path(path), lines + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Raises: UserError if the file is missing, damaged, edited or of another version."""
        path = Path(path)
        try:
            file = json.loads(path.read_bytes())
            tokens = [token.encode("latin-1") for token in file["tokens"]]
            content = _content(tokens, file["pattern"])
            is_whole = {**content, "sha256": _hash(content)} == file
        except OSError as error:
            raise UserError(f"tokenizer: cannot read {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"tokenizer: {path} is damaged, edited or of another version; train it again"
            )
        return cls(tokens, file["pattern"])

    @property
    def _ordinary(self) -> list[bytes]:
        return self._tokens[: -len(SPECIAL_TOKENS)]


def _content(tokens: Sequence[bytes], pattern: str) -> dict[str, Any]:
    """What the file holds besides its hash."""
    return {
        "format": _FORMAT,
        "pattern": pattern,
        "unicode": _core.UNICODE_VERSION,
        "special": list(SPECIAL_TOKENS),
        "tokens": [token.decode("latin-1") for token in tokens],
    }


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _without_surrogates(text: str | bytes) -> str | bytes:
    """As tiktoken does it: surrogates are paired where they can be, the others become U+FFFD."""
    if isinstance(text, bytes):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
