"""What counts as a program that ran to its end, and what its output looks like."""

from __future__ import annotations

import functools

import pytest

from nanochat import sandbox
from nanochat.sandbox import Outcome

pytestmark = pytest.mark.usefixtures("isolated")
run_python = functools.partial(sandbox.run_python, timeout_s=60)  # a busy machine is no failure


def test_a_program_that_ends_is_ok() -> None:
    outcome = run_python(
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint(__name__, sys.argv)"
    )
    assert outcome == Outcome(
        "ok", "out\n__main__ ['program']\n", "err\n", exit_code=0, seconds=outcome.seconds
    )
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import os\nprint('all tests passed', flush=True)\nos._exit(0)", 0),
        ("import os\nos._exit(3)", 3),
        ("import sys\nsys.exit()", 0),
        ("import sys\nsys.exit(7)", 7),
        ("import sys\nsys.exit('words')", 1),
        ("raise SystemExit(0)", 0),
        ("import atexit, os\natexit.register(os._exit, 4)", 4),
        ("import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'x' * 16 + b'end')\n"
         "    except OSError: pass\nos._exit(0)", 0),
        ("import os\nos.execv(__import__('sys').executable, ['python', '-S', '-c', ''])", 0),
    ],
)  # fmt: skip
def test_an_exit_before_the_end_is_an_error_whatever_its_code(code: str, exit_code: int) -> None:
    outcome = run_python(code)
    assert (outcome.status, outcome.exit_code) == ("error", exit_code), outcome


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f():\n    return 1 / 0\nf()", "line 2, in f\nZeroDivisionError: division by zero\n"),
        ("def f(:", "SyntaxError: invalid syntax\n"),
        ("a = 1\0", "null bytes"),
        ("a = '\ud800'", "UnicodeEncodeError"),
        ("raise ValueError('\\udfff')", "ValueError: \\udfff\n"),
        ("def f(): f()\nf()", "RecursionError"),
        ("(" * 1000, "SyntaxError"),
        ("input()", "EOFError"),
        ("import numpy", "ModuleNotFoundError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_exception_is_an_error_with_its_traceback(code: str, words: str) -> None:
    outcome = run_python(code)
    assert (outcome.status, outcome.exit_code) == ("error", 1), outcome
    assert words in outcome.stderr
    assert "TOKEN" not in outcome.stderr and "in main" not in outcome.stderr


def test_output_may_be_any_bytes_or_closed() -> None:
    outcome = run_python("import sys\nsys.stdout.buffer.write(b'\\xff\\x00caf\\xc3\\xa9\\xed')")
    assert (outcome.status, outcome.stdout) == ("ok", "\ufffd\0caf\u00e9\ufffd")
    assert run_python("import os\nos.close(1)\nos.close(2)\nx = 1").status == "ok"
    assert run_python("import sys\nsys.stdout.close()\nsys.stderr.close()").status == "ok"


def test_the_standard_library_works_and_sets_have_one_order() -> None:
    code = """
import asyncio, bisect, bz2, collections, copy, ctypes, dataclasses, datetime, decimal, fractions
import functools, hashlib, heapq, itertools, json, lzma, math, pickle, random, re, statistics
import string, tempfile, threading, typing, zlib

@dataclasses.dataclass
class Point:
    x: int

async def answer(): return 42

print(pickle.loads(pickle.dumps(Point(3))), asyncio.run(answer()), hashlib.md5(b"").hexdigest())
threads = [threading.Thread(target=print, args=("thread",)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with tempfile.TemporaryFile() as file: print(file.write(b"abc"))
print({"a", "b", "c", "d", "e", "f"})
"""
    first, second = run_python(code), run_python(code)
    assert first.status == "ok", first
    assert first.stdout.startswith("Point(x=3) 42 d41d8cd98f00b204e9800998ecf8427e\nthread\n")
    assert first.stdout == second.stdout
