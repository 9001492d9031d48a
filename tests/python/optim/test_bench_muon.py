"""scripts/bench/muon.py runs at its smallest size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "scripts" / "bench" / "muon.py"


def test_benchmark_runs_at_its_smallest_size(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(BENCHMARK))["main"](["--quick"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == "muon"
    rows = {(row["what"], row["dtype"]): row for row in document["rows"]}
    assert all(row["ours ms"] > 0 and row["reference ms"] > 0 for row in rows.values())
    assert rows["muon 2 x 24 x 40", "float32"]["ours error"] < 1e-4
    assert rows["muon 2 x 24 x 40", "bfloat16"]["ours error"] < 0.1
    assert any(what == "step d1" for what, _ in rows)
