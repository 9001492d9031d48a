"""Run the chat tasks on a model."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("chat-eval")
