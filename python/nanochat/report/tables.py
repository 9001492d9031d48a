"""The tables of the report. Page and console show the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nanochat.common.figures import count, dollars, duration, percent
from nanochat.common.hardware import Hardware
from nanochat.common.record import Measure
from nanochat.report.compare import Difference, difference
from nanochat.report.content import Code, Inline, Row, Table, Text
from nanochat.report.measures import label, ordered, set_aside, show
from nanochat.report.published import comparable
from nanochat.report.runs import BESIDE, JOURNEY, Run

MISSING = "-"


def measures(run: Run) -> Table:
    """One row per measure, one column per model, then what to hold against it and who took it."""
    columns = {model: run.measures(model) for model in run.models}
    names = {n: found.measure for column in columns.values() for n, found in column.items()}
    rows = []
    for name, kind in ordered(names.items()):
        found = {model: column[name] for model, column in columns.items() if name in column}
        cells = (
            show(name, found[model].measure) if model in found else MISSING for model in columns
        )
        numbers = {
            m: f"{f.measure.num_examples:,}"
            for m, f in found.items()
            if f.measure.num_examples is not None
        }
        aside = {model: set_aside(measured.measure) for model, measured in found.items()}
        stages = dict.fromkeys(measured.stage for measured in found.values())
        rows.append(
            Row(
                (
                    label(name),
                    *cells,
                    _against(names[name]),
                    _by_model(numbers),
                    _by_model(aside),
                    codes(stages),
                ),
                kind,
            )
        )
    header = ("measure", *columns, "compare with", "examples", "irregular", "measured by")
    table = Table("Measures, with 95 % intervals", header, tuple(rows))
    irregular = header.index("irregular")
    if any(row.cells[irregular] for row in rows):
        return table
    return table.without_column("irregular")


def _against(measure: Measure) -> str:
    """Floor and chance are properties of the set, so any model's will do."""
    if measure.bound is not None:
        return f"floor {measure.bound:.4f}"
    return f"chance {percent(measure.chance)}" if measure.chance is not None else ""


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _by_model(texts: Mapping[str, str]) -> str:
    """The text once if it is the same for all models, else model by model."""
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "")
    return "; ".join(f"{model}: {text}" for model, text in texts.items() if text)


def published(run: Run, model: str, *, dollars_per_hour: float) -> Table | None:
    """``model`` of the run beside models that others measured; None if nothing compares."""
    own = run.measures(model)
    text = str(next((r.config["data"] for r in run.records.values() if "data" in r.config), ""))
    others = comparable(model, own, text=text)
    shared = [name for name in own if any(name in other.values for other in others)]
    names = [name for name, _ in ordered((name, own[name].measure) for name in shared)]
    if not names:
        return None
    size = own.get("num_parameters")
    seconds = run.seconds_until(model)
    rows = [
        Row(
            (
                f"this run, {model}",
                *(show(name, own[name].measure) for name in names),
                count(size.measure.value) if size else MISSING,
                duration(seconds),
                _cost(seconds, dollars_per_hour),
                "measured here",
            ),
            "sum",
        )
    ]
    for other in others:
        values = (
            (f"{v:.4f}" if n in ("core", "chat_core", "val_bpb") else percent(v))
            if (v := other.values.get(n)) is not None
            else MISSING
            for n in names
        )
        time = duration(3600 * other.hours) if other.hours is not None else MISSING
        cost = dollars(other.dollars) if other.dollars is not None else MISSING
        rows.append(
            Row((other.name, *values, count(other.num_parameters), time, cost, other.source))
        )
    header = ("model", *map(label, names), "parameters", "time", "cost", "source")
    return Table(f"The {model} model beside published ones", header, tuple(rows))


def stages(run: Run, *, dollars_per_hour: float) -> Table:
    """Time and cost of each stage, the missing ones said to be missing, and the sum."""
    rows = []
    known = {**JOURNEY, **BESIDE}
    for stage in [*JOURNEY, *(name for name in run.records if name not in JOURNEY)]:
        record = run.records.get(stage)
        if record is None:
            rows.append(Row((Code(stage), JOURNEY[stage], "no record", MISSING, "")))
            continue
        cost = _cost(record.seconds, dollars_per_hour)
        about = "" if record.model else _about_no_model(run, stage)
        rows.append(Row((Code(stage), known.get(stage, ""), duration(record.seconds), cost, about)))
    total = duration(run.seconds), _cost(run.seconds, dollars_per_hour)
    rows.append(Row(("total", "", *total, ""), "sum"))
    return Table("Stage by stage", ("stage", "what", "time", "cost", "figures"), tuple(rows))


def _about_no_model(run: Run, stage: str) -> str:
    """Metrics that describe no model, and so have no column among the measures."""
    metrics = run.records[stage].metrics.items()
    return ", ".join(f"{label(n)} {show(n, m)}" for n, m in metrics if isinstance(m, Measure))


def _cost(seconds: float, dollars_per_hour: float) -> str:
    return dollars(seconds / 3600 * dollars_per_hour)


def machine_name(hardware: Hardware) -> str:
    gpus = [f"{hardware.gpus.count(name)} x {name}" for name in dict.fromkeys(hardware.gpus)]
    return ", ".join(gpus) or f"{hardware.cpu}, {hardware.num_cores} cores"


