"""Let the chat model learn from the rewards of its own answers."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("chat-rl")
