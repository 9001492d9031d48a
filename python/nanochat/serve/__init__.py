"""A model behind a websocket, with a page to chat on."""

from nanochat.serve.server import serve
from nanochat.serve.web import ChatWebConfig, run_chat_web

__all__ = ["ChatWebConfig", "run_chat_web", "serve"]
