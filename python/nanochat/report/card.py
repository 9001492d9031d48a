"""``report.md``: what a run did, measured and cost, from the files that it left.

A pure function of the run folder and of a price: it can be made again at any time, of an
unfinished run too. Stages without a record are said to be missing. Costs a second, most of it for
the plots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.common.errors import UserError
from nanochat.common.figures import count, dollars, duration
from nanochat.common.hardware import Hardware
from nanochat.common.paths import atomic_write
from nanochat.common.record import Measure, StageRecord, read_metrics, read_stages
from nanochat.report import tables
from nanochat.report.plots import plot_training
from nanochat.report.tables import Records, Table

MAX_CONVERSATIONS = 3


def write_card(run_dir: Path, *, dollars_per_hour: float = 0.0) -> Path:
    """Make ``run_dir/report.md`` and its ``plots/``. Returns the path of the page.

    Args:
        dollars_per_hour: Price of the machine, 0 for one that is owned.
    Raises: UserError if the folder holds no stage at all, or a record that cannot be read.
    """
    records = read_stages(run_dir)
    logs = sorted(run_dir.glob("*/metrics.jsonl"))
    if not records and not logs:
        raise UserError(f"report: no stage has left a record in {run_dir}; run the speedrun first")
    plots = {}
    for log in logs:
        stage = log.parent.name
        image = run_dir / "plots" / f"{stage}.png"
        bounds = _bounds(records.values())
        if plot_training(read_metrics(log), image, title=stage, bounds=bounds):
            plots[stage] = image.relative_to(run_dir).as_posix()
    path = run_dir / "report.md"
    atomic_write(path, render(records, plots, dollars_per_hour=dollars_per_hour))
    return path


def render(records: Records, plots: Mapping[str, str], *, dollars_per_hour: float) -> str:
    """The page; ``plots`` maps a stage to the address of its image."""
    sections = [
        ["# nanochat report card", headline(records, dollars_per_hour=dollars_per_hour)],
        ["## Measures", *_measures(records)],
        ["## Training", *_training(plots)],
        ["## Conversations", *_conversations(records)],
        *([["## The base model continues", *_samples(records)]] if _samples(records) else []),
        ["## Time and cost", *_cost(records, dollars_per_hour)],
        ["## Machine", *_machine(records)],
        ["## Talk to it", *_talk(records)],
        ["## The command for every number", *_commands(records, dollars_per_hour)],
    ]
    return "\n\n".join(part for section in sections for part in section) + "\n"


def headline(records: Records, *, dollars_per_hour: float) -> str:
    """Two sentences for somebody who reads nothing else."""
    parts = []
    if "base_train" in records:
        metrics = records["base_train"].metrics
        for name, noun in (("num_parameters", "parameters"), ("num_tokens", "training tokens")):
            if isinstance(measure := metrics.get(name), Measure):
                parts.append(f"{count(measure.value)} {noun}")
    seconds = tables.total_seconds(records)
    cost = dollars(seconds / 3600 * dollars_per_hour)
    parts.append(f"{len(records)} stages in {duration(seconds)} for {cost}")
    missing = [stage for stage in tables.JOURNEY if stage not in records]
    if not missing:
        return ", ".join(parts) + "."
    return f"{', '.join(parts)}. The journey is not complete, no record of: {', '.join(missing)}."


def _measures(records: Records) -> Iterable[str]:
    table = tables.measures(records)
    if not table.rows:
        yield "No model has been evaluated yet."
        return
    yield _markdown(table)
    yield (
        "`bpb` is bits per byte of text that the model has not seen, lower is better; a floor is "
        "the entropy of the generator itself. `val bpb` is on documents for the base model and on "
        "conversations for a chat model, so the two do not compare. Accuracies carry their 95 % "
        "Wilson interval."
    )


def _training(plots: Mapping[str, str]) -> Iterable[str]:
    if not plots:
        yield "No training stage has left a log yet."
    for stage, image in plots.items():
        yield f"![loss and throughput of {stage}]({image})"


def _conversations(records: Records) -> Iterable[str]:
    """Of the last stage that sampled any."""
    for stage, record in reversed(list(records.items())):
        if record.conversations:
            chosen = record.conversations[:MAX_CONVERSATIONS]
            yield f"Sampled by `{stage}`, neither chosen nor edited."
            yield "\n\n---\n\n".join(render_conversation(c["messages"]) for c in chosen)
            return
    yield "None has been sampled yet."


def _samples(records: Records) -> list[str]:
    return [_quote(_escape(text)) for record in records.values() for text in record.samples]


def render_conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as quotes under their speaker; a tool call reads ``12*7`` = ``84``."""
    speakers = {"user": "You", "assistant": "nanochat", "system": "System"}
    return "\n\n".join(
        f"**{speakers[message['role']]}**\n\n{_quote(_content(message['content']))}"
        for message in messages
    )


