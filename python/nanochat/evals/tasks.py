"""Accuracy on tasks, with the interval that the number of examples allows.

Multiple choice compares how likely each choice is as a reply, a letter or a few words, one forward
pass per batch of prompts of similar length. Generative prompts are answered by the engine,
greedily and with tools, and the task's own rule reads the reply. A prompt that does not fit the
context counts as wrong and is reported. Ranks share the examples when a process group is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from nanochat.common.record import Measure
from nanochat.data.tinyworld.draw import Split
from nanochat.engine import Completion, Engine, Sampling
from nanochat.model import GPT
from nanochat.tasks import Example, Task

CHOICE_TOKENS = 16_384  # of a forward pass over multiple-choice prompts, padding included
GENERATE_AT_ONCE = 64  # prompts handed to the engine between two reports of progress

Progress = Callable[[str, int, int], None]  # task, examples done, examples of this rank
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One task on one model. ``records`` has a JSON object per example, in order."""

    name: str
    num_examples: int
    num_correct: int
    num_too_long: int  # did not fit the context; counted as wrong
    chance: float
    seconds: float
    records: tuple[Record, ...]

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples

    @property
    def centred(self) -> float:
        """0 is guessing, 1 is perfect."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.num_correct, self.num_examples)

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
        )


def mean_centred(results: Sequence[EvalResult]) -> float:
    """The one number for a list of tasks: the mean of their centred accuracies."""
    return sum(result.centred for result in results) / len(results)


def wilson_interval(num_correct: int, num_examples: int) -> tuple[float, float]:
    """95 % interval of a proportion; sound for few examples and near 0 and 1.

    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    z, n, p = 1.959964, num_examples, num_correct / num_examples
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def run_tasks(
    engine: Engine,
    tasks: Sequence[Task],
    *,
    split: Split = "val",
    num_examples: int = 200,
    max_tokens: int = 128,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[EvalResult]:
    """Ask ``engine`` the examples of every task; each rank asks its share, all get all results.

    Args:
        num_examples: Of each task, or as many as its split has.
        max_tokens: Longest reply to a generative prompt.
        on_progress: Called with the task's name, examples done, examples to do on this rank.
    Raises: ValueError if a task has no examples, or choices that are not one token each.
    """
    results = []
    for task in tasks:
        started = time.perf_counter()
        examples = task.examples(split, n=num_examples, seed=seed)
        if not examples:
            raise ValueError(f"tasks: {task.name} must have examples in {split}, got none")
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
        share = examples[rank::world_size]

        def report(num_done: int, name: str = task.name, total: int = len(share)) -> None:
            if on_progress is not None:
                on_progress(name, num_done, total)

        ask = _choose if task.kind == "multiple_choice" else _generate
        replies = ask(engine, share, max_tokens, report)
        records = [
            {
                "task": task.name,
                "index": rank + i * world_size,
                "prompt": example.messages[-1]["content"],
                "reference": _text_of(example.reference["content"]),
                "correct": bool(reply["reason"] != TOO_LONG and example.check(reply["text"])),
                **reply,
            }
            for i, (example, reply) in enumerate(zip(share, replies, strict=True))
        ]
        records = sorted(_gather(records), key=lambda record: int(record["index"]))
        results.append(
            EvalResult(
                name=task.name,
                num_examples=len(records),
                num_correct=sum(record["correct"] for record in records),
                num_too_long=sum(record["reason"] == TOO_LONG for record in records),
                chance=task.chance,
                seconds=time.perf_counter() - started,
                records=tuple(records),
            )
        )
    return results


TOO_LONG = "too_long"  # the reason of a reply that was never asked for
_UNASKED: Record = {"text": "", "reason": TOO_LONG}


def _choose(
    engine: Engine, examples: Sequence[Example], _: int, report: Callable[[int], None]
) -> list[Record]:
    """For each example the choice that is the likeliest reply to the prompt."""
    tokenizer, model = engine.tokenizer, engine.model
    if model is None:
        raise ValueError("tasks: choices are scored by the PyTorch model; make the engine from it")
    prompts = [tokenizer.render_prompt(example.prompt) for example in examples]
    rows = [
        (i, c, prompt, tokenizer.encode(choice))
        for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True))
        for c, choice in enumerate(example.choices)
    ]
    limit = engine.context + 1  # the last token of a reply is only predicted
    too_long = {i for i, _, prompt, reply in rows if len(prompt) + len(reply) > limit}
    rows = sorted((row for row in rows if row[0] not in too_long), key=lambda row: len(row[2]))
    scores = [[0.0] * len(example.choices) for example in examples]
    while rows:
        # Longest first: the first batch decides the memory.
        size = max(1, CHOICE_TOKENS // len(rows[-1][2]))
        batch, rows = rows[-size:], rows[:-size]
        nats = reply_nats(model, [row[2:] for row in batch], pad=tokenizer.bos)
        for (i, c, _prompt, _reply), value in zip(batch, nats.tolist(), strict=True):
            scores[i][c] = value
        report(len(examples) - len({i for i, *_ in rows}))
    return [
        dict(_UNASKED)
        if i in too_long
        else {"text": example.choices[min_index(scores[i])], "reason": "stop"}
        for i, example in enumerate(examples)
    ]


def min_index(values: Sequence[float]) -> int:
    """Index of the smallest, the first of equals."""
    return min(range(len(values)), key=values.__getitem__)


@torch.no_grad()
def reply_nats(
    model: GPT, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, pad: int
) -> torch.Tensor:
    """-log p of each reply after its prompt, nats, (B,) fp32 on the host; pairs of token ids."""
    width = max(len(prompt) + len(reply) for prompt, reply in pairs) - 1
    ids = torch.full((len(pairs), width), pad)
    targets = torch.full((len(pairs), width), -1)
    for row, target, (prompt, reply) in zip(ids, targets, pairs, strict=True):
        whole = torch.tensor([*prompt, *reply])
        row[: len(whole) - 1] = whole[:-1]  # what is right of a reply is never seen by it
        target[len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    device = next(model.parameters()).device
    return model.nats(ids.to(device), targets.to(device)).sum(dim=1).cpu()


def _generate(
    engine: Engine, examples: Sequence[Example], max_tokens: int, report: Callable[[int], None]
) -> list[Record]:
    """The engine's greedy reply to each example."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, seed=0)
    prompts = [engine.tokenizer.render_prompt(example.prompt) for example in examples]
    replies = [dict(_UNASKED) for _ in examples]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.context]
    num_done = len(prompts) - len(fitting)
    for start in range(0, len(fitting), GENERATE_AT_ONCE):
        asked = fitting[start : start + GENERATE_AT_ONCE]
        completions = engine.generate([prompts[i] for i in asked], sampling)
        for i, completion in zip(asked, completions, strict=True):
            parts = content_parts(completion)
            replies[i] = {"text": completion.text, "reason": completion.reason}
            if any(part["type"] != "text" for part in parts):
                replies[i]["parts"] = parts
        num_done += len(asked)
        report(num_done)
    return replies


_PART_OF_PIECE = {"text": "text", "tool_call": "python", "tool_output": "python_output"}


def content_parts(completion: Completion) -> list[dict[str, str]]:
    """The reply as content of an assistant message; neighbouring stretches of text are joined."""
    parts: list[dict[str, str]] = []
    for piece in completion.pieces:
        kind = _PART_OF_PIECE[piece.kind]
        if kind == "text" and parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += piece.text
        else:
            parts.append({"type": kind, "text": piece.text})
    return parts


def _text_of(content: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _gather(records: list[Record]) -> list[Record]:
    """Those of all ranks, on every rank."""
    if not _is_distributed():
        return records
    shares: list[list[Record]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, records)
    return [record for share in shares for record in share]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
