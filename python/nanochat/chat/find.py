"""Which model a person means who names none."""

from __future__ import annotations

from pathlib import Path

from nanochat.common.errors import UserError
from nanochat.common.paths import home

STAGES = ("rl", "sft")  # folders of a run that hold a model to chat with


def newest_chat_model() -> Path:
    """The chat model that was saved last, over all runs. Raises: UserError if there is none."""
    runs = home() / "runs"
    saved = [step for stage in STAGES for step in runs.glob(f"*/{stage}/step_*") if step.is_dir()]
    if not saved:
        raise UserError(
            f"chat: no chat model under {runs}; "
            "train one with scripts/speedrun.py, or give --checkpoint"
        )
    return max(saved, key=lambda step: step.stat().st_mtime).parent
