"""The console shows the numbers of the card, and no control character of theirs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from nanochat.report.runs import read_run
from nanochat.report.summary import print_summary

from .conftest import change


def printed(folder: Path) -> str:
    out = io.StringIO()
    print_summary(read_run(folder), Console(file=out, width=120))
    return out.getvalue()


def test_same_numbers_as_the_card(run_dir: Path) -> None:
    text = printed(run_dir)
    for number in ("0.9100", "97.5 % (95.3 to 98.7)", "chance 25.0 %", "8 min 05 s", "$0"):
        assert number in text


def test_names_cannot_act_on_a_terminal(run_dir: Path) -> None:
    change(run_dir, "base_eval", metrics={"\x1b[2J[bold]x": 1.0})
    text = printed(run_dir)
    assert "\x1b" not in text
    assert "<U+001B>[2J[bold]x" in text
