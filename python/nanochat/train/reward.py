"""What a reply is worth in reinforcement learning: the one function to replace.

Write another ``reward`` here, or in a file of your own and give it with ``--reward FILE``. Replies
to one question are compared with each other only: what is added to all of them changes nothing.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

from nanochat.common.errors import UserError
from nanochat.tasks import Example

Reward = Callable[[Example, str], float]


def reward(example: Example, text: str) -> float:
    """1 for a right reply, 0 for another. ``text`` is what a user reads of it: no tool calls."""
    return 1.0 if example.check(text) else 0.0


def load_reward(path: Path | None) -> Reward:
    """The function ``reward`` of the Python file at ``path``; the one above if none is given.

    Raises: UserError if the file cannot be run or has none.
    """
    if path is None:
        return reward
    try:
        found = runpy.run_path(str(path)).get("reward")
    except Exception as error:  # whatever the user's file does
        raise UserError(f"reward: cannot run {path}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UserError(f"reward: {path} must define reward(example, text) -> float")
    function: Reward = found
    return function
