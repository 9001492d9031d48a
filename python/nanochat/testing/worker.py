"""A process that loads once and answers when asked: contenders of a benchmark can take turns then,
each in a process of its own, without loading their model again in each round.

A question or an answer is a line of JSON. Workers load at the same time, from the start; one works
while the others wait in a read.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from nanochat.common.errors import UserError

_CLOSE_S = 10.0
_READY = "ready"


class Worker:
    """The asking side."""

    def __init__(self, name: str, module: str, setup: Any, *, num_threads: int) -> None:
        """Start ``python -m module``, which calls :func:`serve`; does not wait for it.

        Args:
            name: For error messages.
            setup: Its first question, JSON.
            num_threads: Of OpenMP, which PyTorch and OpenBLAS follow.
        """
        self._name = name
        # A file, since a pipe that nobody reads would fill up.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
            text=True,
        )
        self._is_ready = False
        self._send(setup)

    def wait_until_ready(self) -> None:
        """Returns when it has loaded. Raises: as :meth:`ask`."""
        if not self._is_ready:
            answer = self._receive()
            assert answer == _READY, answer
            self._is_ready = True

    def ask(self, question: Any) -> Any:
        """Raises: UserError with the last line of its stderr if it ended."""
        self.wait_until_ready()
        self._send(question)
        return self._receive()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it had ended with a question unread
                pipe.close()
        try:
            self._process.wait(_CLOSE_S)  # the end of its input is its sign to leave
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()  # it may be measuring still
        self.close()

    def _send(self, question: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return json.loads(line)

    def _fail(self) -> None:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip()
        reason = lines.rpartition("\n")[2] or f"exit status {status}"
        raise UserError(f"bench: {self._name} failed: {reason.removeprefix('error: ')}")


def serve(load: Callable[[Any], Callable[[Any], Any]]) -> None:
    """The answering side: ``load`` gets the setup and returns what answers every question."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    answer = load(json.loads(sys.stdin.readline()))
    print(json.dumps(_READY), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
