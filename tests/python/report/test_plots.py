"""Plots: whatever series there are, and no crash for what the rows lack."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nanochat.common.record import Measure
from nanochat.report.plots import accuracy_figures, quantity, smooth, training_figures
from nanochat.report.runs import Run, read_run

from .conftest import record


def run_with(rows: list[dict[str, float]], name: str = "a") -> Run:
    return Run(name, Path("/nowhere"), {}, {"chat_rl": rows})


def test_smooth_starts_at_the_first_value_and_keeps_constants() -> None:
    points = [(1.0, 3.0), (2.0, 3.0), (5.0, 3.0)]
    assert [y for _, y in smooth(points)] == pytest.approx([3.0, 3.0, 3.0])
    assert [x for x, _ in smooth(points)] == [1.0, 2.0, 5.0]
    assert smooth([]) == []


def test_series_of_reinforcement_learning() -> None:
    rows = [
        {"step": i, "loss": 1.0, "reward": 0.1 * i, "pass_at_1": 0.1, "pass_at_8": 0.5, "lr": 1.0}
        for i in range(3)
    ]
    (group,) = training_figures([run_with(rows)])
    assert [f.name for f in group.figures] == [
        "chat_rl_loss", "chat_rl_reward", "chat_rl_pass", "chat_rl_tries",
    ]  # fmt: skip
    over_steps, over_tries = group.figures[2:]
    assert "pass@1" in over_steps.svg and "pass@8" in over_steps.svg
    assert "pass@8: 0.5 at step 0, 0.5 at step 2." in over_steps.alt
    assert "step 2: 0.1 at try 1, 0.5 at try 8." in over_tries.alt


def test_a_chart_per_series_when_there_are_several_runs() -> None:
    rows = [{"step": i, "pass_at_1": 0.1, "pass_at_8": 0.5} for i in range(3)]
    (group,) = training_figures([run_with(rows, "mine"), run_with(rows, "theirs")])
    assert [f.name for f in group.figures] == [
        "chat_rl_pass_at_1", "chat_rl_pass_at_8", "chat_rl_tries",
    ]  # fmt: skip
    for figure in group.figures:
        assert "mine" in figure.svg and "theirs" in figure.svg


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}],
        [{"step": 1, "loss": 2.0}],  # one value is no chart
        [{"step": 1, "loss": 1e308}, {"step": 2, "loss": -1e308}],
        [{"step": 1, "pass_at_1": math.nan, "pass_at_2": 1.0}],
        [{"step": 1, "lr": 2.0}, {"step": 2, "lr": 1.0}],
    ],
)
def test_nothing_to_draw(rows: list[dict[str, float]]) -> None:
    assert training_figures([run_with(rows)]) == []


def test_rows_may_lack_columns() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_bpb": math.inf}, {"step": 3}]
    (group,) = training_figures([run_with(rows)])
    assert [f.name for f in group.figures] == ["chat_rl_loss"]


def test_one_evaluation_is_a_curve_already() -> None:
    (group,) = training_figures([run_with([{"step": 0, "pass_at_1": 0.1, "pass_at_2": 0.2}])])
    assert [f.name for f in group.figures] == ["chat_rl_tries"]


@pytest.mark.parametrize(("num_rows", "first"), [(199, 0), (200, 4)])
def test_a_long_loss_is_shown_without_its_fall(num_rows: int, first: int) -> None:
    rows = [{"step": i, "loss": 1.0} for i in range(num_rows)]
    (group,) = training_figures([run_with(rows)])
    assert f"at step {first}, 1 at step {num_rows - 1}." in group.figures[0].alt


def test_the_floor_is_drawn(run_dir: Path) -> None:
    run = read_run(run_dir)
    rows = [{"step": i, "story_bpb": 1.5} for i in range(2)]
    (group,) = training_figures([Run(run.name, run.folder, run.records, {"base_train": rows})])
    assert "floor, story bpb" in group.figures[0].svg


def test_names_of_files_hold_no_path() -> None:
    rows = [{"step": i, "../../x_bpb": 1.0} for i in range(2)]
    (group,) = training_figures([run_with(rows, "a"), run_with(rows, "b")])
    run = Run("a", Path("/nowhere"), {}, {"../stage": rows})
    (other,) = training_figures([run])
    for figure in (*group.figures, *other.figures):
        assert "/" not in figure.name and "." not in figure.name


def test_intervals_of_both_models_and_of_both_runs() -> None:
    m = Measure(value=0.5, low=0.4, high=0.6, chance=0.25, num_examples=90)
    records = {
        "base_eval": record(0, model="base", metrics={"mmlu": m, "val_bpb": Measure(value=1.0)}),
        "chat_eval": record(1, model="sft", metrics={"mmlu": m, "gsm8k": m}),
    }
    run = Run("mine", Path("/nowhere"), records, {})
    (group,) = accuracy_figures([run])
    (figure,) = group.figures
    assert figure.name == "accuracies_chat_core"
    assert figure.svg.count("MMLU") == 1 and "base" in figure.svg and "sft" in figure.svg
    (group,) = accuracy_figures([run, Run("theirs", Path("/nowhere"), records, {})])
    assert [f.name for f in group.figures] == ["accuracies_base", "accuracies_sft"]
    assert all("mine" in f.svg and "theirs" in f.svg for f in group.figures)
    assert accuracy_figures([Run("a", Path("/nowhere"), {}, {})]) == []


def test_what_is_drawn() -> None:
    assert quantity("val_bpb") == "bpb"
    assert quantity("mean_reward") == "reward"
    assert quantity("chat_core") == quantity("core_5_of_22") == "score"
    assert quantity("pass_at_4") == quantity("gsm8k_pass_at_1") == "pass"
    assert quantity("pass_at_5") is None  # beside those of 4 and 8
    assert quantity("seconds") is None
