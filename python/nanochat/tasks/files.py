"""Files of evaluation sets: found in a folder, or fetched once, pinned and checked.

A set is asked for by name, ``gsm8k_test`` or ``core/world_knowledge/arc_easy``, and may lie there
as .jsonl, .jsonl.zst, .jsonl.gz, .parquet or, for word lists, .txt. What the user's own folder
holds is taken as it is. What was fetched is checked at each use: against the hash that the source
is known by, or, where none is known, against the one that the first download had, kept beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write, home
from nanochat.data.streams import COMPRESSED, open_bytes, read_bytes

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".txt", ".txt.zst", ".txt.gz")
TIMEOUT_S = 30.0  # without a byte
PAUSES_S = (1.0, 4.0)  # before the second and the third try
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SetFile:
    """One file of a set.

    Attributes:
        name: Path in the folder of sets, without suffix.
        url: Where it can be had, pinned to a commit; the suffix says the format.
        sha256: Of the decompressed file behind ``url``; None where nobody published it.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class Rows:
    """Objects of a file, in order; lines that are none are only counted."""

    rows: list[dict[str, Any]]
    num_malformed: int


def eval_home() -> Path:
    """Where fetched sets are kept."""
    return home() / "eval"


def find(name: str, folder: Path) -> Path | None:
    """The file of that name in ``folder``, in whichever format it is there."""
    paths = (folder / (name + suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def locate(file: SetFile, folder: Path | None) -> Path:
    """The file in ``folder``, else in NANOCHAT_HOME/eval, else fetched to there.

    Raises: UserError if it cannot be fetched, or is not the one that it should be.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"tasks: --eval-data must be a folder, got {folder}")
    if folder is not None and (path := find(file.name, folder)) is not None:
        return path
    path = find(file.name, eval_home())
    if path is None:
        return _fetch(file, eval_home())
    wanted = file.sha256 or _recorded(path)
    if wanted is not None and _digest(path) != wanted:
        raise UserError(
            f"tasks: {path} is damaged or another file, its sha256 is not {wanted}; remove it to "
            "fetch it again, or keep files of your own in another folder and give --eval-data"
        )
    return path


def read_rows(path: Path) -> Rows:
    """The rows of a .jsonl (.zst, .gz) or .parquet file; lines end at \\n only.

    Raises: UserError if the file as a whole cannot be read, never for a line.
    """
    if path.suffix == ".parquet":
        return Rows(_read_parquet(path), 0)
    rows, num_malformed = [], 0
    for line in _read(path).split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # also what is not UTF-8
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            num_malformed += 1
    return Rows(rows, num_malformed)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file (.zst, .gz) without spaces around them; empty ones are left out.

    Raises: UserError if the file cannot be read.
    """
    text = _read(path).decode(errors="replace")
    return [line.strip() for line in text.split("\n") if line.strip()]


def _fetch(file: SetFile, folder: Path) -> Path:
    """Download, check, and only then put it where it belongs."""
    suffixes = Path(urlsplit(file.url).path).suffixes
    packed = suffixes[-1] in COMPRESSED
    target = folder / (file.name + "".join(suffixes[-2:] if packed else suffixes[-1:]))
    say(f"fetching {file.url}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
            fetched = Path(scratch, target.name)
            _download(file.url, fetched)
            digest = _digest(fetched)
            wanted = file.sha256 or _recorded(target)
            if wanted not in (None, digest):
                raise UserError(
                    f"tasks: {file.url} must have sha256 {wanted}, got {digest}; what the source "
                    f"gives has changed, so put a copy that you trust at {target}"
                )
            if file.sha256 is None:
                atomic_write(_record(target), digest + "\n")
            fetched.replace(target)
    except (OSError, HTTPException) as error:
        raise UserError(
            f"tasks: cannot fetch {file.name} from {file.url}: {error}; put a copy at {target}, or "
            "give the folder that has it with --eval-data"
        ) from error
    return target


def _download(url: str, target: Path) -> None:
    """The bytes behind ``url``; what may be better next time is tried again.

    Raises: OSError or HTTPException when the last try failed too.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            with urlopen(url, timeout=TIMEOUT_S) as response, target.open("wb") as out:
                shutil.copyfileobj(response, out)
                announced, got = response.headers["Content-Length"], out.tell()
            if announced is not None and got != int(announced):
                raise OSError(f"{got} of {announced} bytes arrived")
            return
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            is_final = isinstance(error, HTTPError) and error.code < 500
            if pause_s is None or is_final:
                raise
            time.sleep(pause_s)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded(path: Path) -> str | None:
    """The hash that the first download had."""
    record = _record(path)
    return record.read_text().strip() if record.is_file() else None


def _chunks(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as stream:
        while data := read_bytes(stream, path, _CHUNK_BYTES):
            yield data


def _read(path: Path) -> bytes:
    return b"".join(_chunks(path))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for data in _chunks(path):
        digest.update(data)
    return digest.hexdigest()


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"tasks: {path} is not a readable parquet file: {error}") from error
    return rows
