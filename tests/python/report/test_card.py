"""The card: every number of the records is on it, and a run in any state has one."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.common.record import read_stages, write_stage
from nanochat.report.card import write_card


def test_says_every_number(run_dir: Path) -> None:
    card = write_card(run_dir).read_text()
    assert "36.7M parameters, 5 stages in 8 min 05 s for $0." in card
    assert "| val bpb | 0.9100 | 0.5000 |" in card
    assert "| story bpb | 1.1000 (+10.0% over its floor) | - | floor 1.0000 |" in card
    assert "| capitals | - | 97.5 % (95.3 to 98.7) | chance 25.0 %, 400 examples |" in card
    assert "| mean centred | - | 96.7 % |" in card
    assert "| tok\\_train | tokenizer | 4.2 s | $0 | vocab size 4.10K |" in card
    assert "| base\\_train | pretraining | 5 min 01 s | $0 |" in card
    assert "Imaginary 9000, 2 cores" in card
    assert "`python scripts/stage.py --depth 4`" in card
    assert "v0.1.0-3-gabcdef0" in card
    assert "costs $0" in card


def test_is_a_pure_function_of_the_folder(run_dir: Path, tmp_path: Path) -> None:
    first = write_card(run_dir).read_bytes()
    plot = (run_dir / "plots" / "base_train.png").read_bytes()
    moved = tmp_path / "moved"
    shutil.move(run_dir, moved)
    assert write_card(moved).read_bytes() == first
    assert (moved / "plots" / "base_train.png").read_bytes() == plot


def test_conversations_read_well_and_cannot_act(run_dir: Path) -> None:
    card = write_card(run_dir).read_text()
    assert "> Let me compute. [calculator: `12*7` = `84`] It is 84." in card
    assert "<script>" not in card
    assert "\n# heading" not in card
    assert "```\nfence" not in card


def test_samples_of_the_base_model_are_quoted(run_dir: Path) -> None:
    card = write_card(run_dir).read_text()
    assert "> Once upon a time there was a \\*fox\\*." in card
    (run_dir / "base_eval" / "stage.json").unlink()
    assert "The base model continues" not in write_card(run_dir).read_text()


def test_says_how_to_talk_to_the_last_model(run_dir: Path) -> None:
    assert "nanochat chat-cli --checkpoint sft " in write_card(run_dir).read_text()
    for stage in ("chat_sft", "chat_eval"):
        (run_dir / stage / "stage.json").unlink()
    assert "nanochat chat-cli --checkpoint base " in write_card(run_dir).read_text()
    for stage in ("base_train", "base_eval"):
        (run_dir / stage / "stage.json").unlink()
    assert "There is no model yet." in write_card(run_dir).read_text()


def test_images_that_it_names_exist(run_dir: Path) -> None:
    images = re.findall(r"!\[.*?\]\((.*?)\)", write_card(run_dir).read_text())
    assert images == ["plots/base_train.png"]
    assert (run_dir / images[0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("stage", ["tok_train", "base_train", "base_eval", "chat_sft", "chat_eval"])
def test_a_missing_stage_is_said_to_be_missing(run_dir: Path, stage: str) -> None:
    (run_dir / stage / "stage.json").unlink()
    assert f"no record of: {stage}." in write_card(run_dir).read_text()


def test_a_run_that_is_still_training_has_a_card(run_dir: Path) -> None:
    for stage in run_dir.glob("*/stage.json"):
        stage.unlink()
    with (run_dir / "base_train" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51, "lo')  # written at this moment
    card = write_card(run_dir).read_text()
    assert "No model has been evaluated yet." in card
    assert "plots/base_train.png" in card


def test_cost_is_hours_times_price(run_dir: Path) -> None:
    write_stage(run_dir, "base_train", replace(read_stages(run_dir)["base_train"], seconds=7200.0))
    card = write_card(run_dir, dollars_per_hour=24.0).read_text()
    assert "| base\\_train | pretraining | 2 h 00 min | $48 |" in card
    assert "At $24 an hour." in card
    assert "nanochat report --out . --dollars-per-hour 24`" in card


def test_machines_are_told_apart(run_dir: Path) -> None:
    sft = read_stages(run_dir)["chat_sft"]
    assert sft.hardware is not None
    elsewhere = replace(sft.hardware, cpu="Imaginary 1", gpus=("H100", "H100"), gpu_memory_gib=79.6)
    write_stage(run_dir, "chat_sft", replace(sft, hardware=elsewhere, commit="v0.2.0"))
    card = write_card(run_dir).read_text()
    assert "Ran tok_train, base_train, base_eval, chat_eval:" in card
    assert "2 x H100, 80 GiB each" in card
    assert "commit v0.2.0" in card


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage has left a record"):
        write_card(tmp_path)
