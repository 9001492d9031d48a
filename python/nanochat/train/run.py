"""What every training stage shares: the run folder, resume rules, and rates set on an optimizer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat import ops
from nanochat.checkpoint import TrainState, latest, load_train
from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.figures import duration
from nanochat.common.paths import file_lock, home
from nanochat.common.record import StageRecord, read_stages, this_command, write_stage

TOKENIZER = "tokenizer.json"

# Options that may differ between a start and its continuation: they do not change the result.
_FREE = {
    "resume", "run", "out", "device", "device_batch_size", "num_threads",
    "eval_every", "eval_tokens", "save_every", "eval_tasks", "chat_eval_every", "eval_examples",
}  # fmt: skip


def run_dir(run: str, out: Path | None) -> Path:
    """Folder of a run: ``--out`` if given, else ``NANOCHAT_HOME/runs/<run>``."""
    return out if out is not None else home() / "runs" / run


@contextmanager
def exclusive(folder: Path, *, is_main: bool = True) -> Iterator[None]:
    """Hold the run folder: two processes that write to one would destroy each other's work."""
    if not is_main:
        yield
        return
    with file_lock(
        folder / ".lock",
        f"run: another process is working in {folder}; wait for it, or give another --out",
    ):
        yield


def result_options(config: Any) -> dict[str, Any]:
    """The options of a stage that decide its result, JSON-ready: saved, and compared on resume."""
    values = {k: v for k, v in asdict(config).items() if k not in _FREE}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def find_resume(
    root: Path, *, resume: bool, options: Mapping[str, Any]
) -> tuple[Path, TrainState] | None:
    """Where to continue, or None to begin.

    Raises: UserError if there is a checkpoint and ``resume`` is off, or its options differ.
    """
    folder = latest(root)
    if folder is None:
        return None
    if not resume:
        raise UserError(f"train: {root} holds a checkpoint; continue with --resume or give --out")
    state = load_train(folder)
    _check_options(str(folder), state.position["options"], options)
    return folder, state


def is_done(folder: Path, stage: str, options: Mapping[str, Any]) -> bool:
    """Whether ``stage`` of the run is complete with these options; says so if it is.

    Raises: UserError if it was completed with other options.
    """
    record = read_stages(folder).get(stage)
    if record is None:
        return False
    _check_options(f"{stage} in {folder}", record.config, options)
    say(f"{stage}: done before, {duration(record.seconds)}")
    return True


def _check_options(what: str, saved: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    differing = sorted(k for k in {*saved, *options} if saved.get(k) != options.get(k))
    if differing:
        pairs = ", ".join(f"{k} {saved.get(k)!r} -> {options.get(k)!r}" for k in differing)
        raise UserError(f"train: {what} has other options: {pairs}; give another --run or --out")


def write_record(folder: Path, stage: str, **fields: Any) -> None:
    """Save the record of a finished stage; ``fields`` are those of ``StageRecord``."""
    paths = {f"{row.op} on {row.device}": f"{row.path}: {row.reason}" for row in ops.backends()}
    write_stage(folder, stage, StageRecord(command=this_command(), backends=paths, **fields))


class Stopwatch:
    """Wall seconds of this start on top of those of earlier ones."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
