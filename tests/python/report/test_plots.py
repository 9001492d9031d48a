"""Plots: drawn when there is something to draw, whatever the rows lack."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nanochat.report.plots import plot_training, smooth


def test_smooth_starts_at_the_first_value_and_keeps_constants() -> None:
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([]) == []


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert not plot_training([], tmp_path / "a.png", title="a")
    assert not plot_training([{"step": 1, "loss": math.nan}], tmp_path / "a.png", title="a")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"step": 1, "loss": 2.0},
        {"step": 1, "loss": 2.0, "tokens_per_second": 5.0},
        {"step": 1, "loss": 2.0, "val_bpb": 1.0, "story_bpb": math.inf},
    ],
)
def test_rows_may_lack_columns(tmp_path: Path, row: dict[str, float]) -> None:
    path = tmp_path / "a.png"
    assert plot_training([row], path, title="a", bounds={"val_bpb": 0.9})
    assert path.read_bytes().startswith(b"\x89PNG")
