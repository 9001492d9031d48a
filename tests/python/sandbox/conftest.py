"""Isolation where there is some, its layers apart, and a view of the processes below this one."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.sandbox import isolation, run, seccomp

ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
Process = tuple[int, str]  # id and start time: the kernel hands ids out again


@pytest.fixture
def isolated() -> None:
    """Skips where untrusted code would be refused."""
    if isolation() is None:
        pytest.skip(f"no isolation here: {run._missing()}")


@pytest.fixture
def without_filter(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system call is let through: the namespaces have to hold by themselves."""
    monkeypatch.setattr(seccomp, "build_filter", lambda: ALLOW_EVERYTHING)


@pytest.fixture(params=["whole", "without_filter"])
def each_layer(request: pytest.FixtureRequest, isolated: None) -> None:
    if request.param == "without_filter":
        request.getfixturevalue("without_filter")


@pytest.fixture
def processes() -> ProcessTable:
    return ProcessTable()


class ProcessTable:
    """What /proc tells about descendants, whatever namespace they live in."""

    def below(self, root: int) -> set[Process]:
        children: dict[int, list[Process]] = {}
        for folder in Path("/proc").iterdir():
            if fields := self._fields(folder.name):
                children.setdefault(int(fields[1]), []).append((int(folder.name), fields[19]))
        found: set[Process] = set()
        parents = [root]
        while parents:
            for child in children.get(parents.pop(), []):
                found.add(child)
                parents.append(child[0])
        return found

    def alive(self, processes: set[Process]) -> set[Process]:
        return {
            (pid, start)
            for pid, start in processes
            if self.is_running(pid) and self._fields(str(pid))[19:20] == [start]
        }

    def is_running(self, pid: int) -> bool:
        """A zombie that waits for its parent is not."""
        fields = self._fields(str(pid))
        return bool(fields) and fields[0] != "Z"

    def until(self, condition: Callable[[], bool]) -> None:
        """Polls. The minute is for a busy machine; the condition itself is a matter of moments."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)

    def _fields(self, pid: str) -> list[str]:
        """Fields of /proc/PID/stat from the third, the state, on; none if it is gone."""
        if not pid.isdecimal():
            return []
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return []
