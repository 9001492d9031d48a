"""What a model is finetuned on: ingredients by name or path, each with its weight.

    --data chats.jsonl gsm8k:4 spelling_bee@5000 identity.jsonl:10 tinyworld@2000

    WHAT          each of its rows once in an epoch of the mixture
    WHAT:TIMES    each row TIMES times
    WHAT@ROWS     exactly ROWS rows; the next epoch has the next ones, so that all have their turn

WHAT is a folder, glob or file of conversations in the forms of data/forms.py or of multiple-choice
questions in those of tasks/choice.py; or tinyworld; or a task of tasks/suite.py, whose training
questions are learnt with their references. Of each, some rows are held out for validation, see
data/held_out.py.

Rows are tokenised here, once, and cut to the context as ``nanochat.tokenizer.conversation.fit``
says. What is cut or left out is counted and told.
"""

from __future__ import annotations

import hashlib
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
from nanochat.data.forms import Conversation, conversation_of
from nanochat.data.interleave import InterleavedSource, Pool
from nanochat.tasks import Example
from nanochat.tasks.choice import choice_example
from nanochat.tasks.rows import RowTask
from nanochat.tasks.suite import task_named
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.conversation import fit, validate
from nanochat.train.inputs import TINYWORLD, generated

_SYNTAX = re.compile(r"(?P<what>.+?)(?::(?P<times>\d+)|@(?P<rows>\d+))?", re.DOTALL)
_NAME = re.compile(rf"\w+|{TINYWORLD}/\w+")  # of a task
_ALL = 10**9  # examples of a task that has an end


@dataclass(frozen=True)
class Ingredient:
    """One word of ``--data``."""

    what: str
    times: int = 1
    rows: int | None = None

    @property
    def name(self) -> str:
        return self.what if self.is_generated else Path(self.what).name or self.what

    @property
    def is_generated(self) -> bool:
        """Without end, so that it has to have a number of rows."""
        return self.what.split("/")[0] == TINYWORLD


def parse(word: str) -> Ingredient:
    """Raises: UserError for a word that is no ingredient."""
    match = _SYNTAX.fullmatch(word)
    times, rows = (match["times"], match["rows"]) if match else (None, None)
    if match is None or any(number is not None and int(number) < 1 for number in (times, rows)):
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
    """What became of one ingredient; rows and tokens are of the first epoch."""

    name: str
    rows: int
    tokens: int
    epochs: float  # passes over the ingredient in one epoch of the mixture
    held_out: int  # rows for validation
    malformed: int  # rows left out
    cut: int  # conversations that lost their end
    dropped: int  # conversations left out, since their first question alone fills the context
    notes: tuple[str, ...]  # the counts above as sentences, with the first bad row


@dataclass(frozen=True)
class Mixture:
    """The ingredients, rendered. Held in memory: three to five bytes a token."""

    parts: tuple[Part, ...]
    train: Source  # of Tokens, like val
    val: Source
    digest: str  # of the tokens, by which other data under the same names are told

    def lines(self) -> list[str]:
        """The composition, for the console."""
        total = sum(part.tokens for part in self.parts)
        width = max(len(part.name) for part in self.parts)
        table = [
            f"  {part.name:<{width}}  {part.rows:>9,} rows  {count(part.tokens):>6} tokens "
            f"{percent(part.tokens / total):>7}  x{part.epochs:.3g}"
            for part in self.parts
        ]
        return table + [f"  {part.name}: {note}" for part in self.parts for note in part.notes]


def tinyworld_sources(tokenizer: Tokenizer, *, seq_len: int, seed: int) -> tuple[Source, Source]:
    """Training and held-out conversations of tinyworld alone, without end; items are Tokens."""

    def rendered(index: int, **key: Any) -> Tokens:
        conversation = tinyworld.conversation(index, **key)
        return _tokens(tokenizer, *tokenizer.render_conversation(conversation, seq_len + 1))

    return generated(rendered, seed=seed)


