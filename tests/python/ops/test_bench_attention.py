"""scripts/bench/attention.py runs at its smallest size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "attention.py"


def test_benchmark_times_ours_beside_every_peer(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCH))["main"](["--quick"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == "attention"
    rows = document["rows"]
    assert {row["candidate"] for row in rows} == {"ours", "reference", "products"}
    assert {(row["pass"], row["dtype"], row["window"]) for row in rows} == {
        (name, dtype, window)
        for name in ("forward", "both")
        for dtype in ("bfloat16", "float32")
        for window in (None, 7)
    }
    assert all(row["ms"] > 0 and row["error"] < 2e-2 for row in rows)
