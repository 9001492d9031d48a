"""Finetune the base model on conversations."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("chat-sft")
