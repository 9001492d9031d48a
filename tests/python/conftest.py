"""A model small enough to run anywhere and a tokenizer of bytes, for engine, server, client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nanochat.engine import Engine
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

CONTEXT = 320  # more than one chunk of prefill


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})


@pytest.fixture(scope="session")
def tiny_model(byte_tokenizer: Tokenizer) -> GPT:
    """Random, yet with every part of the modern architecture awake, and fond of ASCII."""
    model = GPT(
        GPTConfig(
            n_layer=2,
            n_head=2,
            n_kv_head=1,
            n_embd=64,
            vocab_size=byte_tokenizer.vocab_size,
            seq_len=CONTEXT,
        )
    )
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        ascii_letters = torch.zeros(len(model.lm_head.weight), 1)
        ascii_letters[97:123] = 1.0
        model.lm_head.weight *= 0.5 + ascii_letters
    return model.eval()


@pytest.fixture
def tiny_engine(tiny_model: GPT, byte_tokenizer: Tokenizer) -> Iterator[Engine]:
    with Engine(tiny_model, byte_tokenizer, slots=4) as engine:
        yield engine
