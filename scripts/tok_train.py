"""Train the BPE tokenizer."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("tok-train")
