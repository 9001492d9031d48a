"""The command writes the card of a run, or a page of several, and says where."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.common.paths import home
from nanochat.report import ReportConfig, report


def test_writes_both_forms_and_prints_the_numbers(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(ReportConfig(out=run_dir))
    images = re.findall(r"!\[.*?\]\((plots/.*?)\)", (run_dir / "report.md").read_text())
    assert images == [
        "plots/accuracies_mean_centred.svg",
        "plots/base_train_loss.svg",
        "plots/base_train_throughput.svg",
    ]
    for image in images:
        assert "<style>" in (run_dir / image).read_text()  # it is an image of its own
    out = capsys.readouterr().out
    assert "97.5 %" in out
    assert str(run_dir / "report.html") in out.replace("\n", "")


def test_the_same_bytes_again(run_dir: Path) -> None:
    report(ReportConfig(out=run_dir))
    first = {p: p.read_bytes() for p in [run_dir / "report.html", *run_dir.glob("plots/*")]}
    report(ReportConfig(out=run_dir))
    assert {path: path.read_bytes() for path in first} == first


def test_runs_by_name_beside_each_other(run_dir: Path, other_run: Path) -> None:
    runs = home() / "runs"
    runs.mkdir(parents=True)
    run_dir.rename(runs / "mine")
    shutil.copytree(other_run, runs / "theirs")
    third = other_run.rename(other_run.with_name("third"))
    report(ReportConfig(run="mine", against=("theirs", str(third))))
    assert not (runs / "mine" / "report.md").exists()
    text = (runs / "mine" / "comparison.md").read_text()
    assert "| measure | model | mine | theirs | third |" in text
    images = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert images
    for image in images:
        assert (runs / "mine" / image).exists()


def test_runs_of_one_name_are_told_apart(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / run_dir.name
    shutil.copytree(run_dir, copy)
    report(ReportConfig(out=run_dir, against=(str(copy),)))
    text = (run_dir / "comparison.md").read_text().replace("\\_", "_")
    assert f"| {run_dir} | {copy} |" in text


def test_a_run_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no stage has left a record"):
        report(ReportConfig(run="other"))
