"""The rows of the report, as text. Markdown card and console summary print the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanochat.common.figures import count, dollars, duration, percent
from nanochat.common.hardware import Hardware
from nanochat.common.record import Measure, StageRecord

# The journey in order: what each stage is called in the report and what a missing one lacks.
JOURNEY = {
    "tok_train": "tokenizer",
    "base_train": "pretraining",
    "base_eval": "evaluation of the base model",
    "chat_sft": "finetuning on conversations",
    "chat_eval": "evaluation of the chat model",
}
MODELS = ("base", "sft", "rl")
MISSING = "-"
_ABOUT_TRAINING = ("num_", "total_", "peak_", "tokens_", "packing_", "mfu")  # last among measures

Records = Mapping[str, StageRecord]


@dataclass(frozen=True)
class Table:
    """Header and rows of equal length; the first column names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def machine(hardware: Hardware, commits: Sequence[str]) -> Table:
    gpus = [f"{hardware.gpus.count(name)} x {name}" for name in dict.fromkeys(hardware.gpus)]
    memory = f", {hardware.gpu_memory_gib:.0f} GiB each" if gpus else ""
    cuda = f", CUDA {hardware.cuda}" if hardware.cuda else ", without CUDA"
    return Table(
        ("machine", ""),
        (
            ("CPU", f"{hardware.cpu}, {hardware.num_cores} cores"),
            ("memory", f"{hardware.memory_gib:.1f} GiB"),
            ("GPU", ", ".join(gpus) + memory if gpus else "none"),
            ("system", hardware.system),
            ("software", f"Python {hardware.python}, torch {hardware.torch}{cuda}"),
            ("nanochat", f"{hardware.nanochat}, commit {', '.join(commits) or 'unknown'}"),
        ),
    )


def backends(record: StageRecord) -> Table:
    return Table(("operation", "served by"), tuple(record.backends.items()))


def stages(records: Records, *, dollars_per_hour: float) -> Table:
    """Time and cost of each stage, the missing ones said to be missing, and the sum."""
    rows = []
    for stage in [*JOURNEY, *(name for name in records if name not in JOURNEY)]:
        record = records.get(stage)
        if record is None:
            rows.append((stage, JOURNEY[stage], "no record", MISSING, ""))
        else:
            time = duration(record.seconds)
            cost = dollars(record.seconds / 3600 * dollars_per_hour)
            rows.append((stage, JOURNEY.get(stage, ""), time, cost, _remarks(record)))
    total = total_seconds(records)
    rows.append(("total", "", duration(total), dollars(total / 3600 * dollars_per_hour), ""))
    return Table(("stage", "what", "time", "cost", "figures"), tuple(rows))


def _remarks(record: StageRecord) -> str:
    """Metrics that describe no model, and so have no column among the measures."""
    if record.model:
        return ""
    return ", ".join(
        f"{name.replace('_', ' ')} {format_measure(name, measure)}"
        for name, measure in record.metrics.items()
        if isinstance(measure, Measure)
    )


def total_seconds(records: Records) -> float:
    return sum(record.seconds for record in records.values())


def measures(records: Records) -> Table:
    """One row per metric, one column per model that has any; a later stage of a model wins."""
    columns: dict[str, dict[str, Measure]] = {}
    for record in records.values():
        if record.model:
            measured = {n: v for n, v in record.metrics.items() if isinstance(v, Measure)}
            columns.setdefault(record.model, {}).update(measured)
    models = sorted(columns, key=lambda m: MODELS.index(m) if m in MODELS else len(MODELS))
    names = dict.fromkeys(name for model in models for name in columns[model])
    rows = []
    for name in sorted(names, key=_row_order):
        found = [columns[model].get(name) for model in models]
        against = next((_against(measure) for measure in found if measure is not None), "")
        cells = (MISSING if m is None else format_measure(name, m) for m in found)
        rows.append((name.replace("_", " "), *cells, against))
    return Table(("measure", *models, "compare with"), tuple(rows))


def _row_order(name: str) -> int:
    """Text first, then tasks in the order in which they were measured, then the rest."""
    if name.endswith("_bpb"):
        return 0
    return 2 if name.startswith(_ABOUT_TRAINING) else 1


def format_measure(name: str, measure: Measure) -> str:
    """``measure`` with its unit, which follows from its name, and its interval."""
    value = measure.value
    if name.endswith("_bpb"):
        above = f" ({value / measure.bound - 1:+.1%} over its floor)" if measure.bound else ""
        return f"{value:.4f}{above}"
    if measure.low is not None and measure.high is not None:
        return f"{percent(value)} ({100 * measure.low:.1f} to {100 * measure.high:.1f})"
    if measure.chance is not None or name.endswith(("accuracy", "centred", "mfu", "waste")):
        return percent(value)
    if name.endswith("_gib"):
        return f"{value:.1f} GiB"
    return count(value)


def _against(measure: Measure) -> str:
    parts = []
    if measure.bound is not None:
        parts.append(f"floor {measure.bound:.4f}")
    if measure.chance is not None:
        parts.append(f"chance {percent(measure.chance)}")
    if measure.num_examples is not None:
        parts.append(f"{measure.num_examples:,} examples")
    return ", ".join(parts)


def commands(records: Records) -> Table:
    return Table(
        ("stage", "command", "commit"),
        tuple((name, record.command, record.commit) for name, record in records.items()),
    )
