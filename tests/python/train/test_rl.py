"""Reinforcement learning for real, at toy size: it learns, resumes to the bit, and shares its work.

The task: say the first of two letters. The model has been taught to say some letter that is in the
question, so at first it is right half of the time.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanochat.checkpoint import latest, load_train, save_checkpoint
from nanochat.common.errors import UserError
from nanochat.common.ranks import ranks
from nanochat.common.record import read_metrics
from nanochat.data.tinyworld.draw import Split
from nanochat.evals.tasks import EvalResult
from nanochat.model import GPT, GPTConfig
from nanochat.optim import MuonAdamW, Schedule, build_groups
from nanochat.tasks import Example
from nanochat.tasks.base import Kind
from nanochat.tokenizer import Tokenizer
from nanochat.train import learner
from nanochat.train.policy_gradient import MicroBatch
from nanochat.train.reward import Reward, reward
from nanochat.train.rl import ChatRLConfig, chat_rl, learn

LETTERS = "abcdefgh"
PAIRS = [a + b for a in LETTERS for b in LETTERS if a != b]
HELD_OUT = PAIRS[::4]
STEPS = 24


def _example(pair: str) -> Example:
    return Example(
        messages=({"role": "user", "content": pair},),
        reference={"role": "assistant", "content": pair[0]},
        check=lambda reply: reply == pair[0],
    )


@dataclass(frozen=True)
class FirstLetter:
    name: str = "first_letter"
    kind: Kind = "generative"
    chance: float = 0.0

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        pairs = HELD_OUT if split == "val" else [p for p in PAIRS if p not in HELD_OUT]
        return [_example(pair) for pair in pairs[:n]]


def _config(out: Path) -> ChatRLConfig:
    return ChatRLConfig(
        out=out, task="first_letter", num_iterations=STEPS, questions_per_step=8, num_samples=8,
        max_tokens=4, lr_scale=0.2, eval_every=12, eval_examples=14, save_every=5, resume=True,
        device="cpu", dtype="fp32", device_batch_size=64,
    )  # fmt: skip


def _learn(config: ChatRLConfig, worth: Reward = reward) -> EvalResult:
    assert config.out is not None
    with ranks("cpu") as ours:
        return learn(config, config.out, ours, FirstLetter(), worth)


def make_sft(folder: Path, tokenizer: Tokenizer) -> None:
    """A chat model that answers with one of the letters of the question, either as likely."""
    model = GPT(
        GPTConfig(
            n_layer=2, n_head=2, n_kv_head=2, n_embd=64, vocab_size=tokenizer.vocab_size, seq_len=32
        )
    )
    model.init_weights(seed=1)
    rng = random.Random(1)
    optimizer = MuonAdamW(build_groups(model, n_embd=64, weight_decay=0.0))
    schedule = Schedule.linear(100)
    for step in range(100):
        rows, masks = [], []
        for _ in range(32):
            pair = rng.choice([p for p in PAIRS if p not in HELD_OUT])
            answer = {"role": "assistant", "content": rng.choice(pair)}
            ids, mask = tokenizer.render_conversation(
                {"messages": [*_example(pair).messages, answer]}
            )
            rows.append(ids)
            masks.append(mask)
        ids_BT, mask_BT = torch.tensor(rows), torch.tensor(masks, dtype=torch.bool)
        targets = torch.where(mask_BT, ids_BT, -1)[:, 1:].contiguous()
        optimizer.zero_grad()
        (model.loss(ids_BT[:, :-1].contiguous(), targets) / (targets >= 0).sum()).backward()
        schedule.apply(optimizer.param_groups, step)
        optimizer.step()
    save_checkpoint(folder / "sft", 1, model=model, tokenizer=tokenizer, meta={"lr_scale": 1.0})


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    make_sft(folder, byte_tokenizer)
    return folder / "sft"


@pytest.fixture(scope="module")
def finished(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished")
    (out / "sft").symlink_to(sft)
    _learn(_config(out))
    return out


@pytest.fixture
def run(sft: Path, tmp_path: Path) -> Path:
    (tmp_path / "sft").symlink_to(sft)
    return tmp_path


def _weights(out: Path) -> dict[str, torch.Tensor]:
    folder = latest(out / "rl")
    assert folder is not None
    return load_file(folder / "model.safetensors")


def _rows(out: Path) -> list[dict[str, float]]:
    return read_metrics(out / "chat_rl" / "metrics.jsonl")


class Killed(BaseException):
    """Stands for kill -9 at a place of our choice."""


def test_it_learns_and_leaves_its_record(finished: Path) -> None:
    rows = _rows(finished)
    assert [row["step"] for row in rows if "pass_at_1" in row] == [0, 12, 24]
    before, after = rows[0], rows[-1]
    assert 0.3 < before["pass_at_1"] < 0.7
    assert after["pass_at_1"] > 0.8
    assert all(row["pass_at_8"] >= row["pass_at_2"] >= row["pass_at_1"] for row in rows[::12])
    assert rows[1]["reward"] < 0.7 and rows[-1]["reward"] > 0.8
    record = json.loads((finished / "chat_rl" / "stage.json").read_text())
    assert record["model"] == "rl"
    metrics = {name: measure["value"] for name, measure in record["metrics"].items()}
    assert metrics["pass_at_1"] == after["pass_at_1"]
    assert metrics["before_pass_at_1"] == before["pass_at_1"]
    assert metrics["num_tokens"] == sum(row["length"] * 64 for row in rows[1:])
    assert 0 < metrics["rollout_share"] < 1
    lines = (finished / "chat_rl" / "val_000024.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 14 and len(records[0]["samples"]) == 8


@pytest.mark.parametrize("killed_at", [1, 7, 13])
def test_resume_is_bit_exact(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    taken = 0
    step = MuonAdamW.step

    def step_until_killed(self: MuonAdamW) -> None:
        nonlocal taken
        if taken == killed_at:
            raise Killed
        taken += 1
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(MuonAdamW, "step", step_until_killed)
        with pytest.raises(Killed):
            _learn(_config(run))
    _learn(_config(run))
    ours, theirs = _weights(run), _weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    timed = {"seconds", "tokens_per_second", "rollout_share"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in _rows(run)] == [
        {k: v for k, v in row.items() if k not in timed} for row in _rows(finished)
    ]


def test_the_checkpoint_is_there_before_the_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    config = replace(_config(run), num_iterations=5)
    evaluate = learner.run_tasks

    def first_only(*arguments: object, **options: object) -> list[EvalResult]:
        monkeypatch.setattr(learner, "run_tasks", killed)
        return evaluate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(learner, "run_tasks", first_only)
    with pytest.raises(Killed):
        _learn(config)
    assert (run / "rl" / "step_000005" / "manifest.json").exists()


def test_replies_that_are_worth_the_same_change_nothing(run: Path) -> None:
    config = replace(_config(run), num_iterations=2)
    _learn(config, lambda example, text: 0.1)
    before = load_file(latest(run / "sft") / "model.safetensors")  # type: ignore[operator]
    after = _weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [row["skipped"] for row in _rows(run)[1:]] == [1, 1]
    record = json.loads((run / "chat_rl" / "stage.json").read_text())
    assert record["metrics"]["skipped_steps"]["value"] == 2


def test_prompts_without_room_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, if that is what the task has: nothing to learn from is no crash."""
    examples = FirstLetter.examples

    def long(self: FirstLetter, split: Split, *, n: int, seed: int) -> list[Example]:
        return [replace(e, messages=_example("x" * 40).messages) for e in examples(
            self, split, n=n, seed=seed)]  # fmt: skip

    monkeypatch.setattr(FirstLetter, "examples", long)
    _learn(replace(_config(run), num_iterations=1))
    (_, row) = _rows(run)
    assert row["too_long"] == 8 and row["skipped"] and row["reward"] == 0.0


