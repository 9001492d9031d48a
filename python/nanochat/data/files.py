"""Text files as segments: the smallest pieces that can be read alone.

    .jsonl (.gz, .zst)  whole lines, about 64 KiB; a document is the field ``text`` of a line
    .txt (.gz, .zst)    documents of at most 32 KiB, cut from the file at paragraph ends
    .parquet            rows of one row group, about 256 KiB; a document is a row of column ``text``

Opening a file reads it once from end to end (parquet: its footer), which finds the segments, counts
the documents and proves that it is complete and UTF-8. Lines end at \\n only: JSON strings may hold
U+2028.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nanochat.common.errors import UserError
from nanochat.data.shuffle import permutation, random_words, uniform
from nanochat.data.streams import COMPRESSED, RangeReader, is_compressed, open_bytes, read_bytes

LINES_BYTES = 1 << 16  # of one .jsonl segment
PIECE_BYTES = 1 << 15  # of one .txt document: a few thousand tokens, so that few rows lack context
ROWS_BYTES = 1 << 18  # of one .parquet segment
_CACHE_BYTES = 1 << 29  # decoded row groups kept per source

FIELD = "text"  # of a line, or the column


class TextFile(ABC):
    """An indexed file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = np.zeros(0, np.int64)  # bytes of each segment
        self.num_documents = 0  # an upper bound
        self.held_bytes = 0  # kept in memory
        self.is_stream = False  # a segment can only be reached through all those before it

    def order(self, *key: int, lanes: int) -> np.ndarray:
        """An order of the segments drawn from ``key`` that is cheap to read.

        A stream is cut, from a random place on and around its end, into ``lanes`` runs that are
        read side by side; it is decompressed about ``1 + lanes / 2`` times.
        """
        n = len(self.sizes)
        if not self.is_stream:
            return permutation(n, *key)
        lane_size = -(-n // lanes)
        order = np.arange(lane_size * lanes).reshape(lanes, lane_size).T.ravel()
        return (order[order < n] + int(uniform(*key) * n)) % n

    @abstractmethod
    def read(self, segment: int, reader: Reader) -> Iterator[tuple[str, Any]]:
        """(where, value of the field) of each document; ``where`` names file and line."""


class Reader:
    """What one source keeps open while it reads files; not shared between threads."""

    def __init__(self) -> None:
        self.ranges = RangeReader()
        self.row_groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def close(self) -> None:
        self.ranges.close()
        self.row_groups.clear()


def find_files(path: Path | str, formats: Collection[str], what: str) -> list[Path]:
    """The files of ``formats`` in a folder (recursive), of a glob pattern, or one file; sorted.

    Args:
        formats: Suffixes without that of a compression.
        what: Name of the contents, for the message.
    Raises: UserError if there are none.
    """
    root = Path(path).expanduser()
    if root.is_file():
        found = [root]
    elif root.is_dir():
        found = [file for file in root.rglob("*") if file.is_file()]
    else:
        anchor = Path(root.anchor)
        found = [file for file in anchor.glob(str(root.relative_to(anchor))) if file.is_file()]
        if not found:
            raise UserError(
                f"data: no file matches {path}; give a folder, a file or a glob pattern"
            )
    supported = sorted(file for file in found if _format(file) in formats and file.name[0] != ".")
    if not supported:
        raise UserError(
            f"data: no supported file for {what} in {path}; give {' or '.join(formats)}"
            " (all but .parquet also as .gz or .zst)"
        )
    return supported


def open_file(path: Path, memory_bytes: int) -> TextFile:
    """Index ``path``, a file of one of ``FORMATS``.

    A compressed file is kept decompressed if it takes no more than ``memory_bytes``.

    Raises: UserError naming the file if it is truncated, not UTF-8, or lacks the column.
    """
    return FORMATS[_format(path)](path, memory_bytes)


def _format(path: Path) -> str:
    """Suffix without that of the compression; nothing for a compressed .parquet."""
    if path.suffix not in COMPRESSED:
        return path.suffix
    inner = Path(path.stem).suffix
    return "" if inner == ".parquet" else inner


class _ByteFile(TextFile):
    """A file whose segments are byte ranges."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        super().__init__(path)
        self.is_stream = is_compressed(path)
        self._held: list[bytes] = []  # the segments of a compressed file that is small enough
        offsets, lines = [0], [1]
        with open_bytes(path) as stream:
            for data in self.scan(stream):
                self._decode(data, offsets[-1])
                offsets.append(offsets[-1] + len(data))
                lines.append(lines[-1] + data.count(b"\n"))
                if self.is_stream and offsets[-1] <= memory_bytes:
                    self._held.append(data)
        if len(self._held) < len(offsets) - 1:
            self._held = []
        elif self.is_stream:
            self.is_stream, self.held_bytes = False, offsets[-1]
        self.offsets = np.array(offsets, np.int64)
        self.lines = np.array(lines, np.int64)  # number of the first line of each segment
        self.sizes = np.diff(self.offsets)

    @abstractmethod
    def scan(self, stream: BinaryIO) -> Iterator[bytes]:
        """The bytes of the segments, in order."""

    def read_text(self, segment: int, reader: Reader) -> str:
        start, stop = self.offsets[segment : segment + 2].tolist()
        data = self._held[segment] if self._held else reader.ranges.read(self.path, start, stop)
        return self._decode(data, start).removeprefix("\ufeff")  # byte order mark of some editors

    def _decode(self, data: bytes, start: int) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"data: {self.path} is not UTF-8 at byte {start + error.start}; convert it first, "
                "for example with iconv -t UTF-8"
            ) from error


class PlainFile(_ByteFile):
    """.txt: each segment is one document."""

    def scan(self, stream: BinaryIO) -> Iterator[bytes]:
        rest = b""
        while data := rest + read_bytes(stream, self.path, PIECE_BYTES - len(rest)):
            cut = _paragraph_end(data) if len(data) == PIECE_BYTES else len(data)
            yield data[:cut]
            self.num_documents += 1
            rest = data[cut:]

    def read(self, segment: int, reader: Reader) -> Iterator[tuple[str, Any]]:
        yield f"{self.path}:{self.lines[segment]}", self.read_text(segment, reader)


def _paragraph_end(data: bytes) -> int:
    """Where to cut: behind the last blank line, line or word of the second half, else anywhere."""
    for mark in (b"\n\n", b"\n", b" "):
        found = data.rfind(mark, len(data) // 2)
        if found >= 0:
            return found + len(mark)
    cut = len(data)
    while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:  # inside a UTF-8 sequence
        cut -= 1
    return cut - 1


class JsonlFile(_ByteFile):
    """.jsonl: one object a line; blank lines are skipped."""

    def scan(self, stream: BinaryIO) -> Iterator[bytes]:
        while data := read_bytes(stream, self.path, LINES_BYTES, line=True):
            yield data
            self.num_documents += data.count(b"\n") + (not data.endswith(b"\n"))

    def read(self, segment: int, reader: Reader) -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(
            self.read_text(segment, reader).split("\n"), int(self.lines[segment])
        ):
            if line.strip():
                where = f"{self.path}:{number}"
                yield where, self._value(line, where)

    def _value(self, line: str, where: str) -> Any:
        try:
            row = json.loads(line)
        except (
            ValueError,
            RecursionError,
        ) as error:  # syntax, or numbers and nesting beyond Python's
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} at column {error.colno}"
            raise UserError(
                f"data: {where}: not valid JSON ({reason}); each line must be one JSON object"
            ) from error
        if not isinstance(row, dict) or FIELD not in row:
            raise UserError(
                f"data: {where}: no field '{FIELD}'; each line must be an object with it"
            )
        return row[FIELD]


class ParquetFile(TextFile):
    """.parquet: rows of the column."""

    def __init__(self, path: Path, memory_bytes: int) -> None:
        import pyarrow.parquet as pq

        super().__init__(path)
        with parquet_errors(path), pq.ParquetFile(path) as file:
            self.metadata = file.metadata
            names = file.schema_arrow.names
        if FIELD not in names:
            raise UserError(
                f"data: {path} has no column '{FIELD}'; its columns are {', '.join(names)}"
            )
        self.num_documents = self.metadata.num_rows
        pieces: list[tuple[int, int, int]] = []  # row group, first row, one past the last row
        sizes: list[int] = []
        self.first_rows = [0]
        for g in range(self.metadata.num_row_groups):
            group = self.metadata.row_group(g)
            num_bytes = sum(
                group.column(c).total_uncompressed_size
                for c in range(group.num_columns)
                if group.column(c).path_in_schema.split(".")[0] == FIELD
            )
            parts = max(1, min(num_bytes // ROWS_BYTES, group.num_rows))
            cuts = [group.num_rows * k // parts for k in range(parts + 1)]
            pieces += [(g, a, b) for a, b in pairwise(cuts)]
            sizes += [max(1, num_bytes // parts)] * parts
            self.first_rows.append(self.first_rows[-1] + group.num_rows)
        self.pieces = pieces
        self.sizes = np.array(sizes, np.int64)

    def order(self, *key: int, lanes: int) -> np.ndarray:
        """Row groups in random order, each decoded once: its pieces stay together."""
        groups = np.array([group for group, _, _ in self.pieces], np.int64)
        words = random_words(self.metadata.num_row_groups, *key)
        return np.argsort(words[groups], kind="stable")

    def read(self, segment: int, reader: Reader) -> Iterator[tuple[str, Any]]:
        group, start, stop = self.pieces[segment]
        column = self._column(group, reader).slice(start, stop - start)
        first = self.first_rows[group] + start + 1
        for number, value in enumerate(column.to_pylist(), first):
            yield f"{self.path}: row {number}", value

    def _column(self, group: int, reader: Reader) -> Any:
        import pyarrow.parquet as pq

        cache = reader.row_groups
        key = (self.path, group)
        if key not in cache:
            with (
                parquet_errors(self.path),
                pq.ParquetFile(self.path, metadata=self.metadata) as file,
            ):
                cache[key] = file.read_row_group(group, columns=[FIELD]).column(0)
            while len(cache) > 1 and sum(column.nbytes for column in cache.values()) > _CACHE_BYTES:
                cache.popitem(last=False)
        cache.move_to_end(key)
        return cache[key]


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"data: {path} is not a readable parquet file, it is truncated or damaged; "
            "copy it again"
        ) from error


FORMATS: dict[str, Callable[[Path, int], TextFile]] = {
    ".txt": PlainFile,
    ".jsonl": JsonlFile,
    ".parquet": ParquetFile,
}
