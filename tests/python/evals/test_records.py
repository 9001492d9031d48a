import json
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.evals.records import Difference, Record, compare_records, write_records


def records(*right: int, prompt: str = "question") -> list[Record]:
    return [
        {"index": i, "prompt": f"{prompt} {i}", "correct": bool(value)}
        for i, value in enumerate(right)
    ]


def test_what_another_model_gained_and_lost(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", records(1, 0, 1, 0, 1))
    write_records(tmp_path / "b.jsonl", records(1, 1, 0, 0))
    assert compare_records(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == Difference((1,), (2,), 4)


def test_of_several_samples_more_right_ones_are_a_gain(tmp_path: Path) -> None:
    for name, numbers in (("a", (3, 1, 2)), ("b", (3, 2, 0))):
        rows = [{"index": i, "prompt": "?", "num_correct": n} for i, n in enumerate(numbers)]
        write_records(tmp_path / name, rows)
    assert compare_records(tmp_path / "a", tmp_path / "b") == Difference((1,), (2,), 3)


def test_an_index_with_another_question_is_another_example(tmp_path: Path) -> None:
    write_records(tmp_path / "a", records(1, 1))
    write_records(tmp_path / "b", records(0, 0, prompt="other"))
    with pytest.raises(UserError, match="must share examples, and share none"):
        compare_records(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("line", ["torn {", "[]", json.dumps({"index": 0, "prompt": "?"})])
def test_a_file_of_something_else(tmp_path: Path, line: str) -> None:
    write_records(tmp_path / "a", records(1))
    (tmp_path / "b").write_text(f"{line}\n")
    with pytest.raises(UserError, match="b does not hold records of an evaluation"):
        compare_records(tmp_path / "a", tmp_path / "b")
