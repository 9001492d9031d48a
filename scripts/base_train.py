"""Pretrain the base model. Under torchrun: one process per GPU."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("base-train")
