"""Steps of reinforcement learning on one rank: replies, an update, now and then an evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nanochat.checkpoint import TrainState, save_checkpoint
from nanochat.common.console import ticker
from nanochat.common.errors import UserError
from nanochat.common.ranks import Ranks
from nanochat.common.record import Measure, MetricsLog
from nanochat.engine import Engine
from nanochat.evals.records import write_records
from nanochat.evals.tasks import EvalResult, run_tasks
from nanochat.model import GPT
from nanochat.optim import MuonAdamW, Schedule
from nanochat.tasks import Example, Task
from nanochat.train.policy_gradient import MicroBatch, micro_batches, policy_loss
from nanochat.train.reward import Reward
from nanochat.train.rollouts import Reply, questions_of, reply_seed, roll_out

if TYPE_CHECKING:
    from nanochat.train.rl import ChatRLConfig

EVAL_SAMPLES = 8  # of each held-out question: pass@1 to pass@8


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


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What the steps of one rank work with; ``position`` and the weights advance."""

    config: ChatRLConfig
    options: dict[str, Any]  # those of it that decide the result
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
                        position.first = asdict(pass_at_1(result))
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
        if self.ranks.is_main:
            save_checkpoint(
                self.folder / "rl",
                self.position.step,
                model=self.model,
                tokenizer=self.engine.tokenizer,
                meta={"stage": "chat_rl", "lr_scale": self.lr_scale, "options": self.options},
                train=TrainState(
                    tensors, {"position": asdict(self.position), "options": self.options}
                ),
            )
        self.ranks.barrier()


def pass_at_1(result: EvalResult) -> Measure:
    """Without a chance: it is not one of the tasks that an evaluation takes the mean of."""
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