def test_a_loss_that_is_not_finite_stops_before_the_update(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = learner.policy_loss
    calls = 0

    def poisoned(model: GPT, batch: MicroBatch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return loss(model, batch) * (float("nan") if calls > 7 else 1.0)

    monkeypatch.setattr(learner, "policy_loss", poisoned)
    with pytest.raises(UserError, match="loss is nan at step 7; the last checkpoint is intact"):
        _learn(_config(run))
    assert all(bool(tensor.isfinite().all()) for tensor in _weights(run).values())


def test_weights_that_break_the_engine_are_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = MuonAdamW.step

    def breaking(self: MuonAdamW) -> None:
        step(self)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(MuonAdamW, "step", breaking)
    with pytest.raises(UserError, match=r"no replies at step 1: .*NaN.*lower --lr-scale"):
        _learn(_config(run))


def test_what_cannot_be_asked_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="--task must have free answers, got facts_mc"):
        chat_rl(ChatRLConfig(out=run, task="tinyworld/facts_mc", device="cpu"))
    with pytest.raises(UserError, match=r"tasks: must be one of .*, got chess"):
        chat_rl(ChatRLConfig(out=run, task="chess", device="cpu"))


def test_the_command_on_real_problems(run: Path, real_data: Path) -> None:
    """A toy never solves one: every step is skipped, most replies are cut, and it says so."""
    config = ChatRLConfig(
        out=run, task="gsm8k", eval_data=real_data / "eval", num_iterations=2,
        questions_per_step=2, num_samples=2, max_tokens=8, eval_examples=2, device="cpu",
    )  # fmt: skip
    chat_rl(config)
    record = json.loads((run / "chat_rl" / "stage.json").read_text())
    assert record["metrics"]["skipped_steps"]["value"] == 2
    assert record["metrics"]["num_too_long"]["value"] == 4  # a context of 32 tokens
    chat_rl(config)  # done before


@pytest.mark.slow
def test_two_ranks_draw_and_learn_the_same(
    sft: Path, tmp_path: Path, byte_tokenizer: Tokenizer
) -> None:
    """The first replies to the bit; what the optimizer made of them but for the order of sums.

    Not the weights: Adam's first step is the sign of a gradient, also of one that is nearly zero.
    """
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        (folder / "sft").symlink_to(sft)
    _learn(replace(_config(folders[0]), num_iterations=1))
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_rl;"
        f"test_rl._learn(replace(test_rl._config(Path({str(folders[1])!r})),"
        " num_iterations=1))"
    )
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "--no-python", sys.executable, "-c", program,
        ],
        check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300,
    )  # fmt: skip
    same: Callable[[Path], dict[str, float]] = lambda out: {  # noqa: E731
        name: _rows(out)[1][name] for name in ("reward", "tokens", "length", "flat_questions")
    }
    assert same(folders[0]) == same(folders[1])
    assert _rows(folders[0])[0]["pass_at_1"] == _rows(folders[1])[0]["pass_at_1"]
    ours, theirs = (load_train(latest(out / "rl")).tensors for out in folders)  # type: ignore[arg-type]
    gradients = [name for name in theirs if name.endswith(("/exp_avg", "/momentum"))]
    assert max(float(theirs[name].abs().max()) for name in gradients) > 1e-2
    for name in gradients:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-7, rtol=1e-5)
