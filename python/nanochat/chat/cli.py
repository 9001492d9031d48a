"""``chat_cli``: talk to a model in the terminal.

Ctrl-C while an answer comes stops the answer; again, or at the prompt, it leaves. The loop over
questions is plain code and only an answer runs in the event loop, so that a line is read the way
every terminal program reads one.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import unicodedata
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nanochat.chat.client import ChatError, Client, Done, Text, Tool
from nanochat.chat.find import newest_chat_model
from nanochat.chat.server import private_server
from nanochat.common.errors import UserError

SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed",
)  # fmt: skip
HELP = """\
/clear   forget the conversation
/help    this
/quit    leave (also Ctrl-D, and Ctrl-C at the prompt)
Ctrl-C   stop the answer"""
_REASONS = {"length": "cut at the limit", "cancelled": "stopped"}


@dataclass(frozen=True)
class ChatCliConfig:
    """Chat with a model in the terminal, from a server or from a checkpoint."""

    url: str | None = None
    """A running server, as http://host:port; else a private one is started for the checkpoint."""
    checkpoint: Path | None = None
    """Folder of a checkpoint, or of several: the newest. Default: the newest chat model."""
    prompt: str | None = None
    """Ask this, print the answer and leave."""
    system: str | None = None
    """System message, put in front of the conversation."""
    temperature: float = 0.6
    """0 takes the likeliest token each time."""
    top_k: int | None = 50
    """Sample among the k likeliest tokens only."""
    top_p: float = 1.0
    """Sample among the fewest tokens that hold this much probability."""
    min_p: float = 0.0
    """Sample among the tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens of the conversation so far become less likely."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    seed: int | None = None
    """Same seed, same answer; none draws a new one for each."""
    token: str | None = None
    """Secret of the server, if it wants one."""
    device: str = "cpu"
    """cpu, cuda or mps, for a private server."""
    dtype: str = "bf16"
    """Of a private server: bf16 or fp32; on the CPU also int8, on cuda and mps also fp16."""
    threads: int | None = None
    """Of a private server on the CPU; default: as many as there are processors to run on."""


def run_chat_cli(config: ChatCliConfig) -> None:
    """Chat until the user leaves. Raises: UserError for anything they should read."""
    if config.url is not None and config.checkpoint is not None:
        raise UserError("chat: give --url or --checkpoint, not both")
    with ExitStack() as stack:
        url = config.url
        if url is None:
            checkpoint = config.checkpoint or newest_chat_model()
            if config.prompt is None:
                print(f"loading {checkpoint}", file=sys.stderr)
            url = stack.enter_context(
                private_server(
                    checkpoint,
                    device=config.device,
                    dtype=config.dtype,
                    threads=config.threads,
                )
            )
        sampling = {name: getattr(config, name) for name in SAMPLING}
        client = Client(url, token=config.token, system=config.system, sampling=sampling)
        runner = stack.enter_context(asyncio.Runner())
        if config.prompt is None:
            _converse(client, runner)
        else:
            _ask_once(client, runner, config.prompt)


def _ask_once(client: Client, runner: asyncio.Runner, question: str) -> None:
    """The text of the answer to stdout, as it comes; what the calculator did to stderr."""

    def show(piece: Text | Tool | Done) -> None:
        if isinstance(piece, Tool):
            print(_harmless(f"[{piece.code} -> {piece.output}]"), file=sys.stderr)
        else:
            text = _harmless(piece.text) if isinstance(piece, Text) else "\n"
            print(text, end="", flush=True)

    try:
        runner.run(_answer(client, question, show))
    except ChatError as error:
        raise UserError(f"chat: {error}") from error


def _converse(client: Client, runner: asyncio.Runner) -> None:
    console = Console(highlight=False, soft_wrap=True)
    with suppress(ImportError):  # not everywhere; gives input() a history and arrow keys
        import readline  # noqa: F401

    def show(piece: Text | Tool | Done) -> None:
        if isinstance(piece, Text):
            console.print(_harmless(piece.text), end="", markup=False)
        elif isinstance(piece, Tool):
            shown = escape(_harmless(f" {piece.code} = {piece.output} "))
            console.print(f"[reverse dim]{shown}[/]", end=" ")
        else:
            note = "" if piece.reason == "stop" else f"{_REASONS[piece.reason]}, "
            rate = piece.usage["tokens_per_second"]
            console.print(f"\n[dim]{note}{rate:.0f} tokens/s, seed {piece.seed}[/]\n")

    model = runner.run(client.model())
    console.print(
        f"[bold]{escape(model['name'])}[/], {model['parameters'] / 1e6:.1f}M parameters."
        "  [dim]/help for help[/]\n"
    )
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line == "/quit":
            return
        if line == "/clear":
            client.clear()
            console.print("[dim]a new conversation[/]\n")
        elif line.startswith("/"):
            console.print(HELP if line == "/help" else f"no command {line}; /help", markup=False)
        elif line:
            try:
                runner.run(_answer(client, line, show))
            except (ChatError, UserError) as error:  # the conversation goes on
                console.print(f"[red]{escape(str(error))}[/]\n")
            except KeyboardInterrupt:
                console.print()
                return


async def _answer(
    client: Client, question: str, show: Callable[[Text | Tool | Done], None]
) -> None:
    """Show an answer. The first Ctrl-C asks the server to stop, the second raises as usual."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)  # the next one leaves
        stopping.append(loop.create_task(client.stop()))

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        async for piece in client.ask(question):
            show(piece)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await asyncio.gather(*stopping)


def _harmless(text: str) -> str:
    """A model may say anything, terminal escapes too: control characters become U+FFFD."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)
