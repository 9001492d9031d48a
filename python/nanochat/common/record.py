"""The paper trail of a run: what each stage did, measured and cost.

A run folder holds one folder per stage, named like its script:

    <run>/base_train/stage.json       one StageRecord, written once when the stage is complete
    <run>/base_train/metrics.jsonl    one JSON object per logged step, appended while it trains
    <run>/chat_eval/stage.json ...

Everything that the report card shows comes from these files, hardware included, so that it can be
made again at any time and on any machine. Stages write, ``nanochat.report`` reads.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from nanochat.common.errors import UserError
from nanochat.common.hardware import Hardware, probe
from nanochat.common.paths import atomic_write

SCHEMA = 1
_TYPES = {
    "started": str, "command": str, "model": str, "commit": str, "config": dict, "backends": dict,
    "samples": list, "conversations": list,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of the table, with what it should be compared with."""

    value: float
    low: float | None = None  # 95 % interval
    high: float | None = None
    chance: float | None = None  # accuracy of guessing
    bound: float | None = None  # entropy floor: no model can be below
    num_examples: int | None = None
    num_malformed: int | None = None  # rows of the set that could not be read, not among examples
    num_too_long: int | None = None  # examples that did not fit the context, counted as wrong
    num_cropped: int | None = None  # examples whose prompt lost its beginning to fit the context
    num_unanswered: int | None = None  # replies without an answer to grade, counted as wrong

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not _is_number(value):
                raise TypeError(f"record: {name} of a measure must be a number, got {value!r}")


def _is_number(value: object) -> bool:
    """Of 64 bits: JSON has longer integers, which no float holds."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, float)


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a stage tells the card. ``commit``, ``hardware``, ``backends`` are filled in on writing.

    Attributes:
        started: ISO 8601 time, UTC (:func:`now`).
        seconds: Wall time, summed over resumes.
        command: What to type to get this stage again (:func:`this_command`).
        model: Checkpoint that ``metrics`` describe, the column of the table: "base", "sft", "rl";
            empty if none.
        metrics: Name to number. Names used by the card: val_bpb, story_bpb, num_parameters,
            num_tokens, total_flops, mfu, peak_memory_gib; any other name gets a row of its own.
        samples: Texts that a base model continued.
        conversations: Sampled conversations, in the form of ``nanochat.tokenizer.conversation``.
    """

    started: str
    seconds: float
    command: str
    model: str = ""
    metrics: Mapping[str, float | Measure] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[str] = ()
    conversations: Sequence[Mapping[str, Any]] = ()
    commit: str = ""
    hardware: Hardware | None = None
    backends: Mapping[str, str] = field(default_factory=dict)  # op to the path that serves it


def write_stage(run_dir: Path, stage: str, record: StageRecord) -> Path:
    """Save ``record`` as ``run_dir/stage/stage.json``; replaces an earlier one. Returns the path.

    Raises: ValueError for a stage name that is no identifier; UserError if it cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", stage):
        raise ValueError(f"record: stage must be a lower-case identifier, got {stage!r}")
    complete = replace(
        record,
        commit=record.commit or describe_commit(),
        hardware=record.hardware or probe(),
        metrics={
            name: value if isinstance(value, Measure) else Measure(value=float(value))
            for name, value in record.metrics.items()
        },
    )
    path = run_dir / stage / "stage.json"
    body = {"schema": SCHEMA, "stage": stage, **asdict(complete)}
    atomic_write(path, json.dumps(body, indent=1, default=str) + "\n")
    return path


def read_stages(run_dir: Path) -> dict[str, StageRecord]:
    """All stages of a run, oldest first.

    Raises: UserError for a file that no write_stage wrote (they are written whole or not at all).
    """
    stages = {path.parent.name: _read_stage(path) for path in run_dir.glob("*/stage.json")}
    return dict(sorted(stages.items(), key=lambda item: (item[1].started, item[0])))


def _read_stage(path: Path) -> StageRecord:
    try:
        body = json.loads(path.read_bytes())
        if body.pop("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}")
        body.pop("stage")
        for name, kind in _TYPES.items():
            if not isinstance(body[name], kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {body[name]!r:.80}")
        if not (_is_number(body["seconds"]) and math.isfinite(body["seconds"])):
            raise TypeError(f"seconds must be a finite number, got {body['seconds']!r:.80}")
        body["hardware"] = Hardware(**{**body["hardware"], "gpus": tuple(body["hardware"]["gpus"])})
        body["metrics"] = {name: Measure(**value) for name, value in body["metrics"].items()}
        return StageRecord(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"record: cannot read {path}: {error}; run the stage again") from error


class MetricsLog:
    """Appends rows to ``metrics.jsonl``; each row reaches the file whole, or torn by a kill.

    Row: step, loss (nats per target), tokens (so far), tokens_per_second, seconds (so far), lr;
    val_bpb on the steps that were validated. A resumed run appends: the later row of a step wins.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if is_torn:  # a kill left half a line: end it, so that only that one is lost
            self._file.write("\n")

    def write(self, **row: float) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows by rising step; rows of one step are merged, the later wins.

    Torn lines are skipped, and values that are no numbers.
    """
    if not path.exists():
        return []
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
            step = int(row["step"])
            if not _is_number(step):
                continue
            numbers = {name: value for name, value in row.items() if _is_number(value)}
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        rows.setdefault(step, {}).update(numbers, step=step)
    return [rows[step] for step in sorted(rows)]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_command() -> str:
    """The command line of this process, as one would type it again."""
    return shlex.join(["python", *sys.argv])


def describe_commit() -> str:
    """``git describe`` of the checkout that holds this code or the running script; else empty."""
    for file in (Path(__file__), Path(sys.argv[0])):
        # The file must be tracked: a virtual environment may stand inside somebody's repository.
        if file.is_file() and _git(file, "ls-files", "--error-unmatch", file.name):
            return _git(file, "describe", "--always", "--dirty", "--tags")
    return ""


def _git(file: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
