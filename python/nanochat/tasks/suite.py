"""Tasks by name, and the lists of them that have one: tinyworld's eight, ChatCORE's six."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nanochat.common.errors import UserError
from nanochat.tasks import arc, gsm8k, humaneval, mmlu, spelling_bee, tinyworld
from nanochat.tasks.base import Task

CHATCORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")


@dataclass(frozen=True)
class Suite:
    """Tasks to run, and why those of a list that cannot run here are missing."""

    tasks: tuple[Task, ...]
    missing: Mapping[str, str]


def suite(names: str, folder: Path | None, *, unsafe_local: bool = False) -> Suite:
    """The tasks of ``names``, which are tinyworld, chatcore and single ones, with commas between.

    Raises: UserError for a name that is none, a task named singly that cannot run here, or if no
        task is left.
    """
    tasks: dict[str, Task] = {}
    missing: dict[str, str] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name == "tinyworld":
            tasks |= {task.name: task for task in tinyworld.TASKS}
            continue
        for member in CHATCORE if name == "chatcore" else (name,):
            try:
                task = task_named(member, folder, unsafe_local=unsafe_local)
                task.examples("val", n=1, seed=0)  # its files are there
            except UserError as error:
                if name != "chatcore":
                    raise
                missing[member] = str(error)
            else:
                tasks[task.name] = task
    if not tasks:
        reasons = "".join(f"; {name}: {reason}" for name, reason in missing.items())
        raise UserError(f"tasks: no task of {names!r} can run here{reasons}")
    return Suite(tuple(tasks.values()), missing)


def task_named(name: str, folder: Path | None, *, unsafe_local: bool = False) -> Task:
    """The task, with its files from ``folder``; tinyworld's are named like tinyworld/facts.

    Args:
        unsafe_local: As in :func:`nanochat.tasks.humaneval.task`.
    Raises: UserError for a name that is none, or where this machine cannot run the task.
    """
    makers: dict[str, Callable[[Path | None], Task]] = {
        "arc_easy": arc.easy,
        "arc_challenge": arc.challenge,
        "mmlu": mmlu.task,
        "gsm8k": gsm8k.task,
        "humaneval": lambda folder: humaneval.task(folder, unsafe_local=unsafe_local),
        "spelling_bee": spelling_bee.task,
        "simple_spelling": spelling_bee.simple,
    }
    generated: dict[str, Task] = {f"tinyworld/{task.name}": task for task in tinyworld.TASKS}
    if name in generated:
        return generated[name]
    if name not in makers:
        known = ", ".join((*makers, *generated))
        raise UserError(f"tasks: must be one of {known}, got {name}")
    return makers[name](folder)
