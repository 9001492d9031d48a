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

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nanochat.checkpoint import TrainState, load_model, save_checkpoint
from nanochat.common.allocator import keep_freed_memory
from nanochat.common.console import say, ticker
from nanochat.common.errors import UserError
from nanochat.common.figures import count, duration, percent
from nanochat.common.ranks import DTYPES, Ranks, compute_dtype
from nanochat.common.ranks import ranks as join_ranks
from nanochat.common.record import Measure, MetricsLog, now
from nanochat.engine import Engine, NativeOptions
from nanochat.evals.records import write_records
from nanochat.evals.tasks import EvalResult, run_tasks
from nanochat.model import GPT
from nanochat.optim import MuonAdamW, Schedule, build_groups
from nanochat.tasks import Example, Task
from nanochat.tasks.suite import task_named
from nanochat.train.policy_gradient import MicroBatch, micro_batches, policy_loss
from nanochat.train.reward import Reward, load_reward
from nanochat.train.rollouts import Reply, questions_of, reply_seed, roll_out
from nanochat.train.run import (
    exclusive,
    find_resume,
    is_done,
    result_options,
    run_dir,
    write_record,
)

SLOTS = 32  # replies that decode together
EVAL_SAMPLES = 8  # of each held-out question: pass@1 to pass@8


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


