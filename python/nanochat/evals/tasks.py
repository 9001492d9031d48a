"""Accuracy on tasks, with the interval that the number of examples allows.

Multiple choice compares how likely each choice is as a reply (choices.py). Generative prompts are
answered by the engine, greedily or several times at a temperature, with tools, and the task's own
rule reads the replies (generation.py). What cannot be asked or graded is wrong, and counted: rows
of a set that are malformed, prompts longer than the context, replies without an answer, code that
never ends. Ranks share the examples when a process group is up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

from nanochat.common.record import Measure
from nanochat.data.tinyworld.draw import Split
from nanochat.engine import Engine, Sampling
from nanochat.engine.sampling import MAX_SEED
from nanochat.evals.choices import choose
from nanochat.evals.generation import answer
from nanochat.evals.records import Record, gather, num_right, share_of
from nanochat.evals.statistics import mean_interval, pass_at_k, wilson_interval
from nanochat.tasks import Example, Task
from nanochat.tasks.rows import RowTask

Progress = Callable[[str, int, int], None]  # task, examples done, examples of this rank


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One task on one model. ``records`` has a JSON object per example, in order.

    Attributes:
        num_correct: Right samples, of ``num_samples`` for each example.
        num_too_long: Examples that did not fit the context.
        num_unanswered: Samples without a number, a letter or code to grade.
        num_timeouts: Samples whose code did not end in time.
        num_malformed, num_duplicates: Of the whole split: rows that are not among the examples, and
            examples whose prompt was there before.
    """

    name: str
    num_examples: int
    num_correct: int
    num_too_long: int
    chance: float
    seconds: float
    records: tuple[Record, ...]
    num_samples: int = 1
    num_unanswered: int = 0
    num_timeouts: int = 0
    num_malformed: int = 0
    num_duplicates: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right samples: with several of each example, the mean of pass@1."""
        return self.num_correct / (self.num_examples * self.num_samples)

    @property
    def centred(self) -> float:
        """0 is guessing, 1 is perfect."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def interval(self) -> tuple[float, float]:
        if self.num_samples == 1:
            return wilson_interval(self.num_correct, self.num_examples)
        return mean_interval([num_right(record) / self.num_samples for record in self.records])

    @property
    def measure(self) -> Measure:
        """For the record of a stage."""
        low, high = self.interval
        return Measure(
            value=self.accuracy,
            low=low,
            high=high,
            chance=self.chance,
            num_examples=self.num_examples,
            num_malformed=self.num_malformed,
            num_too_long=self.num_too_long,
            num_unanswered=self.num_unanswered,
        )

    def pass_at(self, k: int) -> float:
        """Chance that one of ``k`` samples is right, mean over the examples."""
        return fmean(pass_at_k(self.num_samples, num_right(r), k) for r in self.records)

    @property
    def passes(self) -> dict[int, float]:
        """pass@k for k = 2, 4, 8, ... and all samples; empty if there is one of each example."""
        n = self.num_samples
        powers = {1 << i for i in range(1, n.bit_length())}
        return {k: self.pass_at(k) for k in sorted({*powers, n} - {1})}

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Right samples and all samples of each group, by name; empty if the task has none."""
        found: dict[str, tuple[int, int]] = {}
        for record in self.records:
            if group := record.get("group"):
                right, total = found.get(group, (0, 0))
                found[group] = (right + num_right(record), total + self.num_samples)
        return dict(sorted(found.items()))

    @property
    def row(self) -> dict[str, Any]:
        """All but the records, JSON-ready: a line of a table."""
        low, high = self.interval
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "records"}
        return {
            **counts,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "centred": self.centred,
            "pass_at": self.passes,
            "groups": {name: right / total for name, (right, total) in self.groups.items()},
        }


def mean_centred(results: Sequence[EvalResult]) -> float:
    """The one number for a list of tasks: the mean of their centred accuracies."""
    return sum(result.centred for result in results) / len(results)


def run_tasks(
    engine: Engine,
    tasks: Sequence[Task],
    *,
    split: Split = "val",
    num_examples: int = 200,
    max_tokens: int = 128,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[EvalResult]:
    """Ask ``engine`` the examples of every task; each rank asks its share, all get all results.

    Args:
        num_examples: Of each task, or as many as its split has.
        max_tokens: Longest reply to a generative prompt.
        num_samples: Replies to each generative prompt, for pass@k.
        temperature, top_k: Of those replies; as in :class:`nanochat.engine.Sampling`.
        seed: Of the choice of examples, and of the replies.
        on_progress: Called with the task's name, examples done, examples to do on this rank.
    Raises: ValueError if a task has no examples, or several samples are asked for greedily.
    """
    if num_samples > 1 and temperature == 0:
        raise ValueError("tasks: several samples need a temperature above 0, else they are one")
    return [
        _run(
            engine,
            task,
            split=split,
            num_examples=num_examples,
            sampling=Sampling(
                max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed
            ),
            num_samples=1 if task.kind == "multiple_choice" else num_samples,
            on_progress=on_progress,
        )
        for task in tasks
    ]


def _run(
    engine: Engine,
    task: Task,
    *,
    split: Split,
    num_examples: int,
    sampling: Sampling,
    num_samples: int,
    on_progress: Progress | None,
) -> EvalResult:
    started = time.perf_counter()
    assert sampling.seed is not None
    examples = task.examples(split, n=num_examples, seed=sampling.seed)
    if not examples:
        raise ValueError(f"tasks: {task.name} must have examples in {split}, got none")
    indices = share_of(len(examples))
    share = [examples[i] for i in indices]

    def report(num_done: int) -> None:
        if on_progress is not None:
            on_progress(task.name, num_done, len(share))

    if task.kind == "multiple_choice":
        replies = [[reply] for reply in choose(engine, share, report)]
    else:
        # Each prompt has noise of its own, whichever rank asks it.
        samplings = [replace(sampling, seed=(sampling.seed + i) % MAX_SEED) for i in indices]
        replies = answer(engine, share, samplings, num_samples=num_samples, report=report)
    records = gather(
        [
            _record(task.name, index, example, samples)
            for index, example, samples in zip(indices, share, replies, strict=True)
        ]
    )
    verdicts = Counter(
        sample["verdict"] for record in records for sample in record.get("samples", [record])
    )
    loaded = task.load(split) if isinstance(task, RowTask) else None
    return EvalResult(
        name=task.name,
        num_examples=len(records),
        num_correct=verdicts["right"],
        num_too_long=verdicts["too_long"] // num_samples,
        num_unanswered=verdicts["unanswered"],
        num_timeouts=verdicts["timeout"],
        num_malformed=loaded.num_malformed if loaded else 0,
        num_duplicates=loaded.num_duplicates if loaded else 0,
        num_samples=num_samples,
        chance=task.chance,
        seconds=time.perf_counter() - started,
        records=tuple(records),
    )


def _record(task: str, index: int, example: Example, samples: Sequence[Record]) -> Record:
    record: Record = {
        "task": task,
        "index": index,
        "prompt": example.messages[-1]["content"],
        "reference": _text_of(example.reference["content"]),
    }
    if example.group:
        record["group"] = example.group
    if len(samples) == 1:
        return {**record, "correct": samples[0]["verdict"] == "right", **samples[0]}
    num_correct = sum(sample["verdict"] == "right" for sample in samples)
    return {**record, "num_correct": num_correct, "samples": list(samples)}


def _text_of(content: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
