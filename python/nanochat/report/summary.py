"""The end of a speedrun on the console: the numbers of the report card, as tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nanochat.common.record import read_stages
from nanochat.report import tables
from nanochat.report.card import headline


def print_summary(
    run_dir: Path, console: Console | None = None, *, dollars_per_hour: float = 0.0
) -> None:
    """Print measures, time and cost of the run in ``run_dir``."""
    console = console or Console()
    records = read_stages(run_dir)
    for table in (
        tables.measures(records),
        tables.stages(records, dollars_per_hour=dollars_per_hour),
    ):
        if table.rows:
            console.print(_rich(table))
    console.print(Text(headline(records, dollars_per_hour=dollars_per_hour)))


def _rich(table: tables.Table) -> RichTable:
    rich = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in table.header:
        rich.add_column(name)
    for row in table.rows:
        style = "bold" if row[0] == "total" else ""
        rich.add_row(*(Text(cell) for cell in row), style=style)
    return rich
