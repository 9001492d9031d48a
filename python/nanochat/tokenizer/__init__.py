"""Text to tokens and back: training, encoding, conversations."""

from nanochat.tokenizer.bpe import SPLIT_PATTERN, train_bpe
from nanochat.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, Tokenizer

__all__ = [
    "MIN_VOCAB_SIZE",
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "Tokenizer",
    "train_bpe",
]
