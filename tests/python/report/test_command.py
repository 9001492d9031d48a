"""The command writes the card of a run and says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.common.paths import home
from nanochat.report import ReportConfig, report


def test_writes_the_card_and_prints_the_numbers(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(ReportConfig(out=run_dir))
    assert (run_dir / "report.md").exists()
    out = capsys.readouterr().out
    assert "97.5 %" in out
    assert "report.md" in out


def test_a_run_by_name(run_dir: Path) -> None:
    named = home() / "runs" / "mine"
    named.parent.mkdir(parents=True)
    run_dir.rename(named)
    report(ReportConfig(run="mine"))
    assert (named / "report.md").exists()


def test_a_run_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no stage has left a record"):
        report(ReportConfig(run="other"))
