"""One small trained tokenizer for the tests of this folder."""

from __future__ import annotations

import pytest

from nanochat.tokenizer import Tokenizer

TEXTS = [
    "Hello world, hello there! 2 + 2 = 4.\n\nWas it so? It was.",
    "Привет, мир. 你好世界。",
] * 3


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300, num_threads=1)
