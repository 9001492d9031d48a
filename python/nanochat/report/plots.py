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
from nanochat.report.measures import SUMS, group, is_sum, label, tries
from nanochat.report.runs import Rows, Run

# Quantity to its title; each is a chart of a stage.
QUANTITIES = {
    "loss": "Training loss",
    "bpb": "Held-out text, bits per byte",
    "throughput": "Throughput, tokens per second",
    "reward": "Reward",
    "pass": "Share of questions solved in k tries",
    "score": "Score, 0 is guessing",
}
_NOISY = ("loss", "throughput", "reward")  # drawn faint, with their running mean in front
_FROM_ZERO = ("throughput", "pass")
_LONG = 200  # rows from which the fall of the first 2 % would flatten the rest of a loss

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
    k = tries(series)
    if k is not None:
        return "pass" if k & (k - 1) == 0 else None  # powers of two tell the rest
    return "score" if is_sum(series) else None


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
        for names_shown in groups:
            lines = _lines(stage, kind, names_shown, runs)
            if all(len(line.points) < 2 for line in lines if not line.is_dashed):
                continue  # one value is no chart; the tables have it
            several = len(runs) > 1 and len(series) > 1
            shown = f"{title}: {label(names_shown[0])}" if several else title
            name = _file_name(f"{stage}_{names_shown[0] if several else kind}")
            alt = f"{shown}, of {stage}. {_in_words(lines)}"
            if len(runs) == 1 and sum(bool(line.label) for line in lines) == 1:
                lines = [replace(line, label="") for line in lines]  # the title says what it is
            svg = line_chart(shown, lines, x_label="step", zero=kind in _FROM_ZERO)
            figures.append(Figure(name, svg, alt))
    return (*figures, *_pass_curve(stage, runs))


def _pass_curve(stage: str, runs: Sequence[Run]) -> list[Figure]:
    """Questions solved over the number of tries: one run before and after, several runs after."""
    lines = []
    for r, run in enumerate(runs):
        rows = [row for row in run.logs.get(stage, ()) if "pass_at_1" in row]
        chosen = rows[:1] + rows[1:][-1:] if len(runs) == 1 else rows[-1:]
        for s, row in enumerate(chosen):
            curve = sorted(
                (k, value)
                for name, value in row.items()
                if (k := tries(name)) is not None and _is_drawable(value)
            )
            text = f"step {row['step']:.0f}"
            color = s if len(runs) == 1 else r
            text = text if len(runs) == 1 else f"{run.name}, {text}"
            lines.append(Line(text, [(float(k), v) for k, v in curve], color, has_marks=True))
    lines = [line for line in lines if line.points]
    if all(len(line.points) < 2 for line in lines):
        return []
    title = "Share of questions solved over the number of tries"
    svg = line_chart(title, lines, x_label="tries", zero=True)
    alt = f"{title}, of {stage}. {_in_words(lines, 'try')}"
    return [Figure(_file_name(f"{stage}_tries"), svg, alt)]


def _lines(stage: str, kind: str, names: Sequence[str], runs: Sequence[Run]) -> list[Line]:
    lines = []
    for r, run in enumerate(runs):
        for s, name in enumerate(names):
            points = _points(run.logs.get(stage, ()), name)
            if not points:
                continue
            text, color = (label(name), s) if len(runs) == 1 else (run.name, r)
            if kind in _NOISY:
                start = len(points) // 50 if kind == "loss" and len(points) >= _LONG else 0
                lines.append(Line("", points[start:], color, is_faint=True))
                points = smooth(points)[start:]
            lines.append(Line(text, points, color, has_marks=kind not in _NOISY))
            if kind == "bpb" and name in run.bounds:
                floor = [(x, run.bounds[name]) for x in (points[0][0], points[-1][0])]
                lines.append(Line(f"floor, {text}", floor, color, is_dashed=True))
    return lines


def _points(rows: Rows, name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if name in row and _is_drawable(row[name])]


def _is_drawable(value: float) -> bool:
    """Finite, and not so large that the length of an axis would not be."""
    return math.isfinite(value) and abs(value) < 1e100


def smooth(points: Points, decay: float = 0.9) -> Points:
    """Exponential mean without the bias of its start."""
    mean, weight, out = 0.0, 0.0, []
    for x, y in points:
        mean = decay * mean + (1 - decay) * y
        weight = decay * weight + (1 - decay)
        out.append((x, mean / weight))
    return out


def _in_words(lines: Sequence[Line], x: str = "step") -> str:
    """For who cannot see the chart: where each line begins and ends."""
    parts = []
    for line in lines:
        if line.label and not line.is_dashed:
            (first, from_value), (last, to_value) = line.points[0], line.points[-1]
            parts.append(
                f"{one_line(line.label)}: {count(from_value)} at {x} {first:.0f}, "
                f"{count(to_value)} at {x} {last:.0f}."
            )
    return " ".join(parts)


def accuracy_figures(runs: Sequence[Run]) -> list[Figures]:
    """Every accuracy that has an interval.

    One run has a chart per group of tasks, its models told apart by colour; several have one per
    model.
    """
    models = list(dict.fromkeys(model for run in runs for model in run.models))
    if len(runs) == 1:
        shares = [(g, [(m, _accuracies(runs[0], m, g)) for m in models]) for g in ("", *SUMS)]
        figures = [
            figure
            for name, columns in shares
            for figure in _intervals(f"accuracies_{name}", label(name) or "Tasks", columns)
        ]
    else:
        figures = [
            figure
            for model in models
            for figure in _intervals(
                f"accuracies_{model}",
                f"The {model} models",
                [(run.name, _accuracies(run, model)) for run in runs],
            )
        ]
    caption = "Accuracies and their 95 % intervals; the dotted mark is chance"
    return [Figures(caption, tuple(figures))] if figures else []


def _accuracies(run: Run, model: str, of: str | None = None) -> dict[str, Measure]:
    """Those of ``model`` that have an interval, of one group or of all."""
    measures = ((name, found.measure) for name, found in run.ordered_measures(model))
    return {
        name: m
        for name, m in measures
        if m.low is not None and not is_sum(name) and of in (None, group(name, m))
    }


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
    return [Figure(_file_name(name), svg, f"Accuracies, {title}; the table above has the numbers")]


def _file_name(name: str) -> str:
    """Without what names of stages and columns could do to a path."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
