"""Talking to a model from a program or a terminal, over a websocket."""

from nanochat.chat.cli import ChatCliConfig, run_chat_cli

__all__ = ["ChatCliConfig", "run_chat_cli"]
