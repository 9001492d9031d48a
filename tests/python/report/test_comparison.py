"""Several runs on one page: their numbers, what differs, and whether that is chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat.common.record import Measure
from nanochat.report import markdown
from nanochat.report.comparison import comparison
from nanochat.report.runs import read_run

from .conftest import change


def text_of(*folders: Path, dollars_per_hour: float = 0.0) -> str:
    page = comparison([read_run(f) for f in folders], dollars_per_hour=dollars_per_hour)
    return markdown.render(page, lambda figure: f"plots/{figure}.svg")


def keep_answers(run: Path, correct: list[bool], prompt: str = "q") -> None:
    rows = [{"index": i, "prompt": f"{prompt}{i}", "correct": c} for i, c in enumerate(correct)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "chat_eval" / "capitals.jsonl").write_text(text)


def test_columns_are_runs(run_dir: Path, other_run: Path) -> None:
    text = text_of(run_dir, other_run, dollars_per_hour=36.0)
    assert "| val bpb | base | 0.9100 | 0.9100 |" in text
    assert "| &nbsp;&nbsp;capitals | sft | 97.5 % (95.3 to 98.7) | 90.0 % (86.7 to 92.6) |" in text
    assert "| `chat_sft` | 1 min 00 s, \\$0.60 | 1 min 30 s, \\$0.90 |" in text
    assert "| `chat_sft` | lr scale | `0.25` | `0.5` |" in text
    assert "plots/accuracies_sft.svg" in text
    assert "plots/base_train_loss.svg" in text  # of the one run that has a log


def test_without_answers_proportions_decide(run_dir: Path, other_run: Path) -> None:
    text = text_of(run_dir, other_run)
    assert "| &nbsp;&nbsp;capitals | sft | -7.5 (-11.0 to -4.1) | - | - | - | worse |" in text
    assert "| &nbsp;&nbsp;capitals | sft | +7.5 (+4.1 to +11.0) |" in text_of(other_run, run_dir)


def test_answers_to_the_same_examples_decide(run_dir: Path, other_run: Path) -> None:
    few = Measure(value=0.5, low=0.237, high=0.763, chance=0.25, num_examples=10)
    for run, correct in ((run_dir, 5 * [True, False]), (other_run, [True] * 9 + [False])):
        change(run, "chat_eval", metrics={"capitals": few})
        keep_answers(run, correct)
    row = "| capitals | sft | +40.0 (+2.1 to +64.6) | 4 | 0 | 0.125 | not shown |"
    assert row in text_of(run_dir, other_run)
    keep_answers(other_run, [True] * 9 + [False], prompt="another ")
    assert "| 4 | 0 |" not in text_of(run_dir, other_run)


def test_runs_that_are_alike(run_dir: Path) -> None:
    text = text_of(run_dir, run_dir)
    assert "same options, commit and machine" in text
    assert "not shown |" in text


def test_a_run_that_has_only_begun(run_dir: Path, other_run: Path) -> None:
    for stage in ("base_train", "base_eval", "chat_sft", "chat_eval"):
        (other_run / stage / "stage.json").unlink()
    text = text_of(run_dir, other_run)
    assert "other is not complete, no record of: base\\_train, base\\_eval" in text
    assert "The runs have no accuracy in common." in text
    assert "| `base_eval` | 1 min 00 s | no record |" in text


def test_one_run_is_no_comparison(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        comparison([read_run(run_dir)], dollars_per_hour=0.0)
