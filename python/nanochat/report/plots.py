"""Which charts a run deserves: the series of its logs, and its accuracies with their intervals.

One run has a chart per quantity, its series told apart by colour. Several runs have a chart per
series, the runs told apart by colour, so that a colour means one thing on a page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nanochat.common.figures import count
from nanochat.common.record import Measure
from nanochat.report.charts import Interval, Line, interval_chart, line_chart
from nanochat.report.content import Figure, Figures, one_line
from nanochat.report.measures import SUMS, label
from nanochat.report.runs import Rows, Run

# Quantity to its title; each is a chart of a stage.
QUANTITIES = {
    "loss": "Training loss, nats per token",
    "bpb": "Held-out text, bits per byte",
    "throughput": "Throughput, tokens per second",
    "reward": "Reward",
    "pass": "Share of questions solved in k tries",
    "score": "Score, 0 is guessing",
}
_NOISY = ("loss", "throughput", "reward")  # drawn faint, with their running mean in front
_FROM_ZERO = ("throughput", "pass")

Points = list[tuple[float, float]]


def quantity(series: str) -> str | None:
    """What a column of a log measures; None for what is not drawn (lr, seconds, ...)."""
    if series == "loss":
        return "loss"
    if series.endswith("_bpb"):
        return "bpb"
    if series == "tokens_per_second":
        return "throughput"
    if series == "reward" or series.endswith("_reward"):
        return "reward"
    if series.startswith("pass_at_"):
        return "pass"
    return "score" if series in SUMS else None


def training_figures(runs: Sequence[Run]) -> list[Figures]:
    """For each stage with a log in any of the runs, in the order of the journey."""
    stages = dict.fromkeys(stage for run in runs for stage in run.logs)
    found = ((stage, _stage_figures(stage, runs)) for stage in stages)
    return [Figures(f"Training, {stage}", figures) for stage, figures in found if figures]


def _stage_figures(stage: str, runs: Sequence[Run]) -> tuple[Figure, ...]:
    names = dict.fromkeys(n for run in runs for row in run.logs.get(stage, ()) for n in row)
    figures = []
    for kind, title in QUANTITIES.items():
        series = [name for name in names if quantity(name) == kind]
        groups = [series] if len(runs) == 1 else [[name] for name in series]
        for group in groups:
            lines = _lines(stage, kind, group, runs)
            if all(len(line.points) < 2 for line in lines if not line.is_dashed):
                continue  # one value is no chart; the tables have it
            several = len(runs) > 1 and len(series) > 1
            shown = f"{title}: {label(group[0])}" if several else title
            name = _file_name(f"{stage}_{group[0] if several else kind}")
            alt = f"{shown}, of {stage}. {_in_words(lines)}"
            if len(runs) == 1 and sum(bool(line.label) for line in lines) == 1:
                lines = [replace(line, label="") for line in lines]  # the title says what it is
            svg = line_chart(shown, lines, x_label="step", zero=kind in _FROM_ZERO)
            figures.append(Figure(name, svg, alt))
    return tuple(figures)


def _lines(stage: str, kind: str, group: Sequence[str], runs: Sequence[Run]) -> list[Line]:
    lines = []
    for r, run in enumerate(runs):
        for s, name in enumerate(group):
            points = _points(run.logs.get(stage, ()), name)
            if not points:
                continue
            text, color = (label(name), s) if len(runs) == 1 else (run.name, r)
            if kind in _NOISY:
                lines.append(Line("", points, color, is_faint=True))
                points = smooth(points)
            lines.append(Line(text, points, color, has_marks=kind not in _NOISY))
            if kind == "bpb" and name in run.bounds:
                floor = [(x, run.bounds[name]) for x in (points[0][0], points[-1][0])]
                lines.append(Line(f"floor, {text}", floor, color, is_dashed=True))
    return lines


def _points(rows: Rows, name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]


def smooth(points: Points, decay: float = 0.9) -> Points:
    """Exponential mean without the bias of its start."""
    mean, weight, out = 0.0, 0.0, []
    for x, y in points:
        mean = decay * mean + (1 - decay) * y
        weight = decay * weight + (1 - decay)
        out.append((x, mean / weight))
    return out


def _in_words(lines: Sequence[Line]) -> str:
    """For who cannot see the chart: where each line begins and ends."""
    parts = []
    for line in lines:
        if line.label and not line.is_dashed:
            (first, from_value), (last, to_value) = line.points[0], line.points[-1]
            parts.append(
                f"{one_line(line.label)}: {count(from_value)} at step {first:.0f}, "
                f"{count(to_value)} at step {last:.0f}."
            )
    return " ".join(parts)


def accuracy_figures(runs: Sequence[Run]) -> list[Figures]:
    """Every accuracy that has an interval: a chart in which colours are models, or one per model
    in which they are runs."""
    models = list(dict.fromkeys(model for run in runs for model in run.models))
    if len(runs) == 1:
        columns = [(model, _accuracies(runs[0], model)) for model in models]
        figures = _intervals("accuracies", "Accuracy and its 95 % interval", columns)
    else:
        figures = [
            figure
            for model in models
            for figure in _intervals(
                f"accuracies_{model}",
                f"The {model} models and their 95 % intervals",
                [(run.name, _accuracies(run, model)) for run in runs],
            )
        ]
    return [Figures("Accuracies; the dotted mark is chance", tuple(figures))] if figures else []


def _accuracies(run: Run, model: str) -> dict[str, Measure]:
    measures = ((name, found.measure) for name, found in run.ordered_measures(model))
    return {n: m for n, m in measures if m.low is not None and m.chance is not None}


def _intervals(
    name: str, title: str, columns: Sequence[tuple[str, Mapping[str, Measure]]]
) -> list[Figure]:
    """One chart, a colour per column that has anything; none if none has."""
    columns = [(text, measures) for text, measures in columns if measures]
    rows: dict[str, tuple[float | None, list[Interval]]] = {}
    for color, (_, measures) in enumerate(columns):
        for task, m in measures.items():
            assert m.low is not None and m.high is not None
            _, intervals = rows.setdefault(task, (m.chance, []))
            intervals.append(Interval(m.value, m.low, m.high, color))
    if not rows:
        return []
    svg = interval_chart(
        title,
        [(label(task), chance, intervals) for task, (chance, intervals) in rows.items()],
        labels=[text for text, _ in columns],
    )
    return [Figure(_file_name(name), svg, f"{title}; the table above has the numbers")]


def _file_name(name: str) -> str:
    """Without what names of stages and columns could do to a path."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
