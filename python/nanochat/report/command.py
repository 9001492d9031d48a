"""The command ``report``: write the card of a run again and print its summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.common.console import say
from nanochat.common.paths import home
from nanochat.report.card import write_card
from nanochat.report.summary import print_summary


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the report card of a run again, from the files that its stages left."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    dollars_per_hour: float = 0.0
    """Price of the machine; 0 for one that you own."""


def report(config: ReportConfig) -> None:
    """Write ``report.md`` and print the same numbers."""
    run_dir = config.out if config.out is not None else home() / "runs" / config.run
    card = write_card(run_dir, dollars_per_hour=config.dollars_per_hour)
    print_summary(run_dir, dollars_per_hour=config.dollars_per_hour)
    say(f"report: {card}")
