"""HumanEval: complete a Python function from its signature and docstring; tests decide.

The prompt is the beginning of the file. A reply may give the function whole, with or without a
fence of three backticks, or only its body. What runs, isolated (nanochat.sandbox), is

    imports and helpers of the prompt, the reply, the tests of the row, check(<the function>)

and the reply is right if the program comes to its end; leaving early does not count.

Source: Chen et al., arXiv:2107.03374; val has the 164 problems, there is nothing to learn from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nanochat.data.tinyworld.draw import Split
from nanochat.sandbox import run_python
from nanochat.tasks.base import Example, Verdict, ask, graded
from nanochat.tasks.files import Rows, SetFile, locate, read_rows
from nanochat.tasks.rows import Row, RowTask, text_of

FILE = SetFile(
    "humaneval",
    "https://raw.githubusercontent.com/openai/human-eval/"
    "6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
    "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
)
TIMEOUT_S = 5.0
_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def task(folder: Path | None, *, unsafe_local: bool = False) -> RowTask:
    """``unsafe_local`` runs replies without isolation where this machine has none.

    Raises: SandboxUnavailable where there is none and that was not allowed.
    """
    run_python("", unsafe_local=unsafe_local)  # before hours of replies that nobody can grade

    def rows(split: Split) -> Rows:
        if split == "train":
            raise ValueError("tasks: humaneval has no train split")
        return read_rows(locate(FILE, folder))

    read = partial(_example, unsafe_local=unsafe_local)
    return RowTask("humaneval", "generative", 0.0, rows, read)


def _example(row: Row, *, unsafe_local: bool) -> Example:
    prompt, tests, name = (text_of(row, key) for key in ("prompt", "test", "entry_point"))
    if not name.isidentifier() or not _definition(name).search(prompt):
        raise ValueError(f"row: entry_point must be a function of the prompt, got {name!r:.80}")
    solution = prompt + text_of(row, "canonical_solution")
    return graded(ask(prompt), solution, _grade(prompt, tests, name, unsafe_local))


def _grade(prompt: str, tests: str, name: str, unsafe_local: bool) -> Callable[[str], Verdict]:
    def grade(reply: str) -> Verdict:
        code = program_of(reply, prompt, name)
        if code is None:
            return "unanswered"
        program = f"{code}\n\n{tests}\n\ncheck({name})\n"
        outcome = run_python(program, timeout_s=TIMEOUT_S, unsafe_local=unsafe_local)
        if outcome.status == "timeout":
            return "timeout"
        return "right" if outcome.status == "ok" else "wrong"

    return grade


def program_of(reply: str, prompt: str, name: str) -> str | None:
    """The program that a reply stands for, up to the tests; None if there is no code in it."""
    blocks = _FENCED.findall(reply)
    definition = _definition(name)
    code = next(filter(definition.search, blocks), blocks[0] if blocks else reply)
    if not code.strip():
        return None
    if definition.search(code):
        start = definition.search(prompt)
        assert start is not None  # else the row had made no example
        program = prompt[: start.start()] + code
    else:
        program = prompt + code
    if not blocks and not _parses(program):
        return None
    return program


def _definition(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(name)}[ \t]*\(", re.MULTILINE)


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
