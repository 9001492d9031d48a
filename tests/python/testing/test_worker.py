"""A process that answers line by line, and what is said when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.testing.worker import Worker

CALCULATOR = """
import os
from nanochat.testing import worker

def load(setup):
    if setup == "refuse":
        raise SystemExit("error: no such setup")
    def answer(question):
        if question == "die":
            os._exit(3)
        print("noise", flush=True)
        os.system("echo noise")
        return [setup, question, os.environ["OMP_NUM_THREADS"]]
    return answer

worker.serve(load)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "calculator.py").write_text(CALCULATOR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "calculator"


def test_questions_are_answered_whatever_else_is_printed(module: str) -> None:
    with Worker("it", module, {"size": 1}, num_threads=3) as worker:
        worker.wait_until_ready()
        assert worker.ask("a") == [{"size": 1}, "a", "3"]
        assert worker.ask(["b"]) == [{"size": 1}, ["b"], "3"]


def test_one_that_cannot_load_says_why(module: str) -> None:
    worker = Worker("the first", module, "refuse", num_threads=1)
    with worker, pytest.raises(UserError, match="bench: the first failed: no such setup"):
        worker.wait_until_ready()


def test_one_that_dies_is_named(module: str) -> None:
    with Worker("the second", module, "", num_threads=1) as worker:
        for _ in range(2):  # also to who asks again
            with pytest.raises(UserError, match="bench: the second failed: exit status 3"):
                worker.ask("die")
