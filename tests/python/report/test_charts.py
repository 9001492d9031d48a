"""Charts: round ticks, every point inside the frame, spikes kept, words escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from nanochat.report.charts import (
    HEIGHT,
    MAX_POINTS,
    WIDTH,
    Interval,
    Line,
    interval_chart,
    line_chart,
    standalone,
    thin,
    tick_label,
    ticks,
)


def numbers_within(svg: str, height: float) -> None:
    for path in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d", "")):
            assert -0.1 <= float(x) <= WIDTH + 0.1
            assert -0.1 <= float(y) <= height + 0.1


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (2.31, 8.32), (0.0, 9180.0), (1e-9, 2e-9), (-3.0, 4.0), (5.0, 5.0), (0.0, 0.0)],
)
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    assert 3 <= len(found) <= 8
    steps = {float(f"{b - a:.3g}") for a, b in pairwise(found)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_tick_labels() -> None:
    assert [tick_label(v) for v in (0.0, 0.25, 500.0, 2500.0, 1e6)] == [
        "0", "0.25", "500", "2.5K", "1M",
    ]  # fmt: skip


def test_lines_stay_in_the_frame() -> None:
    points = [(float(i), (-1) ** i * 1e3 / (i + 1)) for i in range(50)]
    svg = line_chart("a", [Line("x", points), Line("", points, 9, True)], x_label="step", zero=True)
    numbers_within(svg, HEIGHT)
    assert svg.count('<path class="line c') == 3  # two and a key of the legend


def test_one_point_is_a_dot() -> None:
    svg = line_chart("a", [Line("x", [(1.0, 2.0)])], x_label="step")
    assert 'class="marks c0"' in svg
    numbers_within(svg, HEIGHT)


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        line_chart("a", [Line("x", [])], x_label="step")
    with pytest.raises(ValueError, match="at least one row"):
        interval_chart("a", [], labels=["x"])


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[5001] = (5001.0, 99.0)
    points[5002] = (5002.0, -99.0)
    kept = thin(points)
    assert len(kept) <= MAX_POINTS
    assert {(5001.0, 99.0), (5002.0, -99.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:10]) == points[:10]


def test_intervals_grow_the_chart() -> None:
    rows = [(f"task {i}", 0.25, [Interval(0.5, 0.0, 1.0, 0), Interval(1.0, 0.9, 1.0, 1)])
            for i in range(30)]  # fmt: skip
    svg = interval_chart("a", rows, labels=["base", "sft"])
    height = float(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
    assert height > 30 * 24
    numbers_within(svg, height)


def test_words_are_escaped_and_cut() -> None:
    hostile = "<script>\x00\u202e" + 500 * "x"
    svg = line_chart(hostile, [Line(hostile, [(0.0, 0.0), (1.0, 1.0)])], x_label=hostile)
    texts = [element.text or "" for element in ET.fromstring(svg).iter()]
    assert "<script" not in svg
    assert any(text.endswith("\u2026") for text in texts)


def test_standalone_has_its_style() -> None:
    svg = standalone(line_chart("a", [Line("x", [(0, 0), (1, 1)])], x_label="step"), ".a { }")
    assert ET.fromstring(svg)[0].text == ".a { }"
