"""Bytes per token of a tokenizer, by kind of text."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("tok-eval")
