"""Several runs on one page: ``comparison.md`` and ``comparison.html`` in the folder of the first.

The first run is the one that the others are held against. Its own card stays as it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from nanochat.common.figures import duration
from nanochat.report import tables
from nanochat.report.card import CHARTS_EXPLAINED, price
from nanochat.report.content import Block, Code, Facts, Page, Paragraph, Section
from nanochat.report.plots import accuracy_figures, training_figures
from nanochat.report.runs import Run


def comparison(runs: Sequence[Run], *, dollars_per_hour: float) -> Page:
    """``runs[0]`` and the others.

    Raises: ValueError for fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"report: a comparison needs at least two runs, got {len(runs)}")
    sections = [
        Section("Measures", tuple(_measures(runs))),
        Section("Differences", tuple(_differences(runs))),
        Section("What differs in the setup", tuple(_setup(runs))),
        Section("Training", tuple(_training(runs))),
        Section("Time and cost", tuple(_time(runs, dollars_per_hour))),
        Section("The command for every number", tuple(_commands(runs, dollars_per_hour))),
    ]
    return Page(
        f"nanochat runs: {', '.join(run.name for run in runs)}",
        Facts(tuple((duration(run.seconds), run.name) for run in runs)),
        tuple(_notes(runs)),
        tuple(section for section in sections if section.blocks),
    )


def _notes(runs: Sequence[Run]) -> Iterator[Paragraph]:
    for run in runs:
        if run.missing:
            yield Paragraph(f"{run.name} is not complete, no record of: {', '.join(run.missing)}.")


def _measures(runs: Sequence[Run]) -> Iterator[Block]:
    table = tables.side_by_side(runs)
    if not table.rows:
        yield Paragraph("No model of these runs has been evaluated yet.")
        return
    yield table
    yield from accuracy_figures(runs)


def _differences(runs: Sequence[Run]) -> Iterator[Block]:
    ours, *others = runs
    found = [table for other in others if (table := tables.differences(ours, other)).rows]
    if not found:
        yield Paragraph("The runs have no accuracy in common.")
        return
    yield from found
    num_rows = sum(len(table.rows) for table in found)
    yield Paragraph(
        "Where both runs were asked the same examples, gained and lost count those that only one "
        "of them has right, p is McNemar's exact test, and the verdict follows p below 0.05. Else "
        "the interval takes the two as independent, and the verdict follows from whether it holds "
        "0. Nothing is adjusted for the number of rows: were the runs equals, of "
        f"{num_rows} rows, {num_rows / 20:.1f} would get a verdict by chance."
    )


def _setup(runs: Sequence[Run]) -> Iterator[Block]:
    table = tables.differing_options(runs)
    if table.rows:
        yield table
    else:
        yield Paragraph("Nothing that the stages recorded: same options, commit and machine.")


def _training(runs: Sequence[Run]) -> Iterator[Block]:
    figures = training_figures(runs)
    yield from figures
    if figures:
        yield Paragraph(CHARTS_EXPLAINED)


def _time(runs: Sequence[Run], dollars_per_hour: float) -> Iterator[Block]:
    yield tables.stages_side_by_side(runs, dollars_per_hour=dollars_per_hour)
    yield Paragraph(price(dollars_per_hour))


def _commands(runs: Sequence[Run], dollars_per_hour: float) -> Iterator[Block]:
    for run in runs:
        if run.records:
            yield tables.commands(run)
    option = f" --dollars-per-hour {dollars_per_hour:g}" if dollars_per_hour else ""
    against = shlex.join(str(run.folder) for run in runs[1:])
    command = (
        f"nanochat report --out {shlex.quote(str(runs[0].folder))} --against {against}{option}"
    )
    yield Paragraph(("This page: ", Code(command)))
