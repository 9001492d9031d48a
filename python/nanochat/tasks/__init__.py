"""Questions with known answers: what the evaluations ask a model."""

from nanochat.tasks.base import Example, Kind, Task
from nanochat.tasks.tinyworld import TASKS

__all__ = ["TASKS", "Example", "Kind", "Task"]
