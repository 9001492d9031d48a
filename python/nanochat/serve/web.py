"""``chat_web``: load a checkpoint and serve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.chat.find import newest_chat_model
from nanochat.common.errors import UserError
from nanochat.engine import Engine
from nanochat.serve.server import serve


@dataclass(frozen=True)
class ChatWebConfig:
    """Serve a model over websockets, with a page to chat on."""

    checkpoint: Path | None = None
    """Folder of a checkpoint, or of several: the newest. Default: the newest chat model."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own needs a token."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """Secret that clients must show."""
    device: str = "cpu"
    """cpu, cuda or mps."""
    dtype: str = "bf16"
    """bf16 or fp32; on the CPU also int8, which is of weights, on cuda and mps also fp16."""
    threads: int | None = None
    """Threads that compute on the CPU; default: as many as there are processors to run on."""
    slots: int = 8
    """Answers that are generated at once; more wait."""
    stop_with_stdin: bool = False
    """End when standard input ends, as the terminal client's own server does."""


def run_chat_web(config: ChatWebConfig) -> None:
    """Serve until interrupted. Raises: UserError, one line, for a checkpoint or address."""
    if not 0 <= config.port <= 65535:
        raise UserError(f"serve: --port must be 0 to 65535, got {config.port}")
    checkpoint = config.checkpoint or newest_chat_model()
    try:
        engine = Engine.load(
            checkpoint,
            device=config.device,
            dtype=config.dtype,
            slots=config.slots,
            threads=config.threads,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    with engine:
        serve(
            engine,
            host=config.host,
            port=config.port,
            name=_name(checkpoint),
            token=config.token,
            stop_with_stdin=config.stop_with_stdin,
        )


def _name(checkpoint: Path) -> str:
    """``<run>/<stage>`` of ``.../<run>/<stage>/step_000400`` or of the folder above."""
    folder = checkpoint.resolve()
    if folder.name.startswith("step_"):
        folder = folder.parent
    return f"{folder.parent.name}/{folder.name}"
