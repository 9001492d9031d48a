"""Loss and throughput of a training stage as one PNG; the same rows give the same file."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.common.paths import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY = "#2f6db5", "#d9772b", "#3d8f5f", "#7a7a7a"
VALIDATION = {"val_bpb": ("validation", ORANGE), "story_bpb": ("stories", GREEN)}

Rows = Sequence[Mapping[str, float]]


def plot_training(
    rows: Rows, path: Path, *, title: str, bounds: Mapping[str, float] | None = None
) -> bool:
    """Draw ``rows`` of a metrics log into ``path``; False, and no file, if there is no loss yet.

    Args:
        rows: Dicts with step, and any of loss, tokens_per_second, val_bpb, story_bpb.
        bounds: Floor of a bpb by its name, drawn as a dashed line.
    """
    if not _series(rows, "loss")[0]:
        return False
    # The object interface: pyplot would keep figures in a global and could open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("step")
    _draw_loss(left, rows, bounds or {})
    _draw_throughput(right, rows)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    atomic_write(path, png.getvalue())
    return True


def _draw_loss(axes: Axes, rows: Rows, bounds: Mapping[str, float]) -> None:
    steps, loss = _series(rows, "loss")
    axes.plot(steps, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(loss), color=BLUE, linewidth=1.8, label="training loss")
    axes.set_ylabel("loss, nats per token", color=BLUE)
    axes.set_title("loss", fontsize=10, loc="left")
    handles = axes.get_lines()[1:]
    measured = [name for name in VALIDATION if _series(rows, name)[0]]
    if measured:
        twin = axes.twinx()
        twin.spines["top"].set_visible(False)
        twin.set_ylabel("bits per byte")
        for name in measured:
            label, color = VALIDATION[name]
            handles += twin.plot(
                *_series(rows, name), "o-", color=color, markersize=4, linewidth=1, label=label
            )
            if name in bounds:
                floor = f"floor of {label}"
                handles.append(
                    twin.axhline(bounds[name], color=color, ls="--", linewidth=1, label=floor)
                )
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper right")


def _draw_throughput(axes: Axes, rows: Rows) -> None:
    steps, rate = _series(rows, "tokens_per_second")
    axes.set_title("throughput", fontsize=10, loc="left")
    axes.set_ylabel("thousand tokens per second")
    if not steps:
        return
    axes.plot(steps, [r / 1e3 for r in rate], color=GREY, alpha=0.4, linewidth=0.8)
    median = sorted(rate)[len(rate) // 2] / 1e3
    axes.axhline(median, color=BLUE, linewidth=1.5, label=f"median {median:,.4g}")
    axes.set_ylim(0, 1.15 * max(rate) / 1e3)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def smooth(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential mean without the bias of its start."""
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        out.append(mean / weight)
    return out


def _series(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of the rows that have ``name``."""
    points = [(r["step"], r[name]) for r in rows if name in r and math.isfinite(r[name])]
    return [step for step, _ in points], [value for _, value in points]
