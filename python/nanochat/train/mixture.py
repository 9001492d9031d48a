"""What a model is finetuned on: ingredients by name or path, each with its weight.

    --data chats.jsonl gsm8k:4 mmlu@20000 identity.jsonl:2 tinyworld@5000

    WHAT          each of its rows once in an epoch of the mixture
    WHAT:TIMES    each row TIMES times
    WHAT@ROWS     exactly ROWS rows; the next epoch has the next ones, so that all have their turn

WHAT is a folder, glob or file of conversations in the forms of data/forms.py, the name of a task
whose training questions to learn, or tinyworld. Some of the rows of each are held out for
validation (data/held_out.py). Rows are tokenised here, once, and cut to the context as
``nanochat.tokenizer.conversation.fit`` says; what is left out is counted and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common.errors import UserError
from nanochat.common.figures import count, percent
from nanochat.data import Source, Tokens, held_out, lay_end_to_end, tinyworld
from nanochat.data.chats import Tally, read_chats
from nanochat.data.forms import Conversation
from nanochat.data.interleave import InterleavedSource, Pool
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.conversation import fit, validate
from nanochat.train.inputs import TINYWORLD, generated

_SYNTAX = re.compile(r"(?P<what>.+?)(?::(?P<times>\d+)|@(?P<rows>\d+))?", re.DOTALL)


@dataclass(frozen=True)
class Ingredient:
    """One word of ``--data``."""

    what: str
    times: int = 1
    rows: int | None = None

    @property
    def name(self) -> str:
        return Path(self.what).name or self.what


def parse(word: str) -> Ingredient:
    """Raises: UserError for a word that is no ingredient."""
    match = _SYNTAX.fullmatch(word)
    times, rows = (match["times"], match["rows"]) if match else (None, None)
    if match is None or "0" in (times, rows):
        raise UserError(
            "data: an ingredient must be WHAT, WHAT:TIMES or WHAT@ROWS with a number from 1 on, "
            f"got {word!r}"
        )
    return Ingredient(match["what"], int(times or 1), int(rows) if rows else None)


def parse_fill(words: Sequence[str]) -> dict[str, str]:
    """``name=Ada`` to ``{"name": "Ada"}``. Raises: UserError without a key or an equals sign."""
    for word in words:
        if not re.match(r"\w+=", word):
            raise UserError(f"data: --fill must be KEY=VALUE, got {word!r}")
    return dict(word.split("=", 1) for word in words)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What became of one ingredient; the numbers are of the first epoch."""

    name: str
    rows: int  # of an epoch
    tokens: int  # in them
    epochs: float  # passes over the ingredient in one epoch of the mixture
    held_out: int  # rows for validation
    cut: int  # conversations that lost their end
    dropped: int  # conversations whose first question alone fills the context
    malformed: int
    notes: tuple[str, ...]  # for the user


@dataclass(frozen=True)
class Mixture:
    """The ingredients, rendered. Held in memory: three to five bytes a token."""

    parts: tuple[Part, ...]
    train: InterleavedSource
    val: InterleavedSource

    def lines(self) -> list[str]:
        """The composition, for the console."""
        total = sum(part.tokens for part in self.parts)
        width = max(len(part.name) for part in self.parts)
        table = [
            f"  {part.name:<{width}}  {part.rows:>9,} rows  {count(part.tokens):>6} tokens "
            f"{percent(part.tokens / max(1, total)):>6}  x{part.epochs:.3g}"
            for part in self.parts
        ]
        return table + [f"  {part.name}: {note}" for part in self.parts for note in part.notes]


@dataclass(frozen=True)
class ChatInputs:
    """Training and held-out conversations; their items are ``Tokens``."""

    train: Source
    val: Source
    mixture: Mixture | None  # None: tinyworld alone, which has no end


def chat_inputs(
    data: Sequence[str],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int,
    fill: Mapping[str, str] | None = None,
) -> ChatInputs:
    """The conversations of ``--data``."""
    if tuple(data) == (TINYWORLD,):

        def rendered(index: int, **key: Any) -> Tokens:
            conversation = tinyworld.conversation(index, **key)
            return tokens_of(tokenizer, *tokenizer.render_conversation(conversation, seq_len + 1))

        return ChatInputs(*generated(rendered, seed=seed), None)
    mixture = make_mixture(
        [parse(word) for word in data], tokenizer, seq_len=seq_len, seed=seed, fill=fill
    )
    return ChatInputs(mixture.train, mixture.val, mixture)


