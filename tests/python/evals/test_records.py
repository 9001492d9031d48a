import json
from pathlib import Path

import pytest

from nanochat.evals.records import Record, gather, num_right, share_of, write_records


@pytest.mark.parametrize(
    ("record", "right"),
    [({"correct": True}, 1), ({"correct": False}, 0), ({"num_correct": 3, "samples": [{}] * 8}, 3)],
)
def test_right_samples(record: Record, right: int) -> None:
    assert num_right(record) == right


def test_a_row_each(tmp_path: Path) -> None:
    records = [{"index": 0, "prompt": "one\ntwo"}, {"index": 1, "prompt": "\u2028"}]
    write_records(tmp_path / "a.jsonl", records)
    lines = (tmp_path / "a.jsonl").read_text().split("\n")
    assert [json.loads(line) for line in lines if line] == records


def test_one_process_asks_everything_and_has_it_by_index() -> None:
    """Two are in test_ranks.py."""
    assert list(share_of(3)) == [0, 1, 2]
    assert gather([{"index": 2}, {"index": 0}]) == [{"index": 0}, {"index": 2}]
