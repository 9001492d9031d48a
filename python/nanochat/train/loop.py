"""The training loop that pretraining and finetuning share.

One step: every rank sums -log p over its micro-batches, divided by the number of targets of the
whole step over all ranks (the loader knows it), so gradients add up to those of one mean over all
tokens. A micro-batch without targets adds zero, and a step without any leaves the weights alone:
momentum would move them without a reason. The optimizer reduces over ranks.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.common.console import ticker
from nanochat.common.errors import UserError
from nanochat.common.ranks import Ranks
from nanochat.common.record import MetricsLog
from nanochat.data import Step
from nanochat.model import GPT
from nanochat.optim import MuonAdamW


@dataclass
class Position:
    """How far a run has come; JSON, saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in training steps, over all starts of the run
    wall_seconds: float = 0.0  # the same with waiting for data, checkpoints and evaluations
    loader: Any = None  # state of the loader after ``step`` steps


@dataclass(frozen=True)
class Evaluation:
    """What is measured every so many steps."""

    every: int
    measure: Callable[[], dict[str, float]]  # name of a figure: value; called by all ranks


def train(
    model: GPT,
    optimizer: MuonAdamW,
    steps: Iterable[Step],
    *,
    ranks: Ranks,
    title: str,
    num_steps: int,
    position: Position,
    set_rates: Callable[[int], float],
    evaluations: Sequence[Evaluation],
    save: Callable[[Position], None],
    save_every: int,
    log: MetricsLog,
) -> dict[str, float]:
    """Take ``num_steps`` steps in all, starting behind ``position``, which is advanced.

    Args:
        set_rates: Called with the step before it is taken; sets learning rates, momentum and decay,
            returns the learning-rate multiplier for the log.
        evaluations: Each at its own pace, and all at the end; their figures go to the metrics.
        save: Called every ``save_every`` steps and at the end, before the evaluation of that step.
    Returns: What the evaluations say of the final weights.
    Raises: UserError when the loss is not finite; the last checkpoint is then intact.
    """
    with ticker(title, num_steps, done=position.step, quiet=not ranks.is_main) as bar:
        smooth_loss = 0.0
        figures: dict[str, float] = {}  # of the weights after the last step
        mark = time.perf_counter()
        first = position.step
        for step in itertools.islice(steps, num_steps - first):
            start = time.perf_counter()
            rate = set_rates(position.step)
            loss = _step(model, optimizer, step, ranks)
            if not math.isfinite(loss):
                raise UserError(
                    f"{title}: loss is {loss} at step {position.step}; the last checkpoint is "
                    "intact, lower the learning rate or look at the data"
                )
            elapsed = time.perf_counter() - start
            num_tokens = step.inputs.numel() * ranks.world_size
            position.step += 1
            position.tokens += num_tokens
            position.seconds += elapsed
            position.loader = step.state
            weight = 1.0 / min(position.step - first, 20)
            smooth_loss += weight * (loss - smooth_loss)
            row: dict[str, Any] = {
                "step": position.step,
                "tokens": position.tokens,
                "loss": loss,
                "lr": rate,
                "tokens_per_second": num_tokens / elapsed,
                "seconds": position.seconds,
            }
            position.wall_seconds += time.perf_counter() - mark
            mark = time.perf_counter()
            is_last = position.step == num_steps
            if is_last or position.step % save_every == 0:
                save(position)
            due = [e for e in evaluations if is_last or position.step % e.every == 0]
            figures = _measured(due)
            row |= figures
            if ranks.is_main:
                log.write(**row)
            bar.update(
                position.step,
                loss=f"{smooth_loss:.4f}",
                tokens_per_s=f"{position.tokens / position.seconds:,.0f}",
            )
        if first == num_steps:  # nothing was left to do but this
            figures = _measured(evaluations)
        position.wall_seconds += time.perf_counter() - mark
    return figures


def _measured(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    return {name: value for e in evaluations for name, value in e.measure().items()}


def _step(model: GPT, optimizer: MuonAdamW, step: Step, ranks: Ranks) -> float:
    """Gradients of one step, the update, and the mean loss over all targets of the step."""
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=ranks.device)
    scale = 1.0 / max(1, step.num_targets)
    for inputs, targets in zip(step.inputs, step.targets, strict=True):
        loss: Tensor = model.loss(inputs.to(ranks.device), targets.to(ranks.device)) * scale
        loss.backward()
        total += loss.detach()
    mean_loss = float(ranks.sum(total))
    if math.isfinite(mean_loss) and step.num_targets > 0:
        optimizer.step()
    return mean_loss
