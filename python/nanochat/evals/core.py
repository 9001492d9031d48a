"""CORE: few-shot accuracy on up to 22 tasks, each centred by what guessing gets, and their mean.

The choice with the lowest mean nats per token wins, the first of equals; a continuation counts when
every token of it is the likeliest. Ranks share the examples when a process group is up. Prompts
longer than the context are cut at the left and counted (core_prompts.py), malformed rows are left
out and counted, and an example whose scores are not finite is wrong and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat.common.record import Measure
from nanochat.evals.core_prompts import CoreExample, Encoder, Prompts
from nanochat.evals.core_tasks import CoreTask, TaskRows
from nanochat.evals.likelihood import Score, Scorer
from nanochat.evals.records import Record, gather, share_of
from nanochat.evals.statistics import Z, wilson_interval

AT_ONCE = 64  # examples handed to the scorer between two reports of progress

Progress = Callable[[int, int, int], None]  # examples done, of so many on this rank; tokens done


@dataclass(frozen=True, kw_only=True)
class CoreResult:
    """One task on one model. ``records`` has a JSON object per example, in order."""

    task: CoreTask
    num_correct: int
    num_malformed: int  # rows left out
    num_cropped: int  # examples whose prompt lost its beginning
    num_not_finite: int  # examples without a score, counted as wrong
    num_tokens: int  # of all rows of the examples, shared or not
    seconds: float
    records: tuple[Record, ...]

    @property
    def num_examples(self) -> int:
        return len(self.records)

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples

    @property
    def centred(self) -> float:
        """0 is guessing, 1 is perfect."""
        return (self.accuracy - self.task.chance) / (1 - self.task.chance)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.num_correct, self.num_examples)

    @property
    def row(self) -> Record:
        """Of a table of tasks, JSON-ready."""
        low, high = self.interval
        return {
            "task": self.task.name,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "chance": self.task.chance,
            "centred": self.centred,
            "num_examples": self.num_examples,
            "num_correct": self.num_correct,
            "num_malformed": self.num_malformed,
            "num_cropped": self.num_cropped,
            "num_not_finite": self.num_not_finite,
            "num_tokens": self.num_tokens,
            "seconds": round(self.seconds, 3),
        }

    @property
    def measure(self) -> Measure:
        """For the record of a stage."""
        low, high = self.interval
        return Measure(
            value=self.accuracy,
            low=low,
            high=high,
            chance=self.task.chance,
            num_examples=self.num_examples,
            num_malformed=self.num_malformed,
            num_cropped=self.num_cropped,
        )


def core_value(results: Sequence[CoreResult]) -> tuple[float, float]:
    """Mean of the centred accuracies, and half the width of its 95 % interval.

    It is CORE only if ``results`` are of all 22 tasks. The interval is that of the examples; other
    seeds of training move CORE by as much (seven runs of one model: 0.251 to 0.268).
    """
    value = sum(result.centred for result in results) / len(results)
    variances = (
        result.accuracy
        * (1 - result.accuracy)
        / (result.num_examples * (1 - result.task.chance) ** 2)
        for result in results
    )
    return value, Z * math.sqrt(sum(variances)) / len(results)


def run_core_task(
    task: CoreTask,
    rows: TaskRows,
    score: Scorer,
    encoder: Encoder,
    *,
    context: int,
    on_progress: Progress | None = None,
) -> CoreResult:
    """Ask a model the examples of ``task``; each rank asks its share, all get the result.

    Args:
        rows: Of the task (:func:`load_rows`).
        score: Of the model (likelihood.py); anything that prices rows of tokens will do.
        encoder: Its tokenizer.
        context: Longest row of tokens that it takes.
    """
    started = time.perf_counter()
    prompts = Prompts(task, rows.rows, encoder, context=context)
    share = share_of(len(prompts))
    records: list[Record] = []
    num_tokens = 0
    for first in range(0, len(share), AT_ONCE):
        examples = [prompts.example(i) for i in share[first : first + AT_ONCE]]
        scores = score([example.rows for example in examples])
        new = [_record(task, *pair) for pair in zip(examples, scores, strict=True)]
        num_tokens += sum(record["num_tokens"] for record in new)
        records += new
        if on_progress is not None:
            on_progress(len(records), len(share), num_tokens)
    records = gather(records)
    return CoreResult(
        task=task,
        num_correct=sum(record["correct"] for record in records),
        num_malformed=rows.num_malformed,
        num_cropped=sum(record["cropped"] > 0 for record in records),
        num_not_finite=sum(None in record["scores"] for record in records),
        num_tokens=sum(record["num_tokens"] for record in records),
        seconds=time.perf_counter() - started,
        records=tuple(records),
    )


def _record(task: CoreTask, example: CoreExample, scores: Sequence[Score]) -> Record:
    means = [score.mean_nats for score in scores]
    is_sound = all(map(math.isfinite, means))
    record: Record = {
        "task": task.name,
        "index": example.index,
        "prompt": example.prompt_sha256,
        "num_tokens": sum(len(row.ids) for row in example.rows),
        "cropped": example.num_cropped,
        "scores": [round(mean, 6) if math.isfinite(mean) else None for mean in means],
    }
    if task.kind == "language_modeling":
        return {**record, "correct": is_sound and scores[0].is_greedy}
    chosen = means.index(min(means)) if is_sound else None  # the first of equals
    return {
        **record,
        "chosen": chosen,
        "gold": example.gold,
        "correct": chosen == example.gold,
    }