def machine(hardware: Hardware, stages: Sequence[str], commits: Sequence[str]) -> Table:
    memory = f", {hardware.gpu_memory_gib:.0f} GiB each"
    cuda = f", CUDA {hardware.cuda}" if hardware.cuda else ", without CUDA"
    rows: list[tuple[Text, Text]] = [
        ("CPU", f"{hardware.cpu}, {hardware.num_cores} cores"),
        ("memory", f"{hardware.memory_gib:.1f} GiB"),
        ("GPU", machine_name(hardware) + memory if hardware.gpus else "none"),
        ("system", hardware.system),
        ("software", f"Python {hardware.python}, torch {hardware.torch}{cuda}"),
        ("nanochat", (f"{hardware.nanochat}, commit ", *codes(commits or ["unknown"]))),
        ("stages", codes(stages)),
    ]
    return Table("Machine", ("part", "what"), tuple(Row(row) for row in rows))


def backends(served: Mapping[str, str]) -> Table:
    rows = tuple(Row((Code(operation), path)) for operation, path in served.items())
    return Table("Which path served which operation", ("operation", "served by"), rows)


def options(run: Run) -> Table:
    """What every stage was asked to do, defaults included."""
    rows = (
        Row((Code(stage), codes(f"{name}={value}" for name, value in record.config.items())))
        for stage, record in run.records.items()
        if record.config
    )
    return Table("Options that decide the result", ("stage", "options"), tuple(rows))


def commands(run: Run) -> Table:
    rows = tuple(
        Row((Code(stage), Code(record.command), Code(record.commit or "unknown"), record.started))
        for stage, record in run.records.items()
    )
    return Table("Command and commit", ("stage", "command", "commit", "started"), rows)


def side_by_side(runs: Sequence[Run]) -> Table:
    """One row per model and measure, one column per run."""
    rows = []
    for model in dict.fromkeys(model for run in runs for model in run.models):
        columns = [run.measures(model) for run in runs]
        names = {n: found.measure for column in columns for n, found in column.items()}
        for name, kind in ordered(names.items()):
            cells = (show(name, c[name].measure) if name in c else MISSING for c in columns)
            rows.append(Row((label(name), model, *cells), kind))
    header = ("measure", "model", *(run.name for run in runs))
    return Table("Measures of every run, with 95 % intervals", header, tuple(rows))


def differences(ours: Run, theirs: Run) -> Table:
    """Accuracies that both runs have, and whether they differ by more than chance."""
    rows = []
    for model in ours.models:
        own, other = ours.measures(model), theirs.measures(model)
        both = ((name, own[name].measure) for name in own if name in other)
        for name, kind in ordered(both):
            a, b = own[name], other[name]
            found = difference(
                a.measure,
                b.measure,
                ours.answers(a.stage, name),
                theirs.answers(b.stage, name),
            )
            if found is not None:
                rows.append(Row((label(name), model, *_difference(found)), kind))
    return Table(
        f"{theirs.name} minus {ours.name}",
        ("measure", "model", "difference, points", "gained", "lost", "p", "verdict"),
        tuple(rows),
    )


def _difference(found: Difference) -> tuple[str, ...]:
    points = f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    if found.p is None:
        return points, MISSING, MISSING, MISSING, found.verdict
    p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
    return points, str(found.gained), str(found.lost), p, found.verdict


def stages_side_by_side(runs: Sequence[Run], *, dollars_per_hour: float) -> Table:
    rows = []
    names = dict.fromkeys([*JOURNEY, *(stage for run in runs for stage in run.records)])
    for stage in names:
        seconds = [run.records[stage].seconds if stage in run.records else None for run in runs]
        cells = (_time_and_cost(s, dollars_per_hour) for s in seconds)
        rows.append(Row((Code(stage), *cells)))
    totals = (_time_and_cost(run.seconds, dollars_per_hour) for run in runs)
    rows.append(Row(("total", *totals), "sum"))
    return Table("Stage by stage", ("stage", *(run.name for run in runs)), tuple(rows))


def _time_and_cost(seconds: float | None, dollars_per_hour: float) -> str:
    if seconds is None:
        return "no record"
    cost = f", {_cost(seconds, dollars_per_hour)}" if dollars_per_hour else ""
    return duration(seconds) + cost


def differing_options(runs: Sequence[Run]) -> Table:
    """Options and machines that are not the same in all runs that have the stage."""
    rows = []
    for stage in dict.fromkeys(stage for run in runs for stage in run.records):
        records = [run.records.get(stage) for run in runs]
        seen = [{**r.config, **_circumstances(run, stage)} if r else None
                for run, r in zip(runs, records, strict=True)]  # fmt: skip
        for name in dict.fromkeys(name for values in seen if values for name in values):
            values = [MISSING if s is None else str(s.get(name, MISSING)) for s in seen]
            if len({value for value, s in zip(values, seen, strict=True) if s is not None}) > 1:
                rows.append(Row((Code(stage), name.replace("_", " "), *map(Code, values))))
    header = ("stage", "option", *(run.name for run in runs))
    return Table("Options, commits and machines", header, tuple(rows))


def _circumstances(run: Run, stage: str) -> dict[str, str]:
    record = run.records[stage]
    if record.hardware is None:
        return {"commit": record.commit}
    machine = machine_name(record.hardware)
    return {"commit": record.commit, "machine": machine, "torch": record.hardware.torch}


def codes(texts: Iterable[str]) -> tuple[Inline, ...]:
    """Each set as code, a space between."""
    parts: list[Inline] = []
    for text in texts:
        parts += [" ", Code(text)] if parts else [Code(text)]
    return tuple(parts)
