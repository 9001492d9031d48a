"""Where things live, and writes that are either complete or absent.

``atomic_write`` and ``file_lock`` are the only two ways in which the package makes files that
must survive a kill: temporary name, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.common.errors import UserError


def home() -> Path:
    """Root of all that the journey reads and writes: ``NANOCHAT_HOME`` or ``~/.cache/nanochat``."""
    return Path(os.environ.get("NANOCHAT_HOME") or Path.home() / ".cache" / "nanochat")


def fsync_dir(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never half.

    Raises: UserError if the disk is full or the folder cannot be written; the old file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_dir(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"write: cannot save {path}: {error.strerror or error}") from error


@contextmanager
def file_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel drops it when the process dies.

    Raises: UserError with the text ``busy`` if another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(f"lock: cannot open {path}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield
