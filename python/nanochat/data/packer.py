"""Rows of T + 1 tokens out of documents, with next to no padding.

Every row begins with BOS, and so does every document or piece of one in it. A row gives T inputs
and, shifted by one, T targets; since the first token of a row is BOS, each token of a document is a
target exactly once. At most about 1 % is padding. Conversations are never cut to fit: one that is
longer than a row loses its end, and if no target is left in it, it is dropped.

The work is native; csrc/packer/README.md has the rule, and what it costs. Orders are drawn here,
from words that are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanochat import _core
from nanochat.data.rendering import TokenBatch
from nanochat.data.shuffle import random_words

IGNORE = -1  # target of a position from which nothing is learnt


@dataclass(frozen=True)
class Rows:
    """N packed rows."""

    ids: npt.NDArray[np.int32]  # (N, T + 1), padding is BOS
    targets: npt.NDArray[np.int32]  # (N, T), IGNORE on padding and where the mask is 0
    num_padding: npt.NDArray[np.int64]  # (N,)
    num_documents: npt.NDArray[np.int64]  # (N,), documents that begin in the row

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> Rows:
        return Rows(
            self.ids[start:stop],
            self.targets[start:stop],
            self.num_padding[start:stop],
            self.num_documents[start:stop],
        )

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        return Rows(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.targets for part in parts]),
            np.concatenate([part.num_padding for part in parts]),
            np.concatenate([part.num_documents for part in parts]),
        )


def pack(batch: TokenBatch, *, bos: int, seq_len: int, key: Sequence[int]) -> Rows:
    """Pack the documents of ``batch`` into rows of ``seq_len + 1`` tokens.

    Args:
        key: Seeds the order of rows and of documents in a row.
    Raises: ValueError if arrays have other dtypes than ``TokenBatch`` says or do not fit together,
        or an id, ``bos`` or ``seq_len`` is out of range.
    """
    ids, offsets, mask = batch
    plan = _core.packer_plan(offsets, mask, seq_len=seq_len)
    return Rows(
        *_core.packer_write(
            plan,
            ids,
            mask,
            bos=bos,
            row_words=random_words(plan.num_rows, *key, 0),
            chunk_words=random_words(plan.num_chunks, *key, 1),
        )
    )
