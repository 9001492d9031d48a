"""Rows of T + 1 tokens out of documents, with next to no padding.

Every row begins with BOS, and so does every document or piece of one in it. A row gives T inputs
and, shifted by one, T targets; since the first token of a row is BOS, each token of a document is a
target exactly once.

    documents of one block -> chunks of at most T + 1 -> best-fit decreasing -> rows -> shuffled
                              (BOS again at each cut)    emptiest rows cut up,
                                                         until 1 % padding is left

Best fit alone leaves gaps where documents do not add up (all of 0.6 T: 40 % padding), so the
emptiest rows are dissolved and their text fills the gaps of the others; what remains is under 1 %
plus one row, or gaps of less than T / 32. Conversations are never cut to fit: one that is longer
than a row loses its end, and if no target is left in it, it is dropped.

Cost: about 2 us per document and 40 ns per token, on top of tokenising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanochat.data.rendering import Rendered
from nanochat.data.shuffle import permutation, random_words

_MAX_PADDING = 0.01  # share of padding from which on rows are dissolved
_MIN_GAP = 32  # a gap of less than 1 / 32 of a row is not worth a cut

IGNORE = -1  # target of a position from which nothing is learnt


@dataclass(frozen=True)
class Rows:
    """N packed rows."""

    ids: np.ndarray  # (N, T + 1) int32, padding is BOS
    targets: np.ndarray  # (N, T) int32, IGNORE on padding and where the mask is 0
    num_padding: np.ndarray  # (N,) int64
    num_documents: np.ndarray  # (N,) int64, documents that begin in the row

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


class _Chunk(NamedTuple):
    """BOS and a run of a document's tokens."""

    size: int  # tokens, BOS included
    start: int  # of the run, in the block's tokens laid end to end
    is_first: bool  # of its document
    is_open: bool  # the document goes on: nothing may follow in the row
    is_whole: bool  # may not be cut

    def cut(self, size: int) -> tuple[_Chunk, _Chunk]:
        """A head of ``size`` tokens and the rest, each with its BOS."""
        rest = self._replace(size=self.size - size + 1, start=self.start + size - 1, is_first=False)
        return self._replace(size=size, is_open=True), rest


def pack(documents: Sequence[Rendered], *, bos: int, seq_len: int, key: Sequence[int]) -> Rows:
    """Pack ``documents``, each (ids, mask or None), into rows of ``seq_len + 1`` tokens.

    Args:
        documents: Ids begin with ``bos``. A mask of the same length says which tokens are targets
            and forbids cutting.
        key: Seeds the order of rows and of documents in a row.
    Raises: ValueError if a document does not begin with BOS, or a mask has another length.
    """
    tokens, mask = _lay_out(documents, bos)
    bins = _Bins(seq_len + 1)
    for chunk in sorted(_chunks(documents, mask, seq_len), key=lambda chunk: -chunk.size):
        bins.add(chunk)
    bins.fill_gaps()
    return _write([row for row in bins.rows if row], tokens, mask, bos, seq_len, key)


def _lay_out(documents: Sequence[Rendered], bos: int) -> tuple[np.ndarray, np.ndarray]:
    """All ids and all masks, end to end."""
    for ids, mask in documents:
        if len(ids) == 0 or ids[0] != bos:
            raise ValueError(f"packer: a document must begin with BOS ({bos}), got {list(ids[:4])}")
        if mask is not None and len(mask) != len(ids):
            raise ValueError(f"packer: mask must have {len(ids)} entries, got {len(mask)}")
    empty = np.zeros(0, np.int32)
    ids_parts = [np.asarray(ids, np.int32) for ids, _ in documents]
    mask_parts = [
        np.ones(len(ids), np.bool_) if mask is None else np.asarray(mask, np.bool_)
        for ids, mask in documents
    ]
    return np.concatenate([empty, *ids_parts]), np.concatenate(
        [empty.astype(np.bool_), *mask_parts]
    )


def _chunks(documents: Sequence[Rendered], targets: np.ndarray, seq_len: int) -> list[_Chunk]:
    chunks = []
    start = 1  # behind the BOS of the document
    for ids, mask in documents:
        length = len(ids) - 1
        if mask is not None:
            size = min(length, seq_len)
            if targets[start : start + size].any():
                chunks.append(_Chunk(size + 1, start, True, False, True))
        else:
            for done in range(0, length, seq_len):
                size = min(length - done, seq_len)
                is_open = done + size < length
                chunks.append(_Chunk(size + 1, start + done, done == 0, is_open, False))
        start += len(ids)
    return chunks


