"""The report card of one run: what it did, measured and cost.

A pure function of the run folder and of a price: it can be made again at any time, of an unfinished
run too. Stages without a record are said to be missing. Costs some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from nanochat.common.figures import count, dollars, duration
from nanochat.report import tables
from nanochat.report.content import (
    Block,
    Code,
    Console,
    Facts,
    Page,
    Paragraph,
    Sample,
    Section,
)
from nanochat.report.measures import label, show
from nanochat.report.plots import accuracy_figures, training_figures
from nanochat.report.runs import MODELS, Run

MAX_CONVERSATIONS = 3
CHARTS_EXPLAINED = (
    "Faint lines are single steps, the others running means. Loss is in nats per target token; of "
    "a log of 200 steps or more the first 2 % are left out. That of reinforcement learning is the "
    "objective, whose level says little."
)
HEADLINE_MEASURES = ("core", "chat_core", "mean_centred", "val_bpb")


def card(run: Run, *, dollars_per_hour: float) -> Page:
    """What there is to say about ``run``."""
    sections = [
        Section("Measures", tuple(_measures(run))),
        Section("Beside published models", tuple(_published(run, dollars_per_hour))),
        Section("Training", tuple(_training(run))),
        Section("Conversations", tuple(_conversations(run))),
        Section("The base model continues", tuple(_samples(run))),
        Section("Time and cost", tuple(_time(run, dollars_per_hour))),
        Section("Setup", tuple(_setup(run))),
        Section("Talk to it", tuple(_talk(run))),
        Section("The command for every number", tuple(_commands(run, dollars_per_hour))),
    ]
    return Page(
        f"nanochat report card: {run.name}",
        facts(run, dollars_per_hour=dollars_per_hour),
        tuple(_notes(run)),
        tuple(section for section in sections if section.blocks),
    )


def facts(run: Run, *, dollars_per_hour: float) -> Facts:
    """For somebody who reads nothing else."""
    items = []
    base = run.measures("base")
    for name in ("num_parameters", "num_tokens"):
        if name in base:
            items.append((count(base[name].measure.value), label(name)))
    for name in HEADLINE_MEASURES:
        models = [model for model in run.models if name in run.measures(model)]
        if models:
            # Of the last model; but text is that of documents, which a chat model is not for.
            model = models[0] if name == "val_bpb" else models[-1]
            value = show(name, run.measures(model)[name].measure).split(" (")[0]
            items.append((value, f"{label(name)}, {model} model"))
    stages = f"{len(run.records)} stage{'s' * (len(run.records) != 1)}"
    cost = dollars(run.seconds / 3600 * dollars_per_hour)
    items.append((duration(run.seconds), f"for {stages}, {cost}"))
    return Facts(tuple(items))


def _notes(run: Run) -> Iterator[Paragraph]:
    if run.records:
        began = next(iter(run.records.values())).started
        machines = "; ".join(tables.machine_name(hardware) for hardware in run.machines)
        commits = dict.fromkeys(record.commit or "unknown" for record in run.records.values())
        codes = tables.codes(commits)
        yield Paragraph((f"Begun {began[:10]} on {machines}, commit ", *codes, "."))
    if run.missing:
        stages = tables.codes(run.missing)
        yield Paragraph(("The journey is not complete, no record of ", *stages, "."))


def _measures(run: Run) -> Iterator[Block]:
    table = tables.measures(run)
    if not table.rows:
        yield Paragraph("No model has been evaluated yet.")
        return
    yield table
    yield from accuracy_figures([run])
    yield Paragraph(
        "bpb is bits per byte of text that the model has not seen, lower is better; a floor is the "
        "entropy of the generator itself. val bpb is on documents for the base model and on "
        "conversations for a chat model, so the two do not compare. Accuracies carry their 95 % "
        "Wilson interval; a centred score is 0 for guessing and 1 for all right. Prompts that did "
        "not fit the context and replies without an answer count as wrong; malformed rows were not "
        "asked."
    )


def _published(run: Run, dollars_per_hour: float) -> Iterator[Block]:
    found = (
        tables.published(run, model, dollars_per_hour=dollars_per_hour) for model in run.models
    )
    shown = [table for table in found if table is not None]
    yield from shown
    if shown:
        yield Paragraph(
            "Published figures are their authors'; none was measured here. Times and costs are up "
            "to that model; those of nanochat are on 8 H100, those of GPT-2 are estimates for "
            "2019. Scores compare only as far as the examples are the same ones, and bits per "
            "byte only on the same text."
        )


def _training(run: Run) -> Iterator[Block]:
    figures = training_figures([run])
    yield from figures
    if not figures:
        yield Paragraph("No training stage has left a log yet.")
    else:
        yield Paragraph(CHARTS_EXPLAINED)


def _conversations(run: Run) -> Iterator[Block]:
    """Of the last stage that sampled any."""
    stage, conversations = run.conversations()
    if not conversations:
        yield Paragraph("None has been sampled yet.")
        return
    yield Paragraph(("Sampled by ", Code(stage), ", neither chosen nor edited."))
    yield from conversations[:MAX_CONVERSATIONS]


def _samples(run: Run) -> Iterator[Block]:
    for record in run.records.values():
        yield from (Sample(text) for text in record.samples)


def _time(run: Run, dollars_per_hour: float) -> Iterator[Block]:
    yield tables.stages(run, dollars_per_hour=dollars_per_hour)
    yield Paragraph(price(dollars_per_hour))


def price(dollars_per_hour: float) -> str:
    if dollars_per_hour:
        return f"At {dollars(dollars_per_hour)} an hour."
    return "No price per hour was given: a machine that one owns costs $0, electricity aside."


def _setup(run: Run) -> Iterator[Block]:
    """One table per distinct machine, what served the operations, and the options."""
    if not run.machines:
        yield Paragraph("Not known: no stage is complete.")
    for hardware, stages in run.machines.items():
        commits = dict.fromkeys(run.records[stage].commit for stage in stages)
        yield tables.machine(hardware, stages, [commit for commit in commits if commit])
    served = [record.backends for record in run.records.values() if record.backends]
    if served:
        yield tables.backends(served[-1])
    if any(record.config for record in run.records.values()):
        yield tables.options(run)


def _talk(run: Run) -> Iterator[Block]:
    models = [model for model in run.models if model in MODELS]
    if not models:
        yield Paragraph("There is no model yet.")
        return
    yield Paragraph("In the folder of this page:")
    yield Console(
        f"nanochat chat-web --checkpoint {models[-1]}    # prints the address of a page\n"
        f"nanochat chat-cli --checkpoint {models[-1]}    # in this terminal"
    )


def _commands(run: Run, dollars_per_hour: float) -> Iterator[Block]:
    if run.records:
        yield tables.commands(run)
    option = f" --dollars-per-hour {dollars_per_hour:g}" if dollars_per_hour else ""
    command = Code(f"nanochat report --out .{option}")
    yield Paragraph(("This page, in its folder, from the files there alone: ", command))
