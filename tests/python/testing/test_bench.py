"""Medians, tables and reports; and every benchmark at its smallest size, so that none rots."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from nanochat.testing import bench

BENCHMARKS = Path(__file__).parents[3] / "scripts" / "bench"


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    times = bench.medians_ms(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        device="cpu",
        repeats=3,
        warmup=1,
    )
    assert calls == ["a", "b"] * 4
    assert times.keys() == {"a", "b"} and all(t >= 0 for t in times.values())


def test_table_aligns_text_left_and_numbers_right() -> None:
    text = bench.table(("name", "ms"), [("x", 1234.0), ("longer", None)])
    assert text.splitlines() == ["name    ms", "x       1.23e+03", "longer         -"]


def test_report_ends_in_one_json_document() -> None:
    lines = bench.report("demo", "cpu", ("name", "ms"), [("x", 2.0)]).splitlines()
    assert lines[0].startswith("demo: cpu ")
    assert json.loads(lines[-1])["rows"] == [{"name": "x", "ms": 2.0}]


@pytest.mark.parametrize("name", ["prepass", "cross_entropy", "core"])
def test_benchmark_runs_at_its_smallest_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]
    main(["--quick"])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["benchmark"] == name
    assert all(row["ours ms"] > 0 for row in document["rows"])


def test_gpu_check_without_a_gpu_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main = runpy.run_path(str(BENCHMARKS / "gpu_check.py"))["main"]
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
