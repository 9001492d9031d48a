"""Tokenizer: a vocabulary with the nine special tokens behind it.

The file is JSON text, one token to a line (each byte as the Latin-1 character of the same number),
with the split pattern, its Unicode version and a SHA-256 over all of it: an edited or truncated
file is refused. tiktoken encodes; special tokens in a text are text like any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nanochat import _core
from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write
from nanochat.tokenizer import conversation
from nanochat.tokenizer.bpe import SPLIT_PATTERN, available_cpus, train_bpe

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
_CHUNK = 64  # documents that a thread of encode_batch takes at a time
# tiktoken's regex overflows its stack on a million white space characters in a row.
_LONG_TEXT = 500_000
_LONG_RUN = 100_000
_WHITE_SPACE_RUN = re.compile(r"\s{16,}")


class Tokenizer:
    """Token ids of a text. Immutable; threads may share one.

    Attributes:
        vocab_size: Number of ids, special tokens included.
        special: Name -> id of the special tokens.
        hash: SHA-256 (hex) of vocabulary, pattern and special tokens; equal means the same ids.
    """

    def __init__(self, tokens: Sequence[bytes], pattern: str = SPLIT_PATTERN) -> None:
        """``tokens`` in the order of ids, special tokens not among them."""
        if len(set(tokens)) != len(tokens):
            raise ValueError("tokenizer: tokens must be distinct")
        if missing := {bytes([i]) for i in range(256)}.difference(tokens):
            raise ValueError(f"tokenizer: all 256 bytes must be tokens, {len(missing)} are missing")
        self.pattern = pattern
        self.special = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self._tokens = [*tokens, *(name.encode() for name in SPECIAL_TOKENS)]
        self.vocab_size = len(self._tokens)
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
        self.hash = _hash(self._content())

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

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``. Special tokens are not looked for; a lone surrogate becomes U+FFFD."""
        encoding = self.to_tiktoken()
        if len(text) < _LONG_TEXT or not _has_long_white_space(text):
            return encoding.encode_ordinary(text)
        ids: list[int] = []
        for piece in _core.bpe_pretokenize(_utf8(text)):
            ids += encoding._encode_single_piece(piece)
        return ids

    def encode_batch(
        self, texts: Sequence[str], *, num_threads: int | None = None
    ) -> list[list[int]]:
        """``encode`` of each text, on several threads; None means all CPUs."""
        num_threads = available_cpus() if num_threads is None else num_threads
        if num_threads < 1:
            raise ValueError(f"tokenizer: num_threads must be at least 1, got {num_threads}")
        chunks = [texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)]
        if num_threads == 1 or len(chunks) < 2:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(num_threads) as pool:
            encoded = pool.map(lambda chunk: [self.encode(text) for text in chunk], chunks)
            return [ids for chunk in encoded for ids in chunk]

    def encode_to_numpy(
        self, texts: Sequence[str], *, num_threads: int | None = None
    ) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.int64]]:
        """``encode`` of each text, laid end to end, and where each begins.

        Returns: ids (n,), uint16 if every id fits, else uint32; offsets (len(texts) + 1,).
        """
        encoded = self.encode_batch(texts, num_threads=num_threads)
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        return np.fromiter((i for ids in encoded for i in ids), dtype, offsets[-1]), offsets

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
        """Ids and mask (1: learn) of a conversation, cut at ``max_tokens``; see conversation.py."""
        ids, mask = conversation.render(self, conv)
        return ids[:max_tokens], mask[:max_tokens]

    def render_prompt(self, conv: conversation.Conversation) -> list[int]:
        """Ids of a conversation that ends with a user's message, then assistant_start."""
        return conversation.render_prompt(self, conv)

    # Files.

    def save(self, path: Path | str) -> None:
        """Write the file complete or not at all. Raises: UserError if it cannot be written."""
        content = self._content()
        lines = json.dumps({**content, "sha256": self.hash}, indent=0)
        atomic_write(Path(path), lines + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Raises: UserError if the file is missing, damaged, edited or of another version."""
        path = Path(path)
        try:
            file = json.loads(path.read_bytes())
            tokenizer = cls([token.encode("latin-1") for token in file["tokens"]], file["pattern"])
            is_whole = {**tokenizer._content(), "sha256": tokenizer.hash} == file
        except OSError as error:
            raise UserError(f"tokenizer: cannot read {path}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"tokenizer: {path} is damaged, edited or of another version; train it again"
            )
        return tokenizer

    @property
    def _ordinary(self) -> list[bytes]:
        return self._tokens[: -len(SPECIAL_TOKENS)]

    def _content(self) -> dict[str, Any]:
        """What the file holds besides its hash."""
        return {
            "format": _FORMAT,
            "pattern": self.pattern,
            "unicode": _core.UNICODE_VERSION,
            "special": list(SPECIAL_TOKENS),
            "tokens": [token.decode("latin-1") for token in self._ordinary],
        }


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _has_long_white_space(text: str) -> bool:
    return any(len(run) > _LONG_RUN for run in _WHITE_SPACE_RUN.findall(text))


def _utf8(text: str) -> bytes:
    """As tiktoken does it: surrogates are paired where they can be, the others become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
