"""A run as the report sees it: the records, logs and answers in its folder, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common.errors import UserError
from nanochat.common.hardware import Hardware
from nanochat.common.record import Measure, StageRecord, read_metrics, read_stages
from nanochat.evals.records import num_right
from nanochat.report.content import Conversation, Message, Part
from nanochat.report.measures import ordered
from nanochat.tasks.files import read_rows
from nanochat.tokenizer.conversation import validate

# The journey in order: what each stage is called, and what a run without its record lacks.
JOURNEY = {
    "tok_train": "tokenizer",
    "base_train": "pretraining",
    "base_eval": "evaluation of the base model",
    "chat_sft": "finetuning on conversations",
    "chat_eval": "evaluation of the chat model",
}
BESIDE = {
    "tok_eval": "evaluation of the tokenizer",
    "chat_rl": "reinforcement learning",
    "chat_eval_rl": "evaluation of the model after it",
}
MODELS = ("base", "sft", "rl")
SPEAKERS = {"user": "You", "assistant": "nanochat", "system": "System"}

Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """A measure and the stage that took it."""

    measure: Measure
    stage: str


@dataclass(frozen=True)
class Answer:
    """What became of one example of a task; ``share`` of its samples that are right."""

    prompt: str
    share: float


@dataclass(frozen=True)
class Run:
    """``records`` by stage, oldest first; ``logs`` of the stages that train, finished or not."""

    name: str
    folder: Path
    records: Mapping[str, StageRecord]
    logs: Mapping[str, Rows]

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.records.values())

    def seconds_until(self, model: str) -> float:
        """Of all stages up to the last one of ``model``."""
        seconds = found = 0.0
        for record in self.records.values():
            seconds += record.seconds
            if record.model == model:
                found = seconds
        return found

    @property
    def missing(self) -> list[str]:
        return [stage for stage in JOURNEY if stage not in self.records]

    @property
    def models(self) -> list[str]:
        """Those with records, in the order in which they are trained."""
        named = dict.fromkeys(record.model for record in self.records.values() if record.model)
        return sorted(named, key=lambda m: MODELS.index(m) if m in MODELS else len(MODELS))

    @property
    def machines(self) -> dict[Hardware, list[str]]:
        """Each distinct machine and the stages that it ran."""
        machines: dict[Hardware, list[str]] = {}
        for stage, record in self.records.items():
            if record.hardware is not None:
                machines.setdefault(record.hardware, []).append(stage)
        return machines

    @property
    def bounds(self) -> dict[str, float]:
        """The floor of a measure by its name."""
        return {
            name: found.measure.bound
            for model in self.models
            for name, found in self.measures(model).items()
            if found.measure.bound is not None
        }

    def measures(self, model: str) -> dict[str, Measured]:
        """All of ``model`` by name; a later stage wins."""
        return {
            name: Measured(measure, stage)
            for stage, record in self.records.items()
            if record.model == model
            for name, measure in record.metrics.items()
            if isinstance(measure, Measure)
        }

    def ordered_measures(self, model: str) -> list[tuple[str, Measured]]:
        """The same in the order of a table."""
        found = self.measures(model)
        return [
            (name, found[name]) for name, _ in ordered((n, f.measure) for n, f in found.items())
        ]

    def conversations(self) -> tuple[str, list[Conversation]]:
        """The last stage that held any, and those; empty if none did.

        Raises: UserError for a record with something else in the place of a conversation.
        """
        for stage, record in reversed(list(self.records.items())):
            if record.conversations:
                return stage, [self._conversation(stage, c) for c in record.conversations]
        return "", []

    def _conversation(self, stage: str, conversation: Mapping[str, Any]) -> Conversation:
        try:
            validate(conversation)
        except ValueError as error:
            path = self.folder / stage / "stage.json"
            raise UserError(f"report: cannot read {path}: {error}; run the stage again") from error
        return Conversation(
            tuple(
                Message(SPEAKERS[message["role"]], _parts(message["content"]))
                for message in conversation["messages"]
            )
        )

    def answers(self, stage: str, name: str) -> dict[int, Answer]:
        """Example by example, by index; empty where the stage kept none. Torn lines are skipped."""
        folder = self.folder / stage
        path = folder / f"{name}.jsonl"
        if name.startswith("core_"):
            path = folder / "core" / f"{name.removeprefix('core_')}.jsonl"
        found = {}
        for row in read_rows(path).rows if path.exists() else ():
            try:
                share = num_right(row) / len(row.get("samples", [1]))
                found[int(row["index"])] = Answer(str(row["prompt"]), share)
            except (ValueError, KeyError, TypeError, OverflowError, ZeroDivisionError):
                continue
        return found


def _parts(content: str | Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Part("text", content),)
    return tuple(Part(part["type"], part["text"]) for part in content)


def read_run(folder: Path, name: str | None = None) -> Run:
    """The run in ``folder``, called like it if no ``name`` is given.

    Raises: UserError if no stage has left anything there, or a record that cannot be read.
    """
    records = read_stages(folder)
    paths = sorted(folder.glob("*/metrics.jsonl"))
    if not records and not paths:
        raise UserError(f"report: no stage has left a record in {folder}; run the speedrun first")
    order = [*JOURNEY, *BESIDE]
    stages = [path.parent.name for path in paths]
    stages.sort(key=lambda stage: order.index(stage) if stage in order else len(order))
    logs = {stage: read_metrics(folder / stage / "metrics.jsonl") for stage in stages}
    return Run(name or folder.resolve().name, folder, records, logs)
