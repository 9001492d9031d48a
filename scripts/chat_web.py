"""Serve a model over websockets, with a page to chat on."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("chat-web")