def make_mixture(
    ingredients: Sequence[Ingredient],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int,
    fill: Mapping[str, str] | None = None,
) -> Mixture:
    """Read and render the ingredients.

    Raises: UserError if one cannot be read or has no usable row, or comes twice.
    """
    names = [ingredient.what for ingredient in ingredients]
    if len(set(names)) < len(names):
        raise UserError(f"data: each ingredient must be named once, got {' '.join(names)}")
    parts, train, val = [], [], []
    for number, ingredient in enumerate(ingredients):
        tally = Tally()
        rows = _Rows(tokenizer, seq_len)
        for digest, conversation in _conversations(ingredient, tally, seed=seed, fill=fill or {}):
            rows.add(digest, conversation)
        own_train, own_val = rows.split()
        if len(own_train) == 0:
            raise UserError(
                f"data: no usable row in {ingredient.what}"
                + "".join(f"; {note}" for note in _notes(tally, rows))
            )
        num_rows = ingredient.rows or ingredient.times * len(own_train)
        pool = Pool(lay_end_to_end(own_train), num_rows)
        lengths = np.diff(pool.tokens.offsets)
        parts.append(
            Part(
                name=ingredient.name,
                rows=num_rows,
                tokens=int(lengths[pool.rows_of(0, seed, number)].sum()),
                epochs=num_rows / len(pool),
                held_out=len(own_val),
                cut=rows.num_cut,
                dropped=rows.num_dropped,
                malformed=tally.num_malformed,
                notes=tuple(_notes(tally, rows)),
            )
        )
        train.append(pool)
        val.append(Pool(lay_end_to_end(own_val), len(own_val)))
    if not any(part.held_out for part in parts):
        raise UserError("data: at least 2 different conversations are needed, to hold one out")
    name = " ".join(names)
    return Mixture(
        tuple(parts),
        InterleavedSource(train, seed=seed, name=f"{name} (train split)"),
        InterleavedSource(val, seed=seed, name=f"{name} (val split)"),
    )


class _Rows:
    """Conversations of one ingredient, rendered, with what decides their split."""

    def __init__(self, tokenizer: Tokenizer, seq_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = seq_len + 1
        self._digests: list[int] = []
        self._tokens: list[Tokens] = []
        self.num_cut = 0
        self.num_dropped = 0

    def add(self, digest: int, conversation: Conversation) -> None:
        ids, mask = self._tokenizer.render_conversation(conversation)
        kept, its_mask = fit(self._tokenizer, ids, mask, self._max_tokens)
        self.num_cut += 0 < len(kept) < len(ids)
        self.num_dropped += not kept
        if kept:
            self._digests.append(digest)
            self._tokens.append(tokens_of(self._tokenizer, kept, its_mask))

    def split(self) -> tuple[list[Tokens], list[Tokens]]:
        """Rows to learn, and those held out."""
        limit = held_out.limit(self._digests, len(self._digests))
        pairs = list(zip(self._digests, self._tokens, strict=True))
        return [t for d, t in pairs if d >= limit], [t for d, t in pairs if d < limit]


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int]) -> Tokens:
    """A rendered conversation as the loader takes it: in arrays, without its BOS."""
    return Tokens(np.array(ids[1:], tokenizer.dtype), np.array(mask[1:], np.bool_))


def _conversations(
    ingredient: Ingredient, tally: Tally, *, seed: int, fill: Mapping[str, str]
) -> Iterator[tuple[int, Conversation]]:
    if ingredient.what == TINYWORLD:
        if ingredient.rows is None:
            raise UserError(
                f"data: {TINYWORLD} has no end, so beside others it needs a number of rows: "
                f"{TINYWORLD}@5000"
            )
        for index in range(ingredient.rows):
            conversation = tinyworld.conversation(index, split="train", seed=seed)
            yield held_out.digest(json.dumps(conversation, sort_keys=True)), conversation
        return
    yield from read_chats(ingredient.what, tally, check=validate, fill=fill)


def _notes(tally: Tally, rows: _Rows) -> list[str]:
    notes = []
    if tally.num_malformed:
        notes.append(
            f"{tally.num_malformed:,} of {tally.num_rows:,} rows left out as malformed, the first "
            f"{tally.first_malformed}"
        )
    if rows.num_cut:
        notes.append(f"{rows.num_cut:,} conversations cut to the context")
    if rows.num_dropped:
        notes.append(f"{rows.num_dropped:,} left out: the question alone fills the context")
    if tally.unfilled:
        (key, where), *_ = tally.unfilled.items()
        notes.append(
            f"{tally.num_unfilled:,} rows hold {{{{{key}}}}}, the first {where}; "
            f"--fill {key}=... puts a word there"
        )
    return notes
