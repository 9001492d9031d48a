"""Reinforcement learning: the chat model answers questions and learns from what its answers earn.

    step:  weights --> engine --> replies --> rewards --> advantages --> one update
           in place    n replies to each      reward.py   less the mean   policy_gradient.py
                       question               of the question

Ranks share the questions of a step; each has an engine of its own. Questions, replies and so the
weights are the same after a kill. A step in which no reply was worth more than another is skipped:
it would only move weights by the optimizer's momentum.

On a GPU the engine is PyTorch's, whose replies depend in rare last bits on their company, so there
a continued run is as good as the undisturbed one but not the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from nanochat.checkpoint import load_model
from nanochat.common.allocator import keep_freed_memory
from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.figures import count, duration, percent
from nanochat.common.ranks import DTYPES, Ranks, compute_dtype
from nanochat.common.ranks import ranks as join_ranks
from nanochat.common.record import Measure, MetricsLog, now
from nanochat.engine import Engine, NativeOptions
from nanochat.evals.tasks import EvalResult
from nanochat.model import GPT
from nanochat.optim import MuonAdamW, build_groups
from nanochat.tasks import Task
from nanochat.tasks.suite import task_named
from nanochat.train.learner import EVAL_SAMPLES, Learner, Position, pass_at_1
from nanochat.train.reward import Reward, load_reward
from nanochat.train.run import (
    exclusive,
    find_resume,
    is_done,
    result_options,
    run_dir,
    write_record,
)

SLOTS = 32  # replies that decode together


@dataclass(frozen=True, kw_only=True)
class ChatRLConfig:
    """Let the chat model of a run learn from the rewards of its own answers."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    task: str = "gsm8k"
    """Whose questions to ask: any task with free answers, such as tinyworld/arithmetic."""
    eval_data: Path | None = None
    """Folder of evaluation sets; NANOCHAT_HOME/eval if not given."""
    reward: Path | None = None
    """Python file with reward(example, text) -> float; by default 1 for a right answer, else 0.
    Evaluations go by the task's own rule whatever it says."""
    num_iterations: int = 467
    """Steps."""
    questions_per_step: int = 16
    """Questions of one step over all devices."""
    num_samples: int = 16
    """Replies to each question."""
    max_tokens: int = 256
    """Longest reply."""
    top_k: int = 50
    """Draw each token among so many of the likeliest."""
    device_batch_size: int = 8
    """Replies of one micro-batch on one device; lower it when memory runs out."""
    lr_scale: float = 0.05
    """Factor on the learning rates that pretraining began with; falls to 0 over the run."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""
    eval_every: int = 60
    """Steps between evaluations."""
    eval_examples: int = 400
    """Held-out questions of an evaluation, 8 replies to each."""
    save_every: int = 60
    """Steps between checkpoints."""
    resume: bool = False
    """Continue the newest checkpoint of the run, if there is one."""


def chat_rl(config: ChatRLConfig) -> None:
    """Train, evaluate and save under ``<run>/rl``; continues there with ``resume``."""
    folder = run_dir(config.run, config.out)
    with join_ranks(config.device) as ranks, exclusive(folder, is_main=ranks.is_main):
        if is_done(folder, "chat_rl", result_options(config)):
            return
        task = task_named(config.task, config.eval_data)
        learn(config, folder, ranks, task, load_reward(config.reward))


def learn(
    config: ChatRLConfig, folder: Path, ranks: Ranks, task: Task, reward: Reward
) -> EvalResult:
    """Reinforce the model of ``<run>/sft`` on ``task``; returns the last evaluation.

    Raises: UserError for a task without free answers, and when loss or logits are not finite: the
        last checkpoint is then intact.
    """
    if task.kind != "generative":
        raise UserError(f"chat_rl: --task must have free answers, got {task.name} with choices")
    if ranks.device.type == "cpu":
        keep_freed_memory()
    started = now()
    dtype = compute_dtype(ranks.device, config.dtype)
    model, tokenizer, meta = load_model(folder / "sft", device=ranks.device, dtype=dtype)
    groups = build_groups(
        model, n_embd=model.config.n_embd, batch_lr_scale=meta["lr_scale"], weight_decay=0.0
    )
    optimizer = MuonAdamW(groups)
    position = Position()
    found = find_resume(folder / "rl", resume=config.resume, options=result_options(config))
    if found is not None:
        checkpoint, state = found
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        optimizer.load_full_state(state.tensors)
        position = Position(**state.position["position"])
        if ranks.is_main:
            say(f"chat_rl: continues at step {position.step} of {config.num_iterations}")
    num_questions = config.num_iterations * config.questions_per_step
    options = NativeOptions(
        dtype=next(name for name, its in DTYPES.items() if its == dtype),
        threads=torch.get_num_threads(),
    )
    with (
        MetricsLog(folder / "chat_rl" / "metrics.jsonl") as log,
        Engine(model, tokenizer, slots=SLOTS, options=options, is_exact=False) as engine,
    ):
        learner = Learner(
            config=config,
            options=result_options(config),
            folder=folder,
            ranks=ranks,
            task=task,
            examples=task.examples("train", n=num_questions, seed=config.seed),
            reward=reward,
            model=model,
            optimizer=optimizer,
            engine=engine,
            position=position,
            lr_scale=meta["lr_scale"],
            log=log,
        )
        result = learner.run()
    if ranks.is_main:
        _record(config, folder, started, position, model, result)
    return result


def _record(
    config: ChatRLConfig,
    folder: Path,
    started: str,
    position: Position,
    model: GPT,
    result: EvalResult,
) -> None:
    """The record of the finished stage, and a line for the user."""
    seconds = position.rollout_seconds + position.update_seconds
    rate = position.tokens / max(position.rollout_seconds, 1e-9)
    share = position.rollout_seconds / max(seconds, 1e-9)
    passes = {f"pass_at_{k}": result.pass_at(k) for k in range(2, EVAL_SAMPLES + 1)}
    before = Measure(**position.first)
    write_record(
        folder,
        "chat_rl",
        started=started,
        seconds=position.wall_seconds,
        model="rl",
        config=result_options(config),
        metrics={
            "num_parameters": model.config.num_parameters(),
            "pass_at_1": pass_at_1(result),
            **passes,
            "before_pass_at_1": before,
            "num_tokens": position.tokens,
            "tokens_per_second": rate,
            "rollout_share": share,
            "skipped_steps": position.skipped,
            "num_too_long": position.too_long,
        },
    )
    say(
        f"chat_rl: {position.step} steps ({position.skipped} skipped), {count(position.tokens)} "
        f"tokens drawn at {rate:,.0f} tokens/s, pass@1 {percent(before.value)} -> "
        f"{percent(result.accuracy)}, {duration(position.wall_seconds)}"
    )