class _Bins:
    """Rows being filled, findable by the room that is left in them.

    Bit g of ``_gaps`` says that some row has g tokens of room; best fit is then the lowest bit from
    the wanted size on, and the emptiest row is at the highest bit.
    """

    def __init__(self, capacity: int) -> None:
        self.rows: list[list[_Chunk]] = []
        self._capacity = capacity
        self._gap: list[int] = []  # of each row
        self._by_gap: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows on offer
        self._gaps = 0

    def add(self, chunk: _Chunk) -> None:
        """Put the chunk where the least room remains, in a new row if it fits nowhere."""
        row = self._take_fitting(chunk.size)
        if row is None:
            row = len(self.rows)
            self.rows.append([])
            self._gap.append(self._capacity)
        self._put(row, chunk)

    def fill_gaps(self) -> None:
        """Dissolve the emptiest rows into the gaps of the others while much padding is left."""
        padding, num_rows = sum(self._gap), len(self.rows)
        while padding > _MAX_PADDING * self._capacity * num_rows:
            row = self._take_emptiest()
            if row is None:
                return
            if any(chunk.is_whole for chunk in self.rows[row]):
                continue  # stays as it is, no longer on offer
            chunks, self.rows[row], self._gap[row] = self.rows[row], [], self._capacity
            rests = [rest for chunk in chunks if (rest := self._scatter(chunk)) is not None]
            if rests:  # no gap is left that is worth a cut
                for rest in rests:
                    self._put(row, rest)
                return
            padding -= self._capacity  # the BOS of new cuts, not counted, make it smaller still
            num_rows -= 1

    def _scatter(self, chunk: _Chunk) -> _Chunk | None:
        """Spread the chunk over the gaps; returns what found no place."""
        while (row := self._take_fitting(chunk.size)) is None:
            row = self._take_emptiest()
            if row is None:
                return chunk
            head, chunk = chunk.cut(self._gap[row])  # fills the row
            self._put(row, head)
        self._put(row, chunk)
        return None

    def _put(self, row: int, chunk: _Chunk) -> None:
        self.rows[row].append(chunk)
        self._gap[row] -= chunk.size
        gap = self._gap[row]
        self._by_gap[gap].append(row)
        self._gaps |= 1 << gap

    def _take_fitting(self, size: int) -> int | None:
        above = self._gaps >> size
        return self._take(size + (above & -above).bit_length() - 1) if above else None

    def _take_emptiest(self) -> int | None:
        gap = self._gaps.bit_length() - 1
        return self._take(gap) if gap > 1 and gap >= self._capacity // _MIN_GAP else None

    def _take(self, gap: int) -> int:
        rows = self._by_gap[gap]
        row = rows.pop()
        if not rows:
            self._gaps &= ~(1 << gap)
        return row


def _write(
    rows: list[list[_Chunk]],
    tokens: np.ndarray,
    mask: np.ndarray,
    bos: int,
    seq_len: int,
    key: Sequence[int],
) -> Rows:
    """Lay the chunks out: rows, and the chunks in a row, in an order drawn from ``key``."""
    N, R = len(rows), seq_len + 1
    new_row = permutation(N, *key, 0)
    table = np.array(
        [(new_row[row], *chunk) for row, chunks in enumerate(rows) for chunk in chunks], np.int64
    ).reshape(-1, 6)
    # An open chunk fills its row, so it comes last: what follows a chunk is always a true end.
    table = table[np.lexsort((random_words(len(table), *key, 1), table[:, 4], table[:, 0]))]
    row, size, start, is_first, _, is_whole = table.T
    filled = np.bincount(row, weights=size, minlength=N).astype(np.int64)
    begin = row * R + np.cumsum(size) - size - (np.cumsum(filled) - filled)[row]  # of each BOS

    length = size - 1
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    source = np.repeat(start, length) + within
    target = np.repeat(begin + 1, length) + within
    ids = np.full(N * R, bos, np.int32)
    ids[target] = tokens[source]
    is_learnt = np.zeros(N * R, np.bool_)
    is_learnt[target] = mask[source]
    is_learnt[begin] = is_whole == 0  # that a text has ended is learnt too
    targets = np.where(is_learnt, ids, np.int32(IGNORE))
    return Rows(
        ids=ids.reshape(N, R),
        targets=targets.reshape(N, R)[:, 1:],
        num_padding=R - filled,
        num_documents=np.bincount(row, weights=is_first, minlength=N).astype(np.int64),
    )
