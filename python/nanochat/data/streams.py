"""Byte ranges of files that may be compressed.

A plain file is read by seeking. A compressed stream has no way in but its beginning, so a reader
that stopped stays open and serves the range that starts where it stopped; any other range costs
decompressing what lies before it (a few hundred MB/s). The callers' orders are made of few long
runs for that reason (see sources.py).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, cast

from nanochat.common.errors import UserError

COMPRESSED = (".gz", ".zst")
_CHUNK_BYTES = 1 << 17
MAX_CURSORS = 64  # open compressed readers per source, each with a window of up to 8 MiB


def is_compressed(path: Path) -> bool:
    return path.suffix in COMPRESSED


def open_bytes(path: Path) -> BinaryIO:
    """A buffered reader of the file's decompressed bytes."""
    try:
        if path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"data: cannot open {path}: {error.strerror or error}") from error
    return io.BufferedReader(_ZstdStream(file), _CHUNK_BYTES) if path.suffix == ".zst" else file


def read_bytes(stream: BinaryIO, path: Path, num_bytes: int, *, line: bool = False) -> bytes:
    """``num_bytes``, fewer only at the end of the file; with ``line``, on to the end of the line.

    Raises: UserError if the compressed stream is truncated or damaged.
    """
    try:
        data = stream.read(num_bytes)
        return data + stream.readline() if line and data else data
    except EOFError as error:
        raise UserError(
            f"data: {path} is truncated, it ends inside its compressed stream; copy it again"
        ) from error
    except (OSError, zlib.error) as error:
        raise UserError(f"data: {path} cannot be read: {error}; copy it again") from error


class RangeReader:
    """Random access to files by byte range; keeps cursors into compressed ones."""

    def __init__(self) -> None:
        self._cursors: OrderedDict[tuple[Path, int], BinaryIO] = OrderedDict()

    def read(self, path: Path, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the decompressed file."""
        if not is_compressed(path):
            with open_bytes(path) as stream:
                stream.seek(start)
                return self._checked(read_bytes(stream, path, stop - start), path, start, stop)
        cursor = self._cursors.pop((path, start), None) or self._skip(path, start)
        data = self._checked(read_bytes(cursor, path, stop - start), path, start, stop)
        self._cursors[path, stop] = cursor
        if len(self._cursors) > MAX_CURSORS:
            self._cursors.popitem(last=False)[1].close()
        return data

    def close(self) -> None:
        while self._cursors:
            self._cursors.popitem()[1].close()

    @staticmethod
    def _skip(path: Path, start: int) -> BinaryIO:
        stream = open_bytes(path)
        while start > 0:
            data = read_bytes(stream, path, min(start, 1 << 20))
            if not data:
                break  # the file shrank; the read that follows says so
            start -= len(data)
        return stream

    @staticmethod
    def _checked(data: bytes, path: Path, start: int, stop: int) -> bytes:
        if len(data) != stop - start:
            raise UserError(f"data: {path} became shorter while it was read; start again")
        return data


class _ZstdStream(io.RawIOBase):
    """One or more zstd frames; unlike zstandard's own reader, an unfinished frame is an error."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._frame = self._new()
        self._inside = False  # some bytes of the current frame were consumed
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            if not self._input:
                self._input = self._file.read(_CHUNK_BYTES)
            if not self._input:
                if self._inside:
                    raise EOFError("unfinished zstd frame")
                return 0
            self._decompress()
        n = min(len(buffer), len(self._output))
        buffer[:n] = self._output[:n]
        self._output = self._output[n:]
        return n

    def _decompress(self) -> None:
        try:
            self._output = memoryview(self._frame.decompress(self._input))
        except self._error as error:
            raise OSError(f"damaged zstd stream ({error})") from error
        self._inside = not self._frame.eof
        self._input = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = self._new()

    def close(self) -> None:
        self._file.close()
        super().close()
