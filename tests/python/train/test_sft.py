"""Finetuning on a mixture: exact resume, the same rows for any number of ranks, no step in vain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanochat.checkpoint import latest, load_model, load_train
from nanochat.common.errors import UserError
from nanochat.common.ranks import ranks as join_ranks
from nanochat.common.record import read_metrics, read_stages
from nanochat.data import Step
from nanochat.model import GPT
from nanochat.optim import MuonAdamW, build_groups
from nanochat.train import loop
from nanochat.train import stage as stage_module
from nanochat.train.base import BaseTrainConfig, base_train
from nanochat.train.sft import ChatSFTConfig, chat_sft
from nanochat.train.tok import TokTrainConfig, tok_train

SEQ_LEN = 64
LR_SCALE = 0.25  # of pretraining


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a base model."""
    out = tmp_path_factory.mktemp("base")
    tok_train(TokTrainConfig(out=out, vocab_size=400, max_chars=20_000, num_threads=1))
    base_train(
        BaseTrainConfig(
            out=out, depth=2, head_dim=32, seq_len=SEQ_LEN, device_batch_size=2,
            total_batch_size=512, num_iterations=2, eval_every=9, eval_tokens=512, save_every=9,
            lr_scale=LR_SCALE, device="cpu",
        )
    )  # fmt: skip
    return out


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A run of its own that has the base model."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "base").symlink_to(base / "base")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [{"instruction": f"count to {i}", "output": "1 2 3 4 " * (i % 6 + 1)} for i in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "no chat"}]))
    return path


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "identity.jsonl"
    rows = [{"instruction": f"who are you, {i}", "output": "I am {{name}}."} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(out: Path, *data: Path | str, **options: Any) -> ChatSFTConfig:
    given: dict[str, Any] = {
        "device_batch_size": 2, "total_batch_size": 512, "num_iterations": 5, "eval_every": 5,
        "eval_tokens": 512, "save_every": 2, "device": "cpu", "resume": True,
    }  # fmt: skip
    return ChatSFTConfig(out=out, data=tuple(map(str, data)), **given | options)


def weights(out: Path) -> dict[str, torch.Tensor]:
    folder = latest(out / "sft")
    assert folder is not None
    return load_file(folder / "model.safetensors")


class Killed(BaseException):
    """Stands for kill -9 at a place of our choice."""


def test_resume_is_bit_exact(
    run: Path, base: Path, chats: Path, identity: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = f"{chats}@15", f"{identity}:2", "tinyworld@12"
    whole = config(run, *data, fill=("name=Ada",), num_iterations=None, num_epochs=3)
    chat_sft(whole)
    num_steps = len(read_metrics(run / "chat_sft" / "metrics.jsonl"))
    assert num_steps > 6  # three epochs
    again = tmp_path / "again"
    again.mkdir()
    (again / "base").symlink_to(base / "base")
    step = MuonAdamW.step
    for killed_after in (3, num_steps - 3):  # steps of this start
        taken = 0

        def step_until_killed(self: MuonAdamW, last: int = killed_after) -> None:
            nonlocal taken
            if taken == last:
                raise Killed
            taken += 1
            step(self)

        with monkeypatch.context() as patch:
            patch.setattr(stage_module.MuonAdamW, "step", step_until_killed)
            with pytest.raises(Killed):
                chat_sft(replace(whole, out=again))
    chat_sft(replace(whole, out=again))
    first, second = weights(run), weights(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_composition_is_told_and_kept(
    run: Path, chats: Path, identity: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_sft(config(run, chats, f"{identity}:2", num_iterations=None, num_epochs=2))
    out = capsys.readouterr().out
    assert re.search(r"chat_sft: \d+ steps, 2\.\d+ epochs of\n  chats\.jsonl +81 rows", out)
    assert f"chats.jsonl: 1 of 91 rows left out, the first is {chats}:91: neither 'messages'" in out
    assert "identity.jsonl: {{name}} stays as it is" in out
    kept = json.loads((run / "chat_sft" / "mixture.json").read_text())
    assert [(part["name"], part["rows"]) for part in kept["parts"]] == [
        ("chats.jsonl", 81),
        ("identity.jsonl", 10),
    ]
    record = read_stages(run)["chat_sft"]
    assert record.metrics["num_epochs"].value == pytest.approx(kept["num_epochs"])  # type: ignore[union-attr]
    assert 2 <= kept["num_epochs"] < 2.5
    assert record.config["data"] == f"{chats} {identity}:2"
    chat_sft(config(run, chats, f"{identity}:2", num_iterations=None, num_epochs=2))
    assert "chat_sft: done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="other options: data"):
        chat_sft(config(run, chats, num_iterations=None, num_epochs=2))


def test_data_that_changed_are_not_continued(run: Path, chats: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    text = chats.read_text()
    path.write_text(text)
    options = config(run, path, "tinyworld@20", num_iterations=2, save_every=1)
    chat_sft(options)
    (run / "chat_sft" / "stage.json").unlink()  # as if it had been killed at its end
    path.write_text(text.replace("count to 7", "count to 8"))
    with pytest.raises(UserError, match=r"the data changed since .*step_000002; bring "):
        chat_sft(options)
    path.write_text(text)
    chat_sft(options)


def test_tasks_are_measured_while_training(run: Path) -> None:
    tasks = "tinyworld/facts_mc,tinyworld/arithmetic"
    chat_sft(
        config(run, "tinyworld", eval_tasks=tasks, chat_eval_every=2, eval_examples=3, eval_every=3)
    )
    rows = read_metrics(run / "chat_sft" / "metrics.jsonl")
    assert [row["step"] for row in rows if "mean_centred" in row] == [2, 4, 5]
    assert [row["step"] for row in rows if "val_bpb" in row] == [3, 5]
    metrics = read_stages(run)["chat_sft"].metrics
    assert {"facts_mc", "arithmetic", "mean_centred"} <= metrics.keys()


def test_it_starts_from_the_moments_and_rates_of_pretraining(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def look(self: MuonAdamW) -> None:
        seen["state"] = {name: tensor.clone() for name, tensor in self.full_state().items()}
        seen["rates"] = [group["lr"] for group in self.param_groups]
        raise Killed

    monkeypatch.setattr(stage_module.MuonAdamW, "step", look)
    with pytest.raises(Killed):
        chat_sft(config(run, "tinyworld", lr_scale=0.8))
    saved = load_train(run / "base").tensors
    assert saved.keys() == seen["state"].keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in seen["state"].items())
    assert any(bool(tensor.float().abs().sum() > 0) for tensor in saved.values())
    model, _, meta = load_model(run / "base")
    assert meta["lr_scale"] == LR_SCALE
    groups = build_groups(model, n_embd=model.config.n_embd, batch_lr_scale=LR_SCALE)
    assert seen["rates"] == pytest.approx([0.8 * group["initial_lr"] for group in groups])


def test_what_tinyworld_loses_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat_sft(config(run, "tinyworld", num_iterations=1))
    told = re.search(
        r"tinyworld: (\d+) of 1,024 held-out conversations do not fit", capsys.readouterr().out
    )
    assert told is not None
    assert 0 < int(told[1]) < 1024


@pytest.mark.parametrize("option", ["num_epochs", "num_iterations", "chat_eval_every"])
def test_numbers_that_make_no_sense(tmp_path: Path, option: str) -> None:
    name = option.replace("_", "-")
    with pytest.raises(UserError, match=f"--{name} must be at least 1, got 0"):
        chat_sft(config(tmp_path, "tinyworld", **{option: 0}))


def test_data_shorter_than_a_step(run: Path, identity: Path) -> None:
    with pytest.raises(UserError, match=r"a step takes 8 rows of 64 tokens, the data fill [1-3]; "):
        chat_sft(config(run, identity, num_iterations=None))
    chat_sft(config(run, identity, num_iterations=1))
    assert read_stages(run)["chat_sft"].metrics["num_epochs"].value > 2  # type: ignore[union-attr]


def stepped(model: GPT, *micro_batches: tuple[list[list[int]], list[list[int]]]) -> float:
    """The loss of one optimizer step over (inputs, targets); the model learns."""
    inputs, targets = (torch.tensor([pair[k] for pair in micro_batches]) for k in (0, 1))
    step = Step(
        inputs=inputs,
        targets=targets,
        num_targets=int((targets >= 0).sum()),
        num_tokens=targets.numel(),
        num_padding=0,
        num_documents=0,
        state={"epoch": 0, "block": 0, "row": 0},
    )
    groups = build_groups(model, n_embd=model.config.n_embd, weight_decay=0.0)
    with join_ranks("cpu") as ranks:
        return loop._step(model, MuonAdamW(groups), step, ranks)


def test_the_loss_is_the_mean_over_the_targets_of_the_step(base: Path) -> None:
    sparse = [[1, 2, 3, 4]], [[-1, -1, 4, -1]]
    dense = [[5, 6, 7, 8]], [[6, 7, 8, 9]]
    masked = [[9, 9, 9, 9]], [[-1] * 4]

    def trained(*micro_batches: Any) -> tuple[float, dict[str, torch.Tensor]]:
        model, _, _ = load_model(base / "base")
        loss = stepped(model.train(), *micro_batches)
        return loss, model.state_dict()

    alone, with_masked = trained(sparse, dense), trained(masked, sparse, dense, masked)
    assert with_masked[0] == alone[0]
    assert all(torch.equal(alone[1][name], with_masked[1][name]) for name in alone[1])

    model, _, _ = load_model(base / "base")
    ids, targets = (torch.tensor([*sparse[k], *dense[k]]) for k in (0, 1))
    with torch.no_grad():
        wanted = model.nats(ids, targets).sum().item() / 5  # whichever rows the targets are in
    assert alone[0] == pytest.approx(wanted, rel=1e-4)
    together = trained((sparse[0] + dense[0], sparse[1] + dense[1]))
    assert together[0] == pytest.approx(alone[0], rel=1e-4)


def test_a_step_without_targets_changes_nothing(base: Path) -> None:
    model, _, _ = load_model(base / "base")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = stepped(model.train(), ([[1, 2, 3, 4]], [[-1] * 4]))
    assert loss == 0.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_two_gloo_ranks_learn_what_one_does(
    run: Path, base: Path, chats: Path, identity: Path, tmp_path: Path
) -> None:
    data = chats, f"{identity}:3", "tinyworld@30"
    chat_sft(config(run, *data))
    twice = tmp_path / "twice"
    twice.mkdir()
    (twice / "base").symlink_to(base / "base")
    argv = [
        "--out", twice, "--data", *data, "--device-batch-size", "2", "--total-batch-size", "512",
        "--num-iterations", "5", "--eval-every", "5", "--eval-tokens", "512", "--device", "cpu",
    ]  # fmt: skip
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "nanochat", "chat-sft", *map(str, argv),
        ],
        check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300,
    )  # fmt: skip
    one, two = (
        [row["loss"] for row in read_metrics(out / "chat_sft" / "metrics.jsonl")]
        for out in (run, twice)
    )
    assert two == pytest.approx(one, rel=2e-3)
