"""A private server: the ordinary one in a child process, on a free port, as long as a block lasts.

A child, so that generating does not compete with the terminal for one interpreter. It ends when we
do, by SIGTERM, or, if we are killed, because its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.common.errors import UserError

STOP_TIMEOUT_S = 10.0
_READY = "chat page: "


@contextmanager
def private_server(
    checkpoint: Path, *, device: str = "cpu", dtype: str = "bf16", threads: int | None = None
) -> Iterator[str]:
    """URL of a server for ``checkpoint``. Raises: UserError with its last words, if it fails."""
    options = ["--checkpoint", str(checkpoint), "--port", "0", "--slots", "1"]
    options += ["--device", device, "--dtype", dtype]
    if threads is not None:
        options += ["--threads", str(threads)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "chat-web", "--stop-with-stdin", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal is for us
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().strip()
        if not ready.startswith(_READY):
            _, said = process.communicate(timeout=STOP_TIMEOUT_S)
            last = said.strip().splitlines()[-1:] or ["chat: the private server said nothing"]
            raise UserError(last[0].removeprefix("error: "))
        yield ready.removeprefix(_READY)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
