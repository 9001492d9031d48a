"""The terminal client: one-shot, interactive from a pipe, Ctrl-C, and its private server."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanochat.chat import ChatCliConfig, run_chat_cli
from nanochat.chat.find import newest_chat_model
from nanochat.chat.server import private_server
from nanochat.checkpoint import save_checkpoint
from nanochat.common.errors import UserError
from nanochat.common.paths import home
from nanochat.engine import Engine
from nanochat.model import GPT
from nanochat.serve.server import listen
from nanochat.tokenizer import Tokenizer


@contextmanager
def _server(engine: Engine) -> Iterator[str]:
    """A server on a thread of its own, since the client owns the main one."""
    ready: list[str] = []
    is_ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with listen(engine, port=0, name="tiny") as page:
            ready.append(page)
            is_ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert is_ready.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def url(tiny_engine: Engine) -> Iterator[str]:
    with _server(tiny_engine) as page:
        yield page


def test_one_shot(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = ChatCliConfig(url=url, prompt="hi", max_tokens=20, seed=4)
    run_chat_cli(config)
    first = capsys.readouterr().out
    assert first.endswith("\n")
    assert len(first) > 2
    assert not any(char < " " and char not in "\n\t" for char in first)
    run_chat_cli(config)
    assert capsys.readouterr().out == first


def test_one_shot_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"chat: bad_request: sampling: top_k"):
        run_chat_cli(ChatCliConfig(url=url, prompt="hi", top_k=0))


def test_interactive(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["hello", "", "/help", "/nope", "x" * 400, "/clear", "hello", "/quit", "never"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    run_chat_cli(ChatCliConfig(url=url, max_tokens=12, seed=1))
    out = capsys.readouterr().out
    assert "tiny" in out
    assert "/clear   forget the conversation" in out
    assert "no command /nope" in out
    assert "too_long: the message has" in out
    answers = [part.splitlines()[0] for part in out.split("> ") if "seed 1" in part]
    assert len(answers) == 2
    assert answers[0] == answers[1] != ""


def test_the_end_of_input_leaves(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    run_chat_cli(ChatCliConfig(url=url))


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    unhurried_engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_sent = False

    def interrupt_once(text: str) -> str:
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return text

    monkeypatch.setattr("nanochat.chat.cli._harmless", interrupt_once)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    with _server(unhurried_engine) as url:
        run_chat_cli(ChatCliConfig(url=url, max_tokens=150, seed=4))
    out = capsys.readouterr().out
    assert out.count("stopped") == 1
    assert out.count("cut at the limit") == 1
    assert out.count("seed 4") == 2


def test_a_private_server_lives_as_long_as_its_block(
    tiny_model: GPT,
    byte_tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "run" / "sft"
    save_checkpoint(root, 1, model=tiny_model, tokenizer=byte_tokenizer, meta={})
    with private_server(root, dtype="fp32", threads=1) as page:
        run_chat_cli(ChatCliConfig(url=page, prompt="hi", max_tokens=5, seed=1))
    assert capsys.readouterr().out.strip()
    with pytest.raises(UserError, match="is the server running"):
        run_chat_cli(ChatCliConfig(url=page, prompt="hi"))


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint: no complete checkpoint in"):
        run_chat_cli(ChatCliConfig(checkpoint=tmp_path / "nothing", prompt="hi"))
    with pytest.raises(UserError, match=r"no chat model under .*speedrun"):
        run_chat_cli(ChatCliConfig(prompt="hi"))
    with pytest.raises(UserError, match="--url or --checkpoint, not both"):
        run_chat_cli(ChatCliConfig(url="http://x", checkpoint=tmp_path))


def test_the_newest_chat_model_is_found() -> None:
    for age, name in enumerate(("b/sft/step_000002", "a/sft/step_000009", "c/base/step_000001")):
        step = home() / "runs" / name
        step.mkdir(parents=True)
        os.utime(step, (1e9 - age, 1e9 - age))
    assert newest_chat_model() == home() / "runs" / "b" / "sft"
