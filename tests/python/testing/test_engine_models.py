"""Models for benchmarks: logits of a size, and a text that is repeated."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.model import GPT, GPTConfig
from nanochat.testing import engine_models

CONFIG = GPTConfig.from_depth(2, arch="classic", vocab_size=200, seq_len=64)


def model(weights: dict[str, Tensor]) -> GPT:
    gpt = GPT(CONFIG)
    gpt.load_state_dict(weights)
    return gpt.eval()


@torch.no_grad()
def test_random_logits_are_as_large_as_those_of_a_trained_model() -> None:
    weights = engine_models.random_weights(CONFIG, seed=1)
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())
    logits = model(weights)(torch.arange(64)[None])
    assert 3.5 < float(logits.square().mean().sqrt()) < 5.5
    again = engine_models.random_weights(CONFIG, seed=1)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


@torch.no_grad()
def test_copying_goes_on_with_the_text_from_any_token() -> None:
    weights = engine_models.copying_weights(CONFIG, period=7, seed=1)
    text = engine_models.copied_text(7, 30)
    top = model(weights)(torch.tensor([text]))[0].topk(2)
    assert top.indices[:-1, 0].tolist() == text[1:]
    assert float((top.values[:, 0] - top.values[:, 1]).min()) > 2


@torch.no_grad()
def test_babbling_has_no_favourite_among_its_words() -> None:
    weights = engine_models.babbling_weights(CONFIG, num_words=16, seed=1)
    chances = model(weights)(torch.arange(64)[None])[0].softmax(-1)
    torch.testing.assert_close(chances[:, :16], torch.full((64, 16), 1 / 16), rtol=1e-4, atol=0)


def test_bytes_are_those_of_the_tensors() -> None:
    weights = engine_models.random_weights(CONFIG, seed=1)
    matrices = sum(t.numel() for name, t in weights.items() if name != "transformer.wte.weight")
    assert engine_models.weight_bytes(CONFIG, "bf16") == 2 * matrices
    assert engine_models.weight_bytes(CONFIG, "int8") == matrices
    assert engine_models.kv_bytes_per_token(CONFIG, "fp32") == 2 * 2 * 128 * 4
    assert engine_models.kv_bytes_per_token(CONFIG, "int8") == 2 * 2 * 128 * 2
