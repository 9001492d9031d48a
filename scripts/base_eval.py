"""Evaluate the base model: bits per byte and samples."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("base-eval")
