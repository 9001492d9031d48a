"""Other weights in a living engine: it is as one made from them, to the bit."""

from __future__ import annotations

import pytest
import torch

from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.engine.engine import Backend
from nanochat.model import GPT, GPTConfig
from nanochat.model.config import Arch
from nanochat.tokenizer import Tokenizer

T = 160
PROMPTS = [[*range(100)], [*range(70), 5, 6], [9]]  # the second begins with a page of the first
# Log-probabilities tell bits of the logits that the tokens may not.
SAMPLING = Sampling(max_tokens=12, seed=3, logprobs=2)


def _model(arch: Arch, tokenizer: Tokenizer, *, seed: int, n_layer: int = 3) -> GPT:
    """Random, every part awake."""
    model = GPT(
        GPTConfig(
            arch=arch, n_layer=n_layer, n_head=4, n_kv_head=2, n_embd=64,
            vocab_size=tokenizer.vocab_size, seq_len=T,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _said(engine: Engine) -> list[object]:
    return [(c.ids, c.logprobs) for c in engine.generate(PROMPTS, SAMPLING)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8"])
@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_native_equals_an_engine_made_from_the_new_weights(
    byte_tokenizer: Tokenizer, arch: Arch, dtype: str, threads: int
) -> None:
    old, new = (_model(arch, byte_tokenizer, seed=seed) for seed in (1, 2))
    options = NativeOptions(dtype=dtype, threads=threads)
    with Engine(new, byte_tokenizer, options=options) as fresh:
        expected, logits = _said(fresh), fresh.logits(PROMPTS[0])
    with Engine(old, byte_tokenizer, options=options) as engine:
        before = _said(engine)
        engine.load_weights(new)
        counted = engine.statistics()
        assert counted["free_pages"] == counted["pages"]  # keys of the old weights are gone
        assert _said(engine) == expected != before
        assert engine.logits(PROMPTS[0]).tobytes() == logits.tobytes()
        engine.load_weights(old)
        assert _said(engine) == before


def test_weights_that_were_changed_in_place_count_when_they_are_loaded(
    byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    """As an optimizer does it. PyTorch computes with the model itself and sees it at once."""
    model, other = (_model("modern", byte_tokenizer, seed=seed) for seed in (1, 2))
    with Engine(model, byte_tokenizer, backend=backend) as engine:
        first = _said(engine)
        model.load_state_dict(other.state_dict())
        assert (_said(engine) == first) == (backend == "native")
        engine.load_weights(model)
        with Engine(other, byte_tokenizer, backend=backend) as fresh:
            assert _said(engine) == _said(fresh) != first


def test_the_model_is_the_one_whose_weights_it_has(
    byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    old, new = (_model("classic", byte_tokenizer, seed=seed) for seed in (1, 2))
    with Engine(old, byte_tokenizer, backend=backend) as engine:
        engine.load_weights(new)
        assert engine.model is new
        said = _said(engine)
    with Engine(new, byte_tokenizer, backend=backend) as fresh:
        assert said == _said(fresh)


def test_nothing_may_run(unhurried_model: GPT, byte_tokenizer: Tokenizer, backend: Backend) -> None:
    endless = Sampling(max_tokens=300, seed=1)
    with Engine(unhurried_model, byte_tokenizer, slots=1, backend=backend) as engine:
        requests = [engine.submit([65], endless, lambda _: None) for _ in range(2)]
        with pytest.raises(RuntimeError, match="when nothing runs, got 2 requests; wait for them"):
            engine.load_weights(unhurried_model)
        for request in requests:
            request.cancel()
        (before,) = engine.generate([[66]], Sampling(max_tokens=3, seed=1))
        engine.load_weights(unhurried_model)  # cancelled ones are no obstacle
        (after,) = engine.generate([[66]], Sampling(max_tokens=3, seed=1))
        assert after.ids == before.ids
    with pytest.raises(RuntimeError, match="closed"):
        engine.load_weights(unhurried_model)


def test_weights_that_do_not_fit_change_nothing(
    byte_tokenizer: Tokenizer, backend: Backend
) -> None:
    model = _model("modern", byte_tokenizer, seed=1)
    with Engine(model, byte_tokenizer, backend=backend) as engine:
        before = _said(engine)
        with pytest.raises(ValueError, match="weights must be of the same config"):
            engine.load_weights(_model("modern", byte_tokenizer, seed=1, n_layer=2))
        broken = _model("modern", byte_tokenizer, seed=2)
        if backend == "native":
            del broken.backout_lambda  # the last to be read
            with pytest.raises(ValueError, match="backout_lambda is missing"):
                engine.load_weights(broken)
        else:
            broken.compute_dtype = torch.bfloat16
            with pytest.raises(ValueError, match=r"must be in torch\.float32 on cpu, got"):
                engine.load_weights(broken)
        assert _said(engine) == before
