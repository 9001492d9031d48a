"""The command ``report``: write the card of a run again, or a page of several, and print it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nanochat.common.console import say
from nanochat.common.paths import atomic_write, home
from nanochat.report import html, markdown, tables
from nanochat.report.card import card
from nanochat.report.charts import standalone
from nanochat.report.comparison import comparison
from nanochat.report.content import Page, figures_of
from nanochat.report.runs import Run, read_run
from nanochat.report.summary import print_summary, print_table


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write the report card of a run again, from the files that its stages left."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    against: tuple[str, ...] = ()
    """Other runs, by name or folder: writes comparison.html instead, with all of them."""
    dollars_per_hour: float = 0.0
    """Price of the machine; 0 for one that you own."""


def report(config: ReportConfig) -> None:
    """Write the page in both forms and print the same numbers."""
    folder = config.out if config.out is not None else _folder(config.run)
    price = config.dollars_per_hour
    if config.against:
        runs = _read_runs([folder, *map(_folder, config.against)])
        path = write_page(comparison(runs, dollars_per_hour=price), folder, "comparison")
        console = Console()
        print_table(tables.side_by_side(runs), console)
        print_table(tables.stages_side_by_side(runs, dollars_per_hour=price), console)
    else:
        run = read_run(folder)
        path = write_page(card(run, dollars_per_hour=price), folder, "report")
        print_summary(run, dollars_per_hour=price)
    say(f"report: {path.with_suffix('.md')}")
    say(f"report: {path}")


def write_page(page: Page, folder: Path, name: str) -> Path:
    """``page`` as ``folder/name.md``, with its plots beside it, and as ``folder/name.html``.

    Returns: The latter, which holds everything.
    """
    plots = "plots" if name == "report" else f"plots/{name}"
    for figure in figures_of(page):
        svg = standalone(figure.svg, html.CHART_STYLE)
        atomic_write(folder / plots / f"{figure.name}.svg", svg)
    text = markdown.render(page, lambda figure: f"{plots}/{figure}.svg")
    atomic_write(folder / f"{name}.md", text)
    path = folder / f"{name}.html"
    atomic_write(path, html.render(page))
    return path


def _read_runs(folders: Sequence[Path]) -> list[Run]:
    """Under the names of their folders; those that share a name, under their paths."""
    names = [folder.resolve().name for folder in folders]
    return [
        read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def _folder(run: str) -> Path:
    """Of a run by name; what holds a slash is a folder already."""
    return Path(run) if "/" in run else home() / "runs" / run
