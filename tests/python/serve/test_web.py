"""``chat_web`` from a checkpoint: a process of its own, and its one-line errors."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nanochat.checkpoint import save_checkpoint
from nanochat.common.errors import UserError
from nanochat.model import GPT
from nanochat.serve import ChatWebConfig, run_chat_web
from nanochat.tokenizer import Tokenizer


@pytest.fixture
def checkpoint(tiny_model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    root = tmp_path / "laptop" / "sft"
    save_checkpoint(root, 7, model=tiny_model, tokenizer=byte_tokenizer, meta={})
    return root


def test_a_server_ends_with_its_standard_input(checkpoint: Path) -> None:
    options = ["--checkpoint", str(checkpoint), "--port", "0", "--stop-with-stdin"]
    with subprocess.Popen(
        [sys.executable, "-m", "nanochat", "chat-web", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("chat page: http://127.0.0.1:")
        with urllib.request.urlopen(ready.split()[-1] + "health") as response:
            assert '"name": "laptop/sft"' in response.read().decode()
        process.stdin.close()
        assert process.wait(20) == 0
        assert process.stdout.read() == ""


def test_bad_options_are_one_line(checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 is in use"):
            run_chat_web(ChatWebConfig(checkpoint=checkpoint, port=port))
    with pytest.raises(UserError, match="device warp cannot be used here"):
        run_chat_web(ChatWebConfig(checkpoint=checkpoint, device="warp"))
    with pytest.raises(UserError, match=r"dtype must be one of .*, got 'int1'"):
        run_chat_web(ChatWebConfig(checkpoint=checkpoint, dtype="int1"))
    with pytest.raises(UserError, match="threads must be at least 1, got 0"):
        run_chat_web(ChatWebConfig(checkpoint=checkpoint, threads=0))
    with pytest.raises(UserError, match="slots must be at least 1"):
        run_chat_web(ChatWebConfig(checkpoint=checkpoint, slots=0))
    with pytest.raises(UserError, match="no chat model under"):
        run_chat_web(ChatWebConfig())


def test_a_port_that_cannot_be_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match="--port must be 0 to 65535, got 99999"):
        run_chat_web(ChatWebConfig(port=99_999))
