"""The card: every number of the records is on it, and a run in any state has one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.common.record import Measure, read_stages
from nanochat.report.card import card
from nanochat.report.content import figures_of
from nanochat.report.runs import read_run

from .conftest import change, page_of


def test_says_every_number(run_dir: Path) -> None:
    text = page_of(run_dir)
    assert "**36.7M** parameters" in text
    assert "**96.7 %** mean of the tasks, centred, sft model" in text
    assert "**8 min 05 s** for 5 stages, \\$0" in text
    assert "Begun 2026-01-01 on Imaginary 9000, 2 cores, commit `v0.1.0-3-gabcdef0`." in text
    assert "| val bpb | 0.9100 | 0.5000 |  |  |  | `base_eval` `chat_sft` |" in text
    assert "| story bpb | 1.1000 (floor +10.0 %) | - | floor 1.0000 |  |  | `base_eval` |" in text
    assert (
        "| &nbsp;&nbsp;capitals | - | 97.5 % (95.3 to 98.7) | chance 25.0 % | 400 | 2 too long "
        "| `chat_eval` |"
    ) in text
    assert "| **mean of the tasks, centred** | - | 96.7 % |" in text
    assert "| `tok_train` | tokenizer | 4.2 s | \\$0 | vocab size 4.10K |" in text
    assert "| `base_train` | pretraining | 5 min 01 s | \\$0 |" in text
    assert "Imaginary 9000, 2 cores" in text
    assert "`lr_scale=0.25`" in text
    assert "| `chat_sft` | `python scripts/stage.py --depth 4` | `v0.1.0-3-gabcdef0` |" in text
    assert "costs \\$0" in text


def test_counts_of_two_models_are_told_apart(run_dir: Path) -> None:
    accuracy = Measure(value=0.5, chance=0.25, num_examples=10, num_unanswered=0)
    change(run_dir, "base_eval", metrics={"capitals": accuracy})
    assert "| base: 10; sft: 400 | base: none; sft: 2 too long |" in page_of(run_dir)


def test_is_a_pure_function_of_the_folder(run_dir: Path, tmp_path: Path) -> None:
    first = card(read_run(run_dir), dollars_per_hour=2.0)
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.move(run_dir, moved)
    assert card(read_run(moved), dollars_per_hour=2.0) == first


def test_samples_of_the_base_model(run_dir: Path) -> None:
    assert "| Once upon a time there was a *fox*." in page_of(run_dir)
    (run_dir / "base_eval" / "stage.json").unlink()
    assert "The base model continues" not in page_of(run_dir)


def test_says_how_to_talk_to_the_last_model(run_dir: Path) -> None:
    assert "nanochat chat-cli --checkpoint sft " in page_of(run_dir)
    for stage in ("chat_sft", "chat_eval"):
        (run_dir / stage / "stage.json").unlink()
    assert "nanochat chat-cli --checkpoint base " in page_of(run_dir)
    for stage in ("base_train", "base_eval"):
        (run_dir / stage / "stage.json").unlink()
    assert "There is no model yet." in page_of(run_dir)


@pytest.mark.parametrize("stage", ["tok_train", "base_train", "base_eval", "chat_sft", "chat_eval"])
def test_a_missing_stage_is_said_to_be_missing(run_dir: Path, stage: str) -> None:
    (run_dir / stage / "stage.json").unlink()
    text = page_of(run_dir)
    assert f"no record of `{stage}`." in text
    assert f"| `{stage}` |" in text


def test_a_run_that_is_still_training_has_a_card(run_dir: Path) -> None:
    for stage in run_dir.glob("*/stage.json"):
        stage.unlink()
    with (run_dir / "base_train" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51, "lo')  # written at this moment
    text = page_of(run_dir)
    assert "No model has been evaluated yet." in text
    assert "plots/base_train_loss.svg" in text
    assert "for 0 stages, \\$0" in text


def test_a_run_with_one_stage_has_a_card(run_dir: Path) -> None:
    for stage in ("base_train", "base_eval", "chat_sft", "chat_eval"):
        shutil.rmtree(run_dir / stage)
    text = page_of(run_dir)
    assert "**4.2 s** for 1 stage, \\$0" in text
    assert "No training stage has left a log yet." in text
    assert "None has been sampled yet." in text


def test_cost_is_hours_times_price(run_dir: Path) -> None:
    change(run_dir, "base_train", seconds=7200.0)
    text = page_of(run_dir, dollars_per_hour=24.0)
    assert "| `base_train` | pretraining | 2 h 00 min | \\$48 |" in text
    assert "At \\$24 an hour." in text
    assert "`nanochat report --out . --dollars-per-hour 24`" in text


def test_machines_are_told_apart(run_dir: Path) -> None:
    hardware = read_stages(run_dir)["chat_sft"].hardware
    assert hardware is not None
    elsewhere = replace(hardware, cpu="Imaginary 1", gpus=("H100", "H100"), gpu_memory_gib=79.6)
    change(run_dir, "chat_sft", hardware=elsewhere, commit="v0.2.0")
    text = page_of(run_dir)
    assert "| stages | `tok_train` `base_train` `base_eval` `chat_eval` |" in text
    assert "2 x H100, 80 GiB each" in text
    assert "commit `v0.2.0`" in text


def test_published_figures_stand_beside_the_same_measure_alone(run_dir: Path) -> None:
    assert "GPT-2" not in page_of(run_dir)
    change(run_dir, "base_eval", metrics={"core": 0.2, "val_bpb": 0.9})
    text = page_of(run_dir)
    assert "| **this run, base** | 0.2000 | 36.7M | 6 min 05 s | \\$0 |" in text
    assert "| GPT-2 1558M | 0.2565 | 1.56B |" in text
    assert "0.7180" not in text  # bits per byte of another text
    assert "ARC-Easy" not in text


def test_core_lists_its_tasks_below_it(run_dir: Path) -> None:
    task = Measure(value=0.5, low=0.4, high=0.6, chance=0.25, num_examples=90)
    metrics = {"core_arc_easy": task, "core": 0.2, "arc_easy": task, "core_copa": task}
    change(run_dir, "base_eval", metrics=metrics)
    lines = page_of(run_dir).split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("| **CORE**"))
    assert lines[start + 1].startswith("| &nbsp;&nbsp;ARC-Easy |")
    assert lines[start + 2].startswith("| &nbsp;&nbsp;copa |")
    assert [figure.name for figure in figures_of(card(read_run(run_dir), dollars_per_hour=0))]
