"""Tasks by name, and the six of ChatCORE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nanochat.common.errors import UserError
from nanochat.tasks import arc, gsm8k, humaneval, mmlu, spelling_bee, tinyworld
from nanochat.tasks.base import Task

CHATCORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")


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
        "spelling": spelling_bee.simple,
    }
    generated: dict[str, Task] = {f"tinyworld/{task.name}": task for task in tinyworld.TASKS}
    if name in generated:
        return generated[name]
    if name not in makers:
        known = ", ".join((*makers, *generated))
        raise UserError(f"tasks: must be one of {known}, got {name}")
    return makers[name](folder)
