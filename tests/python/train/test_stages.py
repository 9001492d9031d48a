"""The stages for real, at toy size: exact resume, other world sizes, refusals that lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanochat.checkpoint import latest
from nanochat.common.errors import UserError
from nanochat.common.record import read_metrics
from nanochat.train import stage as stage_module
from nanochat.train.base import BaseTrainConfig, base_train
from nanochat.train.sft import ChatSFTConfig, chat_sft
from nanochat.train.tok import TokTrainConfig, tok_train

STEPS = 6


def base_config(out: Path) -> BaseTrainConfig:
    return BaseTrainConfig(
        out=out, depth=2, head_dim=32, seq_len=64, device_batch_size=2, total_batch_size=512,
        num_iterations=STEPS, eval_every=3, eval_tokens=512, save_every=2, resume=True,
        device="cpu",
    )  # fmt: skip


def sft_config(out: Path) -> ChatSFTConfig:
    return ChatSFTConfig(
        out=out, device_batch_size=2, total_batch_size=512, num_iterations=4, eval_every=2,
        eval_tokens=512, save_every=2, resume=True, device="cpu",
    )  # fmt: skip


def tokenizer_of(out: Path) -> None:
    tok_train(TokTrainConfig(out=out, vocab_size=400, max_chars=20_000, num_threads=1))


def weights(out: Path, checkpoint: str = "base") -> dict[str, torch.Tensor]:
    folder = latest(out / checkpoint)
    assert folder is not None
    return load_file(folder / "model.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished base and chat model."""
    out = tmp_path_factory.mktemp("undisturbed")
    tokenizer_of(out)
    base_train(base_config(out))
    chat_sft(sft_config(out))
    return out


class Killed(BaseException):
    """Stands for kill -9 at a place of our choice."""


def test_it_learns_and_leaves_its_record(undisturbed: Path) -> None:
    record = json.loads((undisturbed / "base_train" / "stage.json").read_text())
    assert record["metrics"]["num_tokens"]["value"] == STEPS * 512
    rows = read_metrics(undisturbed / "base_train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [row["step"] for row in rows if "val_bpb" in row] == [3, 6]
    before, after = weights(undisturbed), weights(undisturbed, "sft")
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_resume_is_bit_exact(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    tokenizer_of(tmp_path)
    taken = 0
    step = stage_module.MuonAdamW.step

    def step_until_killed(self: stage_module.MuonAdamW) -> None:
        nonlocal taken
        if taken == killed_after:
            raise Killed
        taken += 1
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(stage_module.MuonAdamW, "step", step_until_killed)
        with pytest.raises(Killed):
            base_train(base_config(tmp_path))
    base_train(base_config(tmp_path))
    assert_same(weights(tmp_path), weights(undisturbed))
    chat_sft(sft_config(tmp_path))
    assert_same(weights(tmp_path, "sft"), weights(undisturbed, "sft"))


def test_a_finished_stage_says_so_and_does_nothing(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (undisturbed / "base_train" / "metrics.jsonl").stat().st_mtime_ns
    base_train(base_config(undisturbed))
    assert "base_train: done before" in capsys.readouterr().out
    assert (undisturbed / "base_train" / "metrics.jsonl").stat().st_mtime_ns == before


def test_other_options_are_refused(undisturbed: Path) -> None:
    with pytest.raises(UserError, match="other options: seed 42 -> 43"):
        base_train(replace(base_config(undisturbed), seed=43))


def test_a_checkpoint_is_not_overwritten_without_resume(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((undisturbed / "tokenizer.json").read_bytes())
    (tmp_path / "base").symlink_to(undisturbed / "base")
    with pytest.raises(UserError, match="continue with --resume"):
        base_train(replace(base_config(tmp_path), resume=False))


def test_a_loss_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer_of(tmp_path)
    loss = stage_module.GPT.loss
    calls = 0

    def poisoned(self: stage_module.GPT, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(self, ids, targets) * (float("nan") if calls > 3 * 4 else 1.0)

    monkeypatch.setattr(stage_module.GPT, "loss", poisoned)
    with pytest.raises(UserError, match="loss is nan at step 3; the last checkpoint is intact"):
        base_train(base_config(tmp_path))
    monkeypatch.undo()
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path).values())
    base_train(base_config(tmp_path))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .*tokenizer\.json; run tok-train"):
        base_train(base_config(tmp_path))
    with pytest.raises(UserError, match="no complete checkpoint in"):
        chat_sft(sft_config(tmp_path))
    with pytest.raises(UserError, match="--vocab-size must be at least 265"):
        tok_train(TokTrainConfig(out=tmp_path, vocab_size=264))
    tokenizer_of(tmp_path)
    with pytest.raises(UserError, match="must be a multiple of seq_len 64"):
        base_train(replace(base_config(tmp_path), total_batch_size=500))


def test_two_processes_never_share_a_run(tmp_path: Path) -> None:
    from nanochat.train.run import exclusive

    tokenizer_of(tmp_path)
    with exclusive(tmp_path), pytest.raises(UserError, match="another process is working in"):
        base_train(base_config(tmp_path))


@pytest.mark.slow
def test_two_gloo_ranks_then_one(undisturbed: Path, tmp_path: Path) -> None:
    """Same losses as one process; a checkpoint of two ranks is finished by one."""
    tokenizer_of(tmp_path)
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "from test_stages import base_config; from nanochat.train.base import base_train;"
        f"base_train(replace(base_config(Path({str(tmp_path)!r})), save_every=4))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "--no-python", sys.executable, "-c", program,
        ],
        check=True, env=environment, capture_output=True, timeout=300,
    )  # fmt: skip

    def losses(out: Path) -> list[float]:
        return [row["loss"] for row in read_metrics(out / "base_train" / "metrics.jsonl")]

    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=2e-3)
    # Forget the end, and let one process finish what two began.
    for path in (
        (tmp_path / "base_train" / "stage.json"),
        *(tmp_path / "base").glob("step_000006/*"),
    ):
        if path.is_file():
            path.unlink()
    with pytest.warns(UserWarning, match="skipping .*step_000006"):
        base_train(base_config(tmp_path))
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=2e-3)
