"""The network against transformers, against itself with a cache, and its promises at init."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from nanochat.model import GPT, GPTConfig, KVCache

Arch = Literal["classic", "modern"]


def random_model(arch: Arch = "modern", *, n_kv_head: int | None = None, **changes: int) -> GPT:
    """A d4 model whose every parameter, zero-initialised ones included, is random."""
    config = GPTConfig(
        n_layer=4, n_head=4, n_kv_head=n_kv_head or 4, n_embd=128, vocab_size=300, seq_len=256,
        arch=arch, **changes,
    )  # fmt: skip
    model = GPT(config)
    model.init_weights(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tokens(batch: int, length: int, vocab_size: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, vocab_size, (batch, length), generator=generator)


@pytest.mark.parametrize(("depth", "count"), [(12, 286_261_730), (24, 1_384_122_122)])
def test_parameters_of_the_dial(depth: int, count: int) -> None:
    config = GPTConfig.from_depth(depth, vocab_size=32_768, seq_len=2_048)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == count == config.num_parameters()


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    model = GPT(GPTConfig.from_depth(4, vocab_size=1_000, seq_len=64))
    model.init_weights(seed=0)
    ids = tokens(2, 64, 1_000)
    assert float(model.loss(ids, ids).detach() / ids.numel()) == pytest.approx(
        math.log(1_000), rel=1e-3
    )


def test_same_seed_same_weights() -> None:
    first, second = GPT(random_model().config), GPT(random_model().config)
    first.init_weights(seed=7)
    second.init_weights(seed=7)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_classic_equals_transformers(n_kv_head: int) -> None:
    transformers = pytest.importorskip("transformers")
    from nanochat.model.hf import hf_config, hf_state_dict

    model = random_model("classic", n_kv_head=n_kv_head)
    theirs = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(**hf_config(model.config))
    )
    theirs.load_state_dict(hf_state_dict(model), strict=True)
    ids = tokens(2, 100)
    with torch.no_grad():
        difference = (theirs.eval()(ids).logits - model(ids)).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize("arch", ["classic", "modern"])
@pytest.mark.parametrize("n_kv_head", [4, 2])
def test_cached_equals_uncached_token_by_token(arch: Arch, n_kv_head: int) -> None:
    model = random_model(arch, n_kv_head=n_kv_head)
    ids = tokens(2, 150)  # beyond the short window of 128
    cache = KVCache(model.config, batch=2, capacity=256)
    with torch.no_grad():
        full = model(ids)
        # Smear looks across every one of these borders.
        sizes = [1, 2, 61, 64] + [1] * 22
        cached = [model(chunk, cache=cache) for chunk in ids.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(cached, dim=1), full, atol=2e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [150, 150]


def test_rows_of_different_length_decode_as_if_alone() -> None:
    model = random_model()
    ids = tokens(1, 40)
    cache = KVCache(model.config, batch=3, capacity=64)
    lengths = (5, 17, 39)
    with torch.no_grad():
        for row, length in enumerate(lengths):
            model(ids[:, :length], cache=cache.row(row))
        step = torch.stack([ids[0, length] for length in lengths])[:, None]
        together = model(step, cache=cache)
        full = model(ids)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(together[row, 0], full[0, length], atol=2e-5, rtol=1e-5)


def test_reset_row_forgets_its_past() -> None:
    model = random_model()
    ids = tokens(1, 20)
    cache = KVCache(model.config, batch=2, capacity=32)
    with torch.no_grad():
        model(tokens(1, 30), cache=cache.row(1))
        cache.reset(1)
        again = model(ids, cache=cache.row(1))
        torch.testing.assert_close(again, model(ids), atol=2e-5, rtol=1e-5)


def test_loss_is_the_sum_of_nats_and_ignores_masked_targets() -> None:
    model = random_model()
    ids, targets = tokens(2, 32), tokens(2, 32).roll(-1, dims=1)
    targets[0, :10] = -1
    nats = model.nats(ids, targets)
    logp = torch.log_softmax(model(ids), dim=-1)
    expected = -logp.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != -1)
    torch.testing.assert_close(nats, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.loss(ids, targets), expected.sum(), atol=1e-2, rtol=1e-4)


def test_loss_without_any_target_is_zero_with_zero_gradient() -> None:
    model = random_model()
    loss = model.loss(tokens(1, 8), torch.full((1, 8), -1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_every_parameter_receives_a_gradient() -> None:
    model = random_model()
    ids = tokens(2, 64)
    model.loss(ids, ids.roll(-1, dims=1)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_bf16_activations_stay_near_fp32() -> None:
    model = random_model()
    ids = tokens(2, 64)
    with torch.no_grad():
        exact = model(ids)
        model.compute_dtype = torch.bfloat16
        rounded = model(ids)
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_padded_vocabulary_is_cropped() -> None:
    model = random_model()
    assert model.config.padded_vocab_size == 320
    assert model(tokens(1, 4)).shape == (1, 4, 300)


def test_too_many_tokens_is_an_error() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="at most seq_len 256 tokens, got 257"):
        model(tokens(1, 257))
    cache = KVCache(model.config, batch=1, capacity=8)
    with pytest.raises(ValueError, match="cache holds 8 tokens a row, got 0 \\+ 9 new"):
        model(tokens(1, 9), cache=cache)
    with pytest.raises(ValueError, match="capacity must be 1 to seq_len"):
        KVCache(model.config, batch=1, capacity=257)
