"""scripts/bench/bpe.py runs at its smallest size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from nanochat.common.errors import UserError

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "bpe.py"
SMALL = ("--rounds", "1", "--vocab-size", "300", "--threads", "1", "2")


def run(*argv: str) -> None:
    runpy.run_path(str(BENCH))["main"]([*argv, *SMALL])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": f"Document {i} says \u4f60\u597d."}) for i in range(900)]
    path.write_text("\n".join(lines))
    return path


def last_line(out: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    return document


def test_training_has_a_row_for_each_contender_of_each_size(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "out.json"
    sizes = ("--mb", "0.01", "0.02", "--hf-mb", "0.01")
    run("--what", "train", "--data", str(corpus), *sizes, "--out", str(json_file))
    out = capsys.readouterr().out
    assert json.loads(json_file.read_text()) == last_line(out)
    rows = last_line(out)["train"]
    both = [
        ("ours", 1),
        ("ours", 2),
        ("ours, Arrow", 1),
        ("ours, 1 each", 2),
        ("rustbpe", 1),
        ("rustbpe", 2),
    ]
    assert [(row["contender"], row["threads"]) for row in rows] == [*both, ("tokenizers", 1), *both]
    assert all(row["s"] > 0 for row in rows)
    assert next(row["x rustbpe"] for row in rows if row["contender"] == "rustbpe") == 1
    hashes = {row["sha256 of tokens"] for row in rows if row["MB"] == 0.02}
    assert len(hashes) == 1 and len(hashes.pop()) == 16
    assert rows[6]["sha256 of tokens"] == "bytes in another order"


def test_encoding_has_a_row_for_each_kind(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["english", "random bytes, raw", "korean"]
    files = ("--kind", f"korean={corpus}")
    run("--what", "encode", "--mb", "0.02", "--encode-mb", "0.01", *files, "--only", *kinds)
    english, raw, korean = last_line(capsys.readouterr().out)["encode"]
    assert [english["text"], raw["text"], korean["text"]] == kinds
    assert all(row["ours first"] > 0 and row["ours, 2 threads"] > 0 for row in (english, raw))
    assert english["tiktoken"] > 0 and english["warm x tiktoken"] > 0
    assert english["tokenizers"] > 0 and english["tiktoken numpy"] > 0
    assert raw["tiktoken"] is None and raw["warm x tiktoken"] is None
    assert korean["MB"] == pytest.approx(0.01, rel=0.01)


def test_what_cannot_be_measured_is_said(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"--mb must be at most 0\.0\d+, .* got 7"):
        run("--what", "train", "--data", str(corpus), "--mb", "7")
    with pytest.raises(UserError, match=r"--only must be of mixed, .* got klingon"):
        run("--what", "encode", "--mb", "0.01", "--only", "klingon")
