from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.tasks import gsm8k

ROBE = {
    "question": "How many bolts does it take?",
    "answer": "It takes 2/2=<<2/2=1>>1 bolt\nSo it is 2+1=<<2+1=3>>3 bolts, $1,003\n#### 1,003",
}


def test_calculations_are_tool_calls() -> None:
    assert gsm8k.content_of(ROBE["answer"]) == [
        {"type": "text", "text": "It takes 2/2="},
        {"type": "python", "text": "2/2"},
        {"type": "python_output", "text": "1"},
        {"type": "text", "text": "1 bolt\nSo it is 2+1="},
        {"type": "python", "text": "2+1"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "3 bolts, $1,003\n#### 1,003"},
    ]
    assert gsm8k.content_of("<<1+1=2>>") == [
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
    ]
    assert gsm8k.content_of("<<1+1=2=2>>")[0] == {"type": "python", "text": "1+1=2"}
    for plain in ("1 < 2", "<<no result>>", "<<1+1=2", "<1+1=2>"):
        assert gsm8k.content_of(plain) == [{"type": "text", "text": plain}]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("So it is\n#### 1003", "right"),
        ("#### 7\nNo, wait.\n#### $1,003.00.", "right"),
        ("#### 1003 bolts", "right"),
        ("#### 1004", "wrong"),
        ("#### -1003", "wrong"),
        ("#### 1003\n#### 7", "wrong"),
        ("It is 1003.", "unanswered"),
        ("#### many", "unanswered"),
        ("1003 ####", "unanswered"),
        ("", "unanswered"),
    ],
)
def test_the_number_behind_the_last_marker_counts(
    write_set: Callable[..., Path], reply: str, verdict: str
) -> None:
    (example,) = gsm8k.task(write_set("gsm8k_test", [ROBE])).examples("val", n=9, seed=0)
    assert example.verdict(reply) == verdict
    assert example.check(reply) == (verdict == "right")


def test_rows_without_an_answer_are_counted(
    write_set: Callable[..., Path], oracle: Callable[..., list[str]]
) -> None:
    bad = [ROBE | {"answer": "It is 3."}, ROBE | {"answer": None}, {"question": "?"}, []]
    task = gsm8k.task(write_set("gsm8k_train", [ROBE, *bad]))
    assert oracle(task.examples("train", n=9, seed=0)) == ["right"]
    assert task.load("train").num_malformed == 4


def test_the_real_sets(real_data: Path, oracle: Callable[..., list[str]]) -> None:
    task = gsm8k.task(real_data / "eval")
    for split, num_examples in (("val", 1319), ("train", 7473)):
        examples = task.examples(split, n=10_000, seed=0)
        assert oracle(examples) == ["right"] * num_examples
        kinds = [part["type"] for e in examples for part in e.reference["content"]]
        assert kinds.count("python") == kinds.count("python_output") > 2 * num_examples
        assert not any("<<" in part["text"] for e in examples for part in e.reference["content"])