@dataclass
class Position:
    """How far a run has come; JSON, saved with every checkpoint."""

    step: int = 0
    tokens: int = 0  # drawn
    skipped: int = 0  # steps without an update
    too_long: int = 0  # questions that left no room for an answer
    rollout_seconds: float = 0.0
    update_seconds: float = 0.0
    wall_seconds: float = 0.0  # the same with checkpoints and evaluations, over all starts
    first: dict[str, Any] = field(default_factory=dict)  # the Measure of pass@1 before training


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
        learner = _Learner(
            config=config,
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


@dataclass(frozen=True, kw_only=True)
class _Learner:
    """What the steps of one rank work with; ``position`` and the weights advance."""

    config: ChatRLConfig
    folder: Path
    ranks: Ranks
    task: Task
    examples: list[Example]
    reward: Reward
    model: GPT
    optimizer: MuonAdamW
    engine: Engine
    position: Position
    lr_scale: float  # batch factor of pretraining's rates
    log: MetricsLog

    def run(self) -> EvalResult:
        """All steps that are left. An evaluation is of the weights of a checkpoint that is there:
        it stands before the step that follows, so a start behind a checkpoint begins with it."""
        config, position, num_steps = self.config, self.position, self.config.num_iterations
        schedule = Schedule.linear(num_steps, peak_lr=config.lr_scale)
        is_quiet = not self.ranks.is_main
        with ticker("chat_rl", num_steps, done=position.step, quiet=is_quiet) as bar:
            mark = time.perf_counter()
            while position.step < num_steps:
                if position.step % config.eval_every == 0:
                    result = self.evaluate()
                    if position.step == 0:
                        position.first = asdict(_without_chance(result))
                rate = schedule.apply(self.optimizer.param_groups, position.step)
                row = self.take_step()
                position.wall_seconds += time.perf_counter() - mark
                mark = time.perf_counter()
                if self.ranks.is_main:
                    self.log.write(
                        step=position.step, lr=rate, seconds=position.wall_seconds, **row
                    )
                if position.step == num_steps or position.step % config.save_every == 0:
                    self.save()
                bar.update(
                    position.step, reward=f"{row['reward']:.3f}", length=f"{row['length']:.0f}"
                )
            result = self.evaluate()
            position.wall_seconds += time.perf_counter() - mark
        return result

    def take_step(self) -> dict[str, float]:
        """Replies to the questions of a step and the update that they give.

        Returns: Figures over all ranks, for the log.
        """
        config, position = self.config, self.position
        start = time.perf_counter()
        replies = self._roll_out()
        figures = _sum(self.ranks, _count(replies))
        num_replies, num_drawn = max(1.0, figures["replies"]), max(1.0, figures["drawn"])
        middle = time.perf_counter()
        idle = figures["flat_questions"] + figures["too_long"]
        is_skipped = idle == config.questions_per_step
        loss = 0.0 if is_skipped else self._update(replies, num_drawn)
        end = time.perf_counter()
        position.step += 1
        position.tokens += int(figures["drawn"])
        position.skipped += is_skipped
        position.too_long += int(figures["too_long"])
        position.rollout_seconds += middle - start
        position.update_seconds += end - middle
        return {
            "loss": loss,
            "skipped": int(is_skipped),
            "tokens": position.tokens,
            "reward": figures["reward"] / num_replies,
            "length": figures["drawn"] / num_replies,
            "cut": figures["cut"] / num_replies,
            "empty": figures["empty"] / num_replies,
            "flat_questions": figures["flat_questions"],
            "too_long": figures["too_long"],
            "tokens_per_second": figures["drawn"] / (middle - start),
            "rollout_share": (middle - start) / (end - start),
        }

    def _roll_out(self) -> list[list[Reply]]:
        """Replies to this rank's share of the questions."""
        config, step = self.config, self.position.step
        questions = questions_of(
            step,
            num_questions=len(self.examples),
            per_step=config.questions_per_step,
            seed=config.seed,
        )[self.ranks.rank :: self.ranks.world_size]
        try:
            return roll_out(
                self.engine,
                [self.examples[question] for question in questions],
                [reply_seed(config.seed, step, question) for question in questions],
                num_samples=config.num_samples,
                max_tokens=config.max_tokens,
                top_k=config.top_k,
                reward=self.reward,
            )
        except RuntimeError as error:
            if self.engine.failure is None:
                raise
            raise UserError(
                f"chat_rl: no replies at step {step}: {error}; the last checkpoint is intact, "
                "lower --lr-scale"
            ) from error

    def _update(self, replies: list[list[Reply]], num_drawn: float) -> float:
        """One step of the optimizer, in the engine too; returns the loss over all ranks.

        ``num_drawn`` is over all ranks. A loss that is not finite changes nothing.
        """
        for parameter in self.model.parameters():  # a rank may have nothing to teach
            parameter.grad = torch.zeros_like(parameter)
        every = [reply for of_question in replies for reply in of_question]
        rows, pad = self.config.device_batch_size, self.engine.tokenizer.bos
        total = torch.zeros((), device=self.ranks.device)
        for batch in micro_batches(every, rows=rows, pad=pad):
            on_device = MicroBatch(*(tensor.to(self.ranks.device) for tensor in batch))
            loss = policy_loss(self.model, on_device) / num_drawn
            loss.backward()
            total += loss.detach()
        value = float(self.ranks.sum(total))
        if not math.isfinite(value):
            raise UserError(
                f"chat_rl: loss is {value} at step {self.position.step}; the last checkpoint is "
                "intact, lower --lr-scale or look at the rewards"
            )
        self.optimizer.step()
        self.engine.load_weights(self.model)
        return value

    def evaluate(self) -> EvalResult:
        """pass@k on held-out questions, into the log; every example into a file of its own."""
        config, step = self.config, self.position.step
        (result,) = run_tasks(
            self.engine,
            [self.task],
            num_examples=config.eval_examples,
            max_tokens=config.max_tokens,
            num_samples=EVAL_SAMPLES,
            temperature=1.0,
            top_k=config.top_k,
            seed=config.seed,
        )
        if self.ranks.is_main:
            passes = {f"pass_at_{k}": result.pass_at(k) for k in range(1, EVAL_SAMPLES + 1)}
            self.log.write(step=step, **passes)
            write_records(self.folder / "chat_rl" / f"val_{step:06d}.jsonl", result.records)
        return result

    def save(self) -> None:
        """Collective."""
        tensors = self.optimizer.full_state()
        options = result_options(self.config)
        if self.ranks.is_main:
            save_checkpoint(
                self.folder / "rl",
                self.position.step,
                model=self.model,
                tokenizer=self.engine.tokenizer,
                meta={"stage": "chat_rl", "lr_scale": self.lr_scale, "options": options},
                train=TrainState(tensors, {"position": asdict(self.position), "options": options}),
            )
        self.ranks.barrier()


def _without_chance(result: EvalResult) -> Measure:
    """Not one of the tasks that an evaluation takes the mean of."""
    return replace(result.measure, chance=None)


def _count(replies: list[list[Reply]]) -> dict[str, float]:
    every = [reply for of_question in replies for reply in of_question]
    return {
        "replies": len(every),
        "drawn": sum(reply.num_drawn for reply in every),
        "reward": math.fsum(reply.reward for reply in every),
        "cut": sum(reply.is_cut for reply in every),
        "empty": sum(reply.num_drawn <= 1 and not reply.is_cut for reply in every),
        "flat_questions": sum(
            bool(of_question) and all(reply.advantage == 0.0 for reply in of_question)
            for of_question in replies
        ),
        "too_long": sum(not of_question for of_question in replies),
    }


def _sum(ranks: Ranks, figures: dict[str, float]) -> dict[str, float]:
    """Over all ranks."""
    if ranks.world_size == 1:
        return figures
    values = torch.tensor([*figures.values()], dtype=torch.float64, device=ranks.device)
    return dict(zip(figures, ranks.sum(values).tolist(), strict=True))


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
            "pass_at_1": _without_chance(result),
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
