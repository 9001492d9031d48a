"""``run_python``: one untrusted program in a sandbox of its own, and what came of it."""

from __future__ import annotations

import contextlib
import functools
import marshal
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common.errors import UserError
from nanochat.sandbox import program, seccomp

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]

ISOLATION = (
    "Linux namespaces (user, mount, pid, net, ipc, uts, cgroup), a seccomp filter that leaves one "
    "process, read-only interpreter, 16 MiB /tmp; memory by RLIMIT_AS, threads by RLIMIT_NPROC"
)
# Of the installation that a virtual environment is based on, if in one.
_INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_FOLDER = Path(__file__).parent
_START = "import sys; sys.path.append(sys.argv.pop(1)); import launcher; launcher.main()"
_START_S = 60.0  # a launcher that has not started by then never will


class SandboxUnavailable(UserError):  # noqa: N818
    """This machine offers no isolation; the message says why and what to do."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"sandbox: untrusted code runs only under Linux namespaces, and {reason}; enable "
            "unprivileged user namespaces (sysctl user.max_user_namespaces, and on Ubuntu "
            "kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined), or accept the risk with "
            "--unsafe-local-exec"
        )


@dataclass(frozen=True)
class Outcome:
    """What a program did.

    ok: ran past its last statement and exited with 0; error: raised, or exited before its end, with
    whatever code; timeout: used up its seconds; memory: an uncaught MemoryError; output: wrote more
    than its share; killed: by a signal, of its own or of the kernel.

    exit_code is negative for a signal and None where the sandbox was closed on the program. stdout
    and stderr hold what was written by then, undecodable bytes as U+FFFD.
    """

    status: Status
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float


def run_python(
    code: str,
    *,
    timeout_s: float = 5.0,
    memory_mib: int = 512,
    max_output_bytes: int = 65536,
    unsafe_local: bool = False,
) -> Outcome:
    """Run ``code`` as a program of its own, standard library only; callable from many threads.

    Args:
        timeout_s: Wall-clock seconds from the start of its interpreter; one more of CPU time.
        memory_mib: Address space of the program, interpreter included.
        max_output_bytes: Of standard output and standard error together.
        unsafe_local: Where there is no isolation, run without it instead of refusing.
    Raises: SandboxUnavailable where nothing isolates; ValueError for a limit that is none.
    """
    if not (0 < timeout_s < math.inf and memory_mib > 0 and max_output_bytes > 0):
        raise ValueError(
            "sandbox: limits must be positive and finite, got "
            f"timeout_s={timeout_s}, memory_mib={memory_mib}, max_output_bytes={max_output_bytes}"
        )
    limits = _Limits(timeout_s, memory_mib, max_output_bytes)
    reason = _missing()
    if reason is None:
        return _run(code, limits, cwd=None)
    if not unsafe_local:
        raise SandboxUnavailable(reason)
    _warn_unsafe(reason)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cwd:
        return _run(code, limits, cwd=cwd)


def isolation() -> str | None:
    """What isolates a program here, in words; None where nothing does."""
    return ISOLATION if _missing() is None else None


@dataclass(frozen=True)
class _Limits:
    timeout_s: float
    memory_mib: int
    max_output_bytes: int


@functools.cache
def _missing() -> str | None:
    """Why there is no isolation here, or None. Found by running a program, once per process."""
    if sys.platform != "linux":
        return f"this is {sys.platform}"
    if seccomp.build_filter() is None:
        return f"there is no system call table for {os.uname().machine}"
    try:
        outcome = _run("", _Limits(timeout_s=60, memory_mib=512, max_output_bytes=4096), cwd=None)
    except SandboxUnavailable as error:
        return error.reason
    return None if outcome.status == "ok" else f"an empty program ended so: {outcome}"


@functools.cache
def _warn_unsafe(reason: str) -> None:
    print(f"sandbox: running untrusted code WITHOUT isolation, since {reason}", file=sys.stderr)


def _run(code: str, limits: _Limits, cwd: str | None) -> Outcome:
    token = secrets.token_bytes(program.TOKEN_BYTES)
    request: dict[str, object] = {
        "isolate": cwd is None,
        "cwd": cwd,
        "caller": os.getpid(),
        "code": code.encode("utf-8", "surrogatepass"),
        "token": token,
        "program": Path(program.__file__).read_text(),
        "filter": seccomp.build_filter(),
        "timeout_s": limits.timeout_s,
        "memory_mib": limits.memory_mib,
    }
    with _launched(request) as (launcher, status):
        return _watch(launcher, status, token, limits)


@contextlib.contextmanager
def _launched(request: dict[str, object]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The launcher and the read end of its status pipe; on leaving, nothing of it is left."""
    status, status_w = os.pipe()
    try:
        launcher = subprocess.Popen(
            [_INTERPRETER, "-I", "-S", "-c", _START, str(_FOLDER), str(status_w)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(status_w,),
            env={},
            start_new_session=True,
        )
    except OSError as error:
        os.close(status)
        raise SandboxUnavailable(f"its launcher cannot be started ({error})") from error
    finally:
        os.close(status_w)
    with launcher:  # closes its pipes and waits
        try:
            assert launcher.stdin is not None
            with contextlib.suppress(BrokenPipeError), launcher.stdin:
                launcher.stdin.write(marshal.dumps(request))
            yield launcher, status
        finally:
            launcher.terminate()
            os.close(status)


class _Streams:
    """What comes through pipes, read as it comes; the two of the program share ``room``."""

    def __init__(self, status: int, outputs: tuple[int, int], room: int) -> None:
        self.status = status
        self.outputs = outputs
        self.received = {fd: bytearray() for fd in (status, *outputs)}
        self.room = room
        self.overflows = False

    def read(self, fd: int) -> bool:
        """Take what is there, or wait for it; False at the end of the stream."""
        if fd == self.status:
            chunk = os.read(fd, 4096)
            self.received[fd] += chunk
        else:
            chunk = os.read(fd, min(self.room, 1 << 16) or 1)
            self.overflows |= len(chunk) > self.room
            self.received[fd] += chunk[: self.room]
            self.room -= min(self.room, len(chunk))
        return bool(chunk)

    def drain(self) -> None:
        """Read what the program left behind. A survivor of the unsafe mode may hold its pipes."""
        for fd in self.outputs:
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while not self.overflows and self.read(fd):
                    pass


def _watch(
    launcher: subprocess.Popen[bytes], status: int, token: bytes, limits: _Limits
) -> Outcome:
    """Read what comes until the program has ended, or has to."""
    assert launcher.stdout is not None and launcher.stderr is not None
    outputs = launcher.stdout.fileno(), launcher.stderr.fileno()
    streams = _Streams(status, outputs, limits.max_output_bytes)
    said = streams.received[status]
    start, deadline = None, time.monotonic() + _START_S
    verdict: Status | None = None
    with selectors.DefaultSelector() as selector:
        for fd in streams.received:
            selector.register(fd, selectors.EVENT_READ)
        while verdict is None and status in selector.get_map():
            for key, _ in selector.select(min(60.0, max(0.0, deadline - time.monotonic()))):
                if not streams.read(key.fd):
                    selector.unregister(key.fd)
            now = time.monotonic()
            if start is None and said.startswith(b"started"):
                start, deadline = now, now + limits.timeout_s
            if streams.overflows:
                verdict = "output"
            elif now >= deadline and status in selector.get_map():
                verdict = "timeout"
    if start is None:
        streams.drain()
        words = said.decode().removeprefix("failed ") or streams.received[outputs[1]].decode()
        raise SandboxUnavailable(" ".join(words.split()) or "its launcher died or hung")
    exit_code = None
    if verdict is None:
        streams.drain()
        verdict, exit_code = _judge(said.decode().split()[1:], token)
        if streams.overflows:
            verdict = "output"
    stdout, stderr = (streams.received[fd].decode(errors="replace") for fd in outputs)
    return Outcome(verdict, stdout, stderr, exit_code, time.monotonic() - start)


def _judge(said: list[str], token: bytes) -> tuple[Status, int | None]:
    """Status and exit code from the words of init after ``started``."""
    if not said:  # init did not live to say it
        return "killed", None
    exit_code, told = os.waitstatus_to_exitcode(int(said[1])), bytes.fromhex("".join(said[2:]))
    if told == token + program.MEMORY:  # however the interpreter then ended, short as it was
        return "memory", exit_code
    if exit_code == -signal.SIGXCPU:
        return "timeout", None
    if exit_code < 0:
        return "killed", exit_code
    return ("ok" if (told, exit_code) == (token + program.END, 0) else "error"), exit_code