def _content(content: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(content, str):
        return _escape(content)
    text = ""
    for part in content:
        if part["type"] == "python":
            text += f" [calculator: {_code(part['text'])}"
        elif part["type"] == "python_output":
            text += f" = {_code(part['text'])}] "
        else:
            text += _escape(part["text"])
    return re.sub(r" {2,}", " ", text).strip()


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _escape(text: str) -> str:
    """Model output is data: nothing in it may act as markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", text)


def _code(text: str) -> str:
    """A code span that no backtick inside can end, on one line, safe in a table cell."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}".replace("|", r"\|")


def _cost(records: Records, dollars_per_hour: float) -> Iterable[str]:
    yield _markdown(tables.stages(records, dollars_per_hour=dollars_per_hour))
    if dollars_per_hour:
        yield f"At {dollars(dollars_per_hour)} an hour."
    else:
        yield "No price per hour was given: a machine that one owns costs $0, electricity aside."


def _machine(records: Records) -> Iterable[str]:
    """One table per distinct machine, each naming its stages if there are several."""
    machines: dict[Hardware, list[str]] = {}
    for stage, record in records.items():
        if record.hardware is not None:
            machines.setdefault(record.hardware, []).append(stage)
    if not machines:
        yield "Not known: no stage is complete."
    for hardware, stages in machines.items():
        if len(machines) > 1:
            yield f"Ran {', '.join(stages)}:"
        commits = dict.fromkeys(records[stage].commit for stage in stages)
        yield _markdown(tables.machine(hardware, [commit for commit in commits if commit]))
    served = [record for record in records.values() if record.backends]
    if served:
        yield _markdown(tables.backends(served[-1]))


def _talk(records: Records) -> Iterable[str]:
    trained = {record.model for record in records.values()}
    models = [model for model in tables.MODELS if model in trained]
    if not models:
        yield "There is no model yet."
        return
    yield "In the folder of this page:"
    yield (
        "```\n"
        f"nanochat chat-web --checkpoint {models[-1]}    # prints the address of a page\n"
        f"nanochat chat-cli --checkpoint {models[-1]}    # in this terminal\n"
        "```"
    )


def _commands(records: Records, dollars_per_hour: float) -> Iterable[str]:
    if records:
        yield _markdown(tables.commands(records), code={1})
    price = f" --dollars-per-hour {dollars_per_hour:g}" if dollars_per_hour else ""
    yield f"This page, in its folder, from the files there alone: `nanochat report --out .{price}`"


def _markdown(table: Table, *, code: set[int] | None = None) -> str:
    """A pipe table; the columns in ``code`` are set as code."""
    lines = [table.header, tuple("---" for _ in table.header)]
    for row in table.rows:
        cells = (
            (_code(cell) if cell else "") if column in (code or ()) else _escape(cell)
            for column, cell in enumerate(row)
        )
        lines.append(tuple(cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bounds(records: Iterable[StageRecord]) -> dict[str, float]:
    return {
        name: measure.bound
        for record in records
        for name, measure in record.metrics.items()
        if isinstance(measure, Measure) and measure.bound is not None
    }
