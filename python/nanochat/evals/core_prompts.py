"""A CORE example as token rows: the prompt with each choice, and where scoring begins.

    BOS  shot \\n\\n  shot \\n\\n  ...  query delimiter choice

Where scoring begins is found on the tokens, as in the reference evaluator (karpathy/nanochat,
core_eval.py): multiple choice where the rows begin to differ, schema where they become the same for
good, language modelling behind the tokens that the prompt has without its continuation.

Two things are our own. A prompt longer than the context loses its beginning, the same number of
tokens in every row of an example, so that choices are compared behind one prompt (the reference
cuts each row by its own length, and only for models that say how long they can). And a choice that
is the beginning of another one still has its last token scored, where the reference has NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Protocol

from nanochat.evals.core_tasks import CoreTask, Row, shots_of
from nanochat.evals.likelihood import TokenRow
from nanochat.tokenizer.bpe import SPLIT_PATTERN

BETWEEN = "\n\n"


class Encoder(Protocol):
    """What is asked of a tokenizer."""

    @property
    def bos(self) -> int: ...
    @property
    def pattern(self) -> str: ...
    def encode_batch(
        self, texts: Sequence[str], *, num_threads: int | None = None
    ) -> list[list[int]]: ...


@dataclass(frozen=True)
class CoreExample:
    """One example, ready to score.

    Attributes:
        index: Place among the rows of its task.
        rows: One for each choice; a single one for language modelling.
        gold: Index of the right choice; None for language modelling.
        num_cropped: Tokens that the beginning of the prompt lost.
        prompt_sha256: Of the texts, 16 hex digits: equal for models with other tokenizers.
    """

    index: int
    rows: list[TokenRow]
    gold: int | None
    num_cropped: int
    prompt_sha256: str


class Prompts:
    """Makes the examples of one task; each row is tokenized once as a shot and once as a question.

    Joining the tokens of parts gives the tokens of the whole where the tokenizer splits the text
    between them anyway, as SPLIT_PATTERN does behind a line end that no white space follows. Where
    that is not so, the whole prompt is encoded.
    """

    def __init__(
        self, task: CoreTask, rows: Sequence[Row], encoder: Encoder, *, context: int
    ) -> None:
        self._task = task
        self._rows = rows
        self._encoder = encoder
        self._context = context
        self._shots = [_shot(task, row) + BETWEEN for row in rows] if task.shots else []
        self._can_join = encoder.pattern == SPLIT_PATTERN
        self._shot_ids = encoder.encode_batch(self._shots, num_threads=1) if self._can_join else []

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, index: int) -> CoreExample:
        task, row = self._task, self._rows[index]
        shots = shots_of(task, len(self._rows), index)
        ends = question_texts(task, row)
        ids = self._encode(shots, ends)
        starts = scored_from(task, ids)
        if task.kind == "language_modeling":
            ids, starts = ids[1:], starts[1:]
        excess = max(0, max(map(len, ids)) - self._context)
        rows = [
            TokenRow(tokens[excess:], max(1, start - excess))
            for tokens, start in zip(ids, starts, strict=True)
        ]
        digest = hashlib.sha256()
        for text in chain((self._shots[i] for i in shots), ends):
            digest.update(text.encode(errors="surrogatepass"))
        return CoreExample(index, rows, row.get("gold"), excess, digest.hexdigest()[:16])

    def _encode(self, shots: Sequence[int], ends: Sequence[str]) -> list[list[int]]:
        """Ids of the whole prompts, BOS first."""
        parts = [*(self._shots[i] for i in shots), *ends]
        if shots and not (self._can_join and all(not part[:1].isspace() for part in parts)):
            beginning = "".join(self._shots[i] for i in shots)
            ends, shots = [beginning + end for end in ends], []
        before = [self._encoder.bos, *chain.from_iterable(self._shot_ids[i] for i in shots)]
        return [[*before, *ids] for ids in self._encoder.encode_batch(ends, num_threads=1)]


def whole_texts(task: CoreTask, rows: Sequence[Row], index: int) -> list[str]:
    """The prompts of an example as plain text."""
    shots = shots_of(task, len(rows), index)
    beginning = "".join(_shot(task, rows[i]) + BETWEEN for i in shots)
    return [beginning + end for end in question_texts(task, rows[index])]


def _shot(task: CoreTask, row: Row) -> str:
    """An answered question."""
    if task.kind == "multiple_choice":
        parts = row["query"], row["choices"][row["gold"]]
    elif task.kind == "schema":
        parts = row["context_options"][row["gold"]], row["continuation"]
    else:
        parts = row["context"].strip(), row["continuation"]
    return task.delimiter.join(parts)


def question_texts(task: CoreTask, row: Row) -> list[str]:
    """The question with each choice; for language modelling without its continuation and with."""
    if task.kind == "multiple_choice":
        return [row["query"] + task.delimiter + choice for choice in row["choices"]]
    if task.kind == "schema":
        return [
            context + task.delimiter + row["continuation"] for context in row["context_options"]
        ]
    prompt = row["context"].strip() + task.delimiter
    # A space at the end would be a token of its own here, and a part of the next one there.
    return [prompt.rstrip(), prompt + row["continuation"]]


def scored_from(task: CoreTask, ids: Sequence[Sequence[int]]) -> list[int]:
    """For each row the index of the first scored token: from 1 to its length - 1."""
    if task.kind == "schema":
        # A first token has nothing before it that it could follow.
        common = min(common_prefix([tokens[::-1] for tokens in ids]), min(map(len, ids)) - 1)
        return [len(tokens) - max(1, common) for tokens in ids]
    shortest = min(map(len, ids))
    if task.kind == "language_modeling":  # the first row is the prompt, the second is scored
        shortest = len(ids[1])
    return [min(common_prefix(ids), shortest - 1)] * len(ids)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """With how many equal items all rows begin."""
    first, *others = rows
    shortest = min(map(len, rows))
    if all(row[:shortest] == first[:shortest] for row in others):
        return shortest
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
