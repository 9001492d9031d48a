"""scripts/bench/bpe.py runs at its smallest size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "bpe.py"


def test_last_line_is_json_with_a_row_for_each_contender(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"Document {i} says hi."}) + "\n" for i in range(9))
    )
    main = runpy.run_path(str(BENCH))["main"]
    for argv in (["--data", str(corpus)], ["--mb", "0.02"]):
        main([*argv, "--rounds", "1", "--vocab-size", "300"])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["bytes"] > 100
        assert [row["contender"] for row in result["rows"]][:2] == ["rustbpe", "ours, 1 thread"]
