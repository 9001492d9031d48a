"""Text to tokens and back: training, encoding, conversations."""

from nanochat.tokenizer.bpe import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    GPT4_PATTERN,
    SPLIT_PATTERN,
    train_bpe,
)
from nanochat.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

__all__ = [
    "CL100K_PATTERN",
    "GPT2_PATTERN",
    "GPT4_PATTERN",
    "MIN_VOCAB_SIZE",
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "Tokenizer",
    "train_bpe",
]
