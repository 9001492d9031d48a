"""What a person sees while a stage works: a live bar on a terminal, lines at times elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0  # when the output is a file or a pipe


def say(text: str) -> None:
    """One line for the user, at once."""
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
    sys.stdout.flush()


class Ticker:
    """Counts from ``done`` to ``total`` and shows named figures beside the count."""

    def __init__(self, title: str, total: int, done: int, bar: Progress | None) -> None:
        self._title, self._total = title, total
        self._bar = bar
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        if bar is not None:
            self._task = bar.add_task(title, total=total, completed=done, figures="")

    def update(self, done: int, **figures: str) -> None:
        """Show that ``done`` of the total is done; figures are shown as ``name value``."""
        text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=text)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or done == self._total:
            self._last_line = now
            left = (now - self._start) / max(1, done - self._first) * (self._total - done)
            say(f"{self._title}  {done}/{self._total}  {text}  {left:.0f} s left")


@contextmanager
def ticker(title: str, total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Ticker]:
    """A :class:`Ticker` for a piece of work; ``quiet`` (other ranks) shows nothing at all."""
    console = Console(quiet=quiet)
    if not console.is_terminal and not quiet:
        yield Ticker(title, total, done, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bar:
        yield Ticker(title, total, done, bar)
