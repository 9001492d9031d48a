"""Where documents come from: sources that are read by block, in an order fixed by a seed.

A block is a few megabytes of text that is packed by itself, so (epoch, block, row) is all a loader
has to remember. ``GeneratedSource`` makes documents by index. ``FileSource`` reads a ``Corpus``:
each epoch it lays the segments of all files on one line, those of a file evenly spread and
shuffled, and cuts the line into blocks; every block is therefore a mixture of the files in
proportion to their size.

    books  |-b3----b0----b2----b1-|              order of segments drawn from (seed, epoch, file)
    wiki   |--w1--w4--w0--w5--w2--|     ->   b3 w1 w4 | b0 w0 w5 | b2 w2 w3 | b1 ...
    notes  |---------n0-----------|

About one document in 200 is held out, see held_out.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from nanochat.common.errors import UserError
from nanochat.data import held_out
from nanochat.data.files import FORMATS, Reader, TextFile, find_files, open_file
from nanochat.data.shuffle import uniform
from nanochat.data.streams import MAX_CURSORS

Item = Any  # a document (str), or what another source gives to its render
Split = Literal["train", "val"]

BLOCK_BYTES = 2 << 20
_MEMORY_BYTES = 1 << 29  # of decompressed text that a corpus may hold; larger files are streamed
_LANES = 8  # places of one streamed file that are read side by side
_WAVE = (
    MAX_CURSORS // 2
)  # streamed places in all; at the turn of an epoch old and new ones are open


class Source(Protocol):
    """Documents by block; the same arguments always give the same items."""

    @property
    def name(self) -> str:
        """What to call it in a message."""

    def block(self, epoch: int, index: int) -> list[Item] | None:
        """Items of a block, perhaps none; None behind the last block of the epoch."""


def items(source: Source, epoch: int = 0) -> Iterator[Item]:
    """All items of one epoch, or without end."""
    index = 0
    while (block := source.block(epoch, index)) is not None:
        yield from block
        index += 1


@dataclass(frozen=True)
class GeneratedSource:
    """Items made by index, without end, all in epoch 0."""

    make: Callable[[int], Item]
    name: str = "the generator"
    items_per_block: int = 1024

    def block(self, epoch: int, index: int) -> list[Item] | None:
        if epoch > 0:
            return None
        first = index * self.items_per_block
        return [self.make(i) for i in range(first, first + self.items_per_block)]


class Corpus:
    """The indexed files of a folder, glob or file; immutable once opened.

    Opening reads .txt and .jsonl once (a few hundred MB/s), so that a truncated file or one that is
    not UTF-8 is told before training and not hours into it; of parquet it reads the footers.
    Compressed files stay in memory while they take at most 512 MiB in all; the others are streamed,
    which costs decompressing them about five times per epoch, and at each start up to four times
    before the first block.

    Args:
        path: Folder (read recursively), glob pattern or file.
    Raises: UserError if nothing is found or a file is malformed.
    """

    def __init__(self, path: Path | str) -> None:
        self.name = str(path)
        self.files: list[TextFile] = []
        memory_bytes = _MEMORY_BYTES
        for file in find_files(path, FORMATS, "text"):
            self.files.append(open_file(file, memory_bytes))
            memory_bytes -= self.files[-1].held_bytes
        self._limit = self._held_out_limit()

    def source(self, split: Split, *, seed: int = 0, block_bytes: int = BLOCK_BYTES) -> FileSource:
        return FileSource(self, split, seed, block_bytes)

    def read(self, file: TextFile, segment: int, reader: Reader) -> Iterator[tuple[int, str]]:
        """(digest, text) of each document of a segment that is not blank."""
        for where, text in file.read(segment, reader):
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"data: {where}: 'text' must be a string, got {type(text).__name__}"
                )
            if not text or text.isspace():
                continue
            try:
                digest = held_out.digest(text)
            except ValueError as error:
                raise UserError(f"data: {where}: {error}") from error
            yield digest, text

    def is_held_out(self, digest: int) -> bool:
        return digest < self._limit

    def _held_out_limit(self) -> int:
        num_documents = sum(file.num_documents for file in self.files)
        if held_out.is_large(num_documents):
            return held_out.limit((), num_documents)
        reader = Reader()
        digests = [
            digest
            for file in self.files
            for segment in range(len(file.sizes))
            for digest, _ in self.read(file, segment, reader)
        ]
        reader.close()
        if not digests:
            raise UserError(f"data: no document in {self.name}; every file is empty or blank")
        return held_out.limit(digests, num_documents)


class FileSource:
    """One side of a corpus; keeps files open, so it serves one thread."""

    def __init__(self, corpus: Corpus, split: Split, seed: int, block_bytes: int) -> None:
        self.name = f"{corpus.name} ({split} split)"
        self._corpus = corpus
        self._is_val = split == "val"
        self._seed = seed
        self._block_bytes = block_bytes
        self._reader = Reader()
        self._epoch = -1  # of the order below
        self._order: list[np.ndarray] = []

    def block(self, epoch: int, index: int) -> list[Item] | None:
        if epoch != self._epoch:
            self._order = _blocks(self._corpus.files, self._seed, epoch, self._block_bytes)
            self._epoch = epoch
        if index >= len(self._order):
            return None
        return [
            item
            for file, segment in self._order[index].tolist()
            for digest, item in self._corpus.read(self._corpus.files[file], segment, self._reader)
            if self._corpus.is_held_out(digest) == self._is_val
        ]

    def close(self) -> None:
        self._reader.close()


def _blocks(files: list[TextFile], seed: int, epoch: int, block_bytes: int) -> list[np.ndarray]:
    """The blocks of an epoch, each (n, 2) int64: file and segment."""
    num_streams = sum(file.is_stream for file in files)
    lanes = max(1, min(_LANES, _WAVE // max(1, num_streams)))
    num_waves = max(1, -(-num_streams // _WAVE))
    streams_seen = 0
    places, pairs, sizes = [], [], []
    for number, file in enumerate(files):
        order = file.order(seed, epoch, number, 0, lanes=lanes)
        n = len(order)
        place = (np.arange(n) + uniform(seed, epoch, number, 1)) / max(1, n)  # in [0, 1)
        if file.is_stream:
            # At most _WAVE streams share a stretch of the epoch, or cursors would thrash.
            place = (place + (streams_seen + epoch) % num_waves) / num_waves
            streams_seen += 1
        places.append(place)
        pairs.append(np.stack([np.full(n, number), order], axis=1))
        sizes.append(file.sizes[order])
    line = np.argsort(np.concatenate(places), kind="stable")
    ends = np.cumsum(np.concatenate(sizes)[line])
    block = (ends - ends[0]) // block_bytes
    return np.split(np.concatenate(pairs)[line], np.flatnonzero(np.diff(block)) + 1)