def make_mixture(
    ingredients: Sequence[Ingredient],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int,
    fill: Mapping[str, str] | None = None,
    sets: Path | None = None,
) -> Mixture:
    """Read and render the ingredients.

    Args:
        fill: Each ``{{key}}`` in the rows of files becomes its value.
        sets: Folder of the files of tasks, see ``nanochat.tasks.files.locate``.
    Raises: UserError if one cannot be read or has no usable row, or is named twice.
    """
    names = [ingredient.what for ingredient in ingredients]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"data: each ingredient must be named once, got {' '.join(names)!r}")
    parts, train, val = [], [], []
    fingerprint = hashlib.blake2b(digest_size=16)
    for number, ingredient in enumerate(ingredients):
        tally = Tally()
        rows = _Rows(tokenizer, seq_len)
        if ingredient.is_generated and ingredient.rows is None:
            raise UserError(
                f"data: {ingredient.what} has no end, so it needs a number of rows: "
                f"{ingredient.what}@5000"
            )
        for digest, conversation in _conversations(ingredient, tally, seed, fill or {}, sets):
            rows.add(digest, conversation)
        learnt, kept_back = rows.split()
        notes = _notes(tally, rows)
        if not learnt:
            raise UserError("; ".join((f"data: no usable row in {ingredient.what}", *notes)))
        pool = Pool(lay_end_to_end(learnt), ingredient.rows or ingredient.times * len(learnt))
        lengths = np.diff(pool.tokens.offsets)
        fingerprint.update(pool.tokens.ids.tobytes())
        parts.append(
            Part(
                name=ingredient.name,
                rows=pool.count,
                tokens=int(lengths[pool.rows_of(0, seed, number)].sum()),
                epochs=pool.count / len(pool),
                held_out=len(kept_back),
                malformed=tally.num_malformed,
                cut=rows.num_cut,
                dropped=rows.num_dropped,
                notes=notes,
            )
        )
        train.append(pool)
        val.append(Pool(lay_end_to_end(kept_back), len(kept_back)))
    if not any(part.held_out for part in parts):
        raise UserError(
            f"data: {' '.join(names)} must hold 2 different conversations, to validate on one"
        )
    return Mixture(
        tuple(parts),
        InterleavedSource(train, seed=seed, name=f"{' '.join(names)} (train split)"),
        InterleavedSource(val, seed=seed, name=f"{' '.join(names)} (val split)"),
        fingerprint.hexdigest(),
    )


class _Rows:
    """Conversations of one ingredient, rendered, with what decides their split."""

    def __init__(self, tokenizer: Tokenizer, seq_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = seq_len + 1
        self._rows: list[tuple[int, Tokens]] = []
        self.num_cut = 0
        self.num_dropped = 0

    def add(self, digest: int, conversation: Conversation) -> None:
        ids, mask = self._tokenizer.render_conversation(conversation)
        kept, its_mask = fit(self._tokenizer, ids, mask, self._max_tokens)
        self.num_cut += 0 < len(kept) < len(ids)
        self.num_dropped += not kept
        if kept:
            self._rows.append((digest, _tokens(self._tokenizer, kept, its_mask)))

    def split(self) -> tuple[list[Tokens], list[Tokens]]:
        """Rows to learn, and those held out."""
        limit = held_out.limit((digest for digest, _ in self._rows), len(self._rows))
        return (
            [tokens for digest, tokens in self._rows if digest >= limit],
            [tokens for digest, tokens in self._rows if digest < limit],
        )


def _tokens(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int]) -> Tokens:
    """A rendered conversation as the loader takes it: in arrays, without its BOS."""
    return Tokens(np.array(ids[1:], tokenizer.dtype), np.array(mask[1:], np.bool_))


def _conversations(
    ingredient: Ingredient, tally: Tally, seed: int, fill: Mapping[str, str], sets: Path | None
) -> Iterator[tuple[int, Conversation]]:
    """(digest, conversation) of each row."""
    what = ingredient.what
    if what == TINYWORLD:
        rows = (
            tinyworld.conversation(i, split="train", seed=seed) for i in range(ingredient.rows or 0)
        )
    elif _NAME.fullmatch(what) and not Path(what).exists():
        rows = (example.conversation for example in _examples(ingredient, tally, seed, sets))
    else:
        yield from read_chats(what, tally, convert=_conversation_of, fill=fill)
        return
    for row in rows:
        tally.num_rows += 1
        yield held_out.digest(json.dumps(row, sort_keys=True)), row


def _examples(ingredient: Ingredient, tally: Tally, seed: int, sets: Path | None) -> list[Example]:
    try:
        task = task_named(ingredient.what, sets)
    except UserError as error:
        raise UserError(f"data: {ingredient.what} is no file or folder; {error}") from error
    if isinstance(task, RowTask):
        tally.num_rows = tally.num_malformed = task.load("train").num_malformed
    num_examples = ingredient.rows if ingredient.is_generated else None
    return task.examples("train", n=num_examples or _ALL, seed=seed)


def _conversation_of(row: Any) -> Conversation:
    """Raises: ValueError for a row that is no conversation."""
    if isinstance(row, Mapping) and "choices" in row:
        return choice_example(row).conversation
    conversation = conversation_of(row)
    validate(conversation)
    return conversation


def _notes(tally: Tally, rows: _Rows) -> tuple[str, ...]:
    notes = []
    if tally.num_malformed:
        first = f", the first is {tally.first_malformed}" if tally.first_malformed else ""
        notes.append(f"{tally.num_malformed:,} of {tally.num_rows:,} rows left out{first}")
    if rows.num_cut:
        notes.append(f"{rows.num_cut:,} of {tally.num_rows:,} rows cut to the context")
    if rows.num_dropped:
        notes.append(f"{rows.num_dropped:,} rows left out, their question alone fills the context")
    for key, where in tally.unfilled.items():
        notes.append(f"{{{{{key}}}}} stays as it is, first in {where}; give --fill {key}=...")
    return tuple(notes)
