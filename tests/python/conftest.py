"""A model small enough to run anywhere, a tokenizer of bytes, and real data where there is any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nanochat.engine import Engine, NativeOptions
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

CONTEXT = 320  # more than one chunk of prefill
WIDTH = 128  # of the scripted model: random signs that long are as good as orthogonal


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


@pytest.fixture(scope="session")
def scripted(byte_tokenizer: Tokenizer) -> Callable[..., GPT]:
    """Makes models whose likeliest next token is a function of the last one, by their weights."""

    def make(*scripts: list[int]) -> GPT:
        vocab_size = byte_tokenizer.vocab_size
        model = GPT(
            GPTConfig(
                arch="classic", n_layer=1, n_head=1, n_kv_head=1, n_embd=WIDTH,
                vocab_size=vocab_size, seq_len=CONTEXT,
            )
        )  # fmt: skip
        model.init_weights(seed=0)  # projections are zero: the stream is the embedding
        generator = torch.Generator().manual_seed(1)
        signs = torch.randint(0, 2, (vocab_size, WIDTH), generator=generator) * 2.0 - 1
        following = torch.arange(vocab_size)  # itself, if no script says otherwise
        for script in scripts:
            following[script[:-1]] = torch.tensor(script[1:])
        with torch.no_grad():
            model.transformer.wte.weight[:vocab_size] = signs
            model.lm_head.weight.zero_().index_add_(0, following, 0.1 * signs)
        return model.eval()

    return make


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def unhurried_model(byte_tokenizer: Tokenizer) -> GPT:
    """Draws small letters without end, of equal chances, at a pace that leaves time to interrupt.

    The tiny model has said 300 tokens before a socket has carried one message.
    """
    model = GPT(
        GPTConfig(
            n_layer=4, n_head=4, n_kv_head=4, n_embd=512,
            vocab_size=byte_tokenizer.vocab_size, seq_len=CONTEXT,
        )
    )  # fmt: skip
    model.init_weights(seed=0)  # projections are zero: the stream is the embedding
    with torch.no_grad():
        model.transformer.wte.weight.fill_(1.0)
        model.lm_head.weight.zero_()[97:123] = 0.05
    return model.eval()


@pytest.fixture
def unhurried_engine(unhurried_model: GPT, byte_tokenizer: Tokenizer) -> Iterator[Engine]:
    options = NativeOptions(dtype="fp32", threads=1)
    with Engine(unhurried_model, byte_tokenizer, slots=4, options=options) as engine:
        yield engine


@pytest.fixture
def tiny_engine(tiny_model: GPT, byte_tokenizer: Tokenizer) -> Iterator[Engine]:
    with Engine(tiny_model, byte_tokenizer, slots=4) as engine:
        yield engine


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real sets, ``eval/`` and ``chat/``, named by NANOCHAT_TEST_DATA."""
    folder = os.environ.get("NANOCHAT_TEST_DATA")
    if folder is None:
        pytest.skip("NANOCHAT_TEST_DATA names no folder with real data")
    return Path(folder)
