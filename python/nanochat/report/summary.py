"""The end of a speedrun on the console: the numbers of the report card, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from nanochat.report import tables
from nanochat.report.card import facts
from nanochat.report.content import Table, one_line, plain
from nanochat.report.runs import Run


def print_summary(
    run: Run, console: Console | None = None, *, dollars_per_hour: float = 0.0
) -> None:
    """Print measures, time and cost of ``run``."""
    console = console or Console()
    for table in (
        tables.measures(run).without_column("measured by"),  # a console is narrow
        tables.stages(run, dollars_per_hour=dollars_per_hour),
    ):
        if table.rows:
            print_table(table, console)
    items = facts(run, dollars_per_hour=dollars_per_hour).items
    console.print(Text("; ".join(f"{value} {label}" for value, label in items)))


def print_table(table: Table, console: Console) -> None:
    rich = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in table.header:
        rich.add_column(Text(one_line(name)))
    for row in table.rows:
        cells = [Text(one_line(plain(cell))) for cell in row.cells]
        rich.add_row(*cells, style="bold" if row.kind == "sum" else "")
    console.print(rich)
