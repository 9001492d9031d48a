"""Programs from replies, and their verdicts by the real sandbox."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat.sandbox import SandboxUnavailable, isolation
from nanochat.tasks import humaneval
from nanochat.tasks.base import Example
from nanochat.tasks.humaneval import program_of

PROMPT = '''from typing import List


def twice(x: int) -> int:
    return 2 * x


def doubled(xs: List[int]) -> List[int]:
    """ Each number twice.
    >>> doubled([1])
    [2]
    """
'''
BODY = "    return [twice(x) for x in xs]\n"
ROW = {
    "task_id": "Quiz/0",
    "prompt": PROMPT,
    "entry_point": "doubled",
    "canonical_solution": BODY,
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n",
}
FUNCTION = f"def doubled(xs: List[int]) -> List[int]:\n{BODY}"


@pytest.fixture
def example(write_set: Callable[..., Path]) -> Example:
    if isolation() is None:
        pytest.skip("nothing isolates programs here")
    (made,) = humaneval.task(write_set("humaneval", [ROW])).examples("val", n=9, seed=0)
    return made


@pytest.mark.parametrize(
    "reply",
    [
        PROMPT + BODY,
        FUNCTION,  # without the imports and the helper of the prompt
        f"Here you are:\n```python\n{FUNCTION}```\nIt calls `twice`.",
        f"```\n{FUNCTION}",  # cut before the fence was closed
        BODY,
        f"```py\n{BODY}```",
        f"```\npip install nothing\n```\nthen\n```python\n{FUNCTION}```",
    ],
)
def test_forms_of_a_right_reply(example: Example, reply: str) -> None:
    assert example.verdict(reply) == "right"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("    return xs\n", "wrong"),
        ("    raise SystemExit(0)\n", "wrong"),
        ("    import os\n    os._exit(0)\n", "wrong"),
        ("```python\ndef doubled(xs) return xs\n```", "wrong"),
        ("def other(xs):\n    return xs\n", "wrong"),
        ("I do not know how to do that.", "unanswered"),
        ("", "unanswered"),
        ("```\n```", "unanswered"),
        ("\0", "unanswered"),
        ("(" * 5000, "unanswered"),
    ],
)
def test_replies_that_are_not_right(example: Example, reply: str, verdict: str) -> None:
    assert example.verdict(reply) == verdict
    assert not example.check(reply)


def test_code_that_never_ends(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(humaneval, "TIMEOUT_S", 0.5)
    assert example.verdict("    while True: pass\n") == "timeout"


def test_the_program_of_a_reply() -> None:
    head = PROMPT[: PROMPT.index("def doubled")]
    assert program_of(FUNCTION, PROMPT, "doubled") == head + FUNCTION
    assert program_of(BODY, PROMPT, "doubled") == PROMPT + BODY
    assert program_of("Well.", PROMPT, "doubled") is None


@pytest.mark.parametrize(
    "change",
    [{"entry_point": "missing"}, {"entry_point": "a b"}, {"test": None}, {"prompt": 3}],
)
def test_bad_rows_are_counted(write_set: Callable[..., Path], change: dict[str, object]) -> None:
    if isolation() is None:
        pytest.skip("nothing isolates programs here")
    task = humaneval.task(write_set("humaneval", [ROW, ROW | change]))
    assert (len(task.load("val").examples), task.load("val").num_malformed) == (1, 1)


def test_refused_where_nothing_isolates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.sandbox.run._missing", lambda: "this is a test")
    with pytest.raises(SandboxUnavailable, match=r"this is a test.*--unsafe-local-exec"):
        humaneval.task(None)


def test_there_is_nothing_to_learn_from() -> None:
    if isolation() is None:
        pytest.skip("nothing isolates programs here")
    with pytest.raises(ValueError, match="humaneval has no train split"):
        humaneval.task(None).examples("train", n=1, seed=0)


def test_the_real_set(real_data: Path) -> None:
    if isolation() is None:
        pytest.skip("nothing isolates programs here")
    examples = humaneval.task(real_data / "eval").examples("val", n=1000, seed=0)
    assert len(examples) == 164
    some = examples[:12]  # all of them take a quarter of a minute
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda e: e.verdict(e.reference["content"]), some))
    assert verdicts == ["right"] * 12
