"""The console shows the numbers of the card."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from nanochat.report.summary import print_summary


def test_same_numbers_as_the_card(run_dir: Path) -> None:
    out = io.StringIO()
    print_summary(run_dir, Console(file=out, width=120))
    text = out.getvalue()
    for number in ("0.9100", "97.5 % (95.3 to 98.7)", "chance 25.0 %", "8 min 05 s", "$0"):
        assert number in text
