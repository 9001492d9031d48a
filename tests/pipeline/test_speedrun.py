"""The whole journey at toy size, as a person runs it: a process, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "speedrun.py"
TOY = (
    *("--run", "toy", "--num-iterations", "4", "--sft-iterations", "2"),
    *("--eval-examples", "2"),
)


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "TERM": "dumb"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read the output until ``text`` appears."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}: {process.communicate()[1]}")


@pytest.mark.slow
def test_killed_continued_finished_and_again(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "toy"

    process = start(tmp_path, *TOY)
    wait_for(process, "tok-train:")
    code, _, err = finish(start(tmp_path, *TOY))  # a second one at once
    assert code == 1
    assert err.startswith("error: speedrun: another one is at work in")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    code, out, err = finish(start(tmp_path, *TOY))
    assert code == 0, err
    assert "tok_train: done before" in out
    assert "now talk to it:" in out
    card = (run / "report.md").read_text()
    for word in ("val bpb", "arithmetic", "plots/base_train_loss.svg", "## Conversations"):
        assert word in card
    stages = {path.parent.name for path in run.glob("*/stage.json")}
    assert stages == {"tok_train", "base_train", "base_eval", "chat_sft", "chat_eval"}

    code, out, err = finish(start(tmp_path, *TOY))
    assert code == 0, err
    assert out.count("done before") == 5


def test_plan_prints_and_runs_nothing(tmp_path: Path) -> None:
    code, out, err = finish(
        start(tmp_path, "--plan", "--preset", "d20", "--gpu", "H100", "--num-gpus", "8")
    )
    assert code == 0, err
    assert "torchrun --standalone --nproc_per_node=8 scripts/base_train.py" in out
    assert "$" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "d99"), "preset: must be one of cpu, gpu1"),
        (("--preset", "cpu", "--data", "/nowhere"), "/nowhere"),
    ],
)
def test_what_cannot_run_is_one_line(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, _, err = finish(start(tmp_path, *options))
    assert code == 1
    assert err.count("\n") == 1
    assert message in err


def test_empty_corpus_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "empty.txt").touch()
    code, _, err = finish(start(tmp_path, "--preset", "cpu", "--data", str(tmp_path / "corpus")))
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1
    records = list((tmp_path / "runs").glob("*/*/stage.json"))
    assert [json.loads(path.read_text()) for path in records] == []
