"""The filter: numbers as the kernel's headers have them, one process, and no way around."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

import pytest

from nanochat import sandbox
from nanochat.sandbox import seccomp

run_python = functools.partial(sandbox.run_python, timeout_s=60)  # a busy machine is no failure

X86_HEADERS = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")
HEADERS = {"x86_64": X86_HEADERS, "aarch64": ("/usr/include/asm-generic/unistd.h",)}


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_the_numbers_are_those_of_the_headers(machine: str, column: int) -> None:
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for {machine}")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    numbers = {name: int(number) for name, number in defined}
    ours = {name: columns[column] for name, columns in seccomp.DENIED.items()}
    ours |= {"clone": seccomp._CLONE[column], "clone3": seccomp._CLONE3}
    assert ours == {name: numbers.get(name) for name in ours}


def test_an_architecture_without_a_table_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert seccomp.build_filter() is None


@pytest.mark.skipif(sys.platform != "linux", reason="system calls of Linux")
@pytest.mark.usefixtures("isolated")
def test_denied_calls_fail_and_allowed_ones_do_not() -> None:
    column = seccomp._ARCHITECTURES[seccomp.platform.machine()][1]
    numbers = {name: columns[column] for name, columns in seccomp.DENIED.items()}
    code = f"""
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    assert libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1, number
    return errno.errorcode[ctypes.get_errno()]
for name, number in {numbers}.items():
    if number is not None:
        print(name, call(number, 0, 0, 0, 0, 0, 0))
print("clone", call({seccomp._CLONE[column]}, 17, 0, 0, 0, 0))
print("clone3", call({seccomp._CLONE3}, 0, 0))
print("newer", call(442), call(500), call(0x40000000 + 39))
left, right = socket.socketpair()
left.send(b"pair")
print(right.recv(4))
"""
    outcome = run_python(code)
    expected = [f"{name} EPERM" for name, number in numbers.items() if number is not None]
    expected += ["clone EPERM", "clone3 ENOSYS", "newer ENOSYS ENOSYS ENOSYS", "b'pair'"]
    assert (outcome.status, outcome.stdout.splitlines()) == ("ok", expected), outcome


@pytest.mark.usefixtures("isolated")
def test_there_is_one_process() -> None:
    code = """
import multiprocessing, os, subprocess, sys
def attempt(start):
    try: start()
    except OSError as error: print(error.errno)
    else: print("started")
attempt(os.fork)
attempt(os.forkpty)
attempt(lambda: subprocess.run([sys.executable, "-c", ""]))
attempt(lambda: os.posix_spawn(sys.executable, ["python"], {}))
attempt(multiprocessing.get_context("fork").Process(target=print).start)
"""
    outcome = run_python(code)
    assert outcome.status == "ok", outcome
    assert "started" not in outcome.stdout and len(outcome.stdout.split()) == 5


@pytest.mark.skipif(seccomp.platform.machine() != "x86_64", reason="32-bit calls of x86")
@pytest.mark.usefixtures("isolated")
def test_the_32_bit_door_is_shut() -> None:
    code = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, getpid; int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
"""
    outcome = run_python(code)
    assert (outcome.status, outcome.stdout) == ("killed", ""), outcome
