"""Chat with a model in the terminal."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("chat-cli")
