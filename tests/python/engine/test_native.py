"""The native core: equal to PyTorch's model, and to itself in every bit however it is run."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat import _core
from nanochat.checkpoint import save_checkpoint
from nanochat.common.errors import UserError
from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.engine.native import ISAS, MappedTensors
from nanochat.engine.sampling import logprobs_of
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

T = 200
HERE = ISAS[: _core.best_isa() + 1]


def _model(arch: str, tokenizer: Tokenizer, *, n_kv_head: int = 2, head_dim: int = 16) -> GPT:
    """Random, every part awake; windows shorter than the context in the modern one."""
    config = GPTConfig(
        arch=arch,  # type: ignore[arg-type]
        n_layer=3,
        n_head=4,
        n_kv_head=n_kv_head,
        n_embd=4 * head_dim,
        vocab_size=tokenizer.vocab_size,
        seq_len=T,
    )
    model = GPT(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(params=["classic", "modern"])
def model(request: pytest.FixtureRequest, byte_tokenizer: Tokenizer) -> GPT:
    return _model(request.param, byte_tokenizer)


def _native(model: GPT, tokenizer: Tokenizer, *, slots: int = 4, **options: object) -> Engine:
    native = NativeOptions(**options)  # type: ignore[arg-type]
    return Engine(model, tokenizer, slots=slots, backend="native", options=native)


def _ids(number: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(number)]


# Against PyTorch.


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize(
    ("n_kv_head", "head_dim"), [(1, 16), (2, 64), (4, 128), (4, 8), (2, 12)], ids=str
)
@pytest.mark.parametrize("arch", ["classic", "modern"])
def test_logits_equal_those_of_the_model(
    byte_tokenizer: Tokenizer, arch: str, n_kv_head: int, head_dim: int, isa: str
) -> None:
    model = _model(arch, byte_tokenizer, n_kv_head=n_kv_head, head_dim=head_dim)
    ids = _ids(T)
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    with _native(model, byte_tokenizer, dtype="fp32", isa=isa) as engine:
        np.testing.assert_allclose(engine.logits(ids), expected, atol=2e-4)


@pytest.mark.parametrize("isa", HERE)
def test_bf16_errs_at_most_twice_as_much_as_pytorch_in_bf16(
    model: GPT, byte_tokenizer: Tokenizer, isa: str
) -> None:
    ids = torch.tensor([_ids(T)])
    half = GPT(model.config, compute_dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    rounded = GPT(model.config)  # fp32 arithmetic on weights that bf16 can hold: the oracle
    rounded.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    with torch.no_grad():
        oracle, theirs = rounded(ids)[0].numpy(), half(ids)[0].numpy()
    with _native(model, byte_tokenizer, dtype="bf16", isa=isa) as engine:
        ours = engine.logits(ids[0].tolist())
    assert np.abs(ours - oracle).max() <= 2 * np.abs(theirs - oracle).max()
    assert np.abs(ours - oracle).mean() <= np.abs(theirs - oracle).mean()


def _int8(model: GPT) -> GPT:
    """fp32 arithmetic on weights of products as int8 holds them, and tables as bf16 does."""
    weights = model.state_dict()
    for name, weight in weights.items():
        if "attn.c_" in name or "mlp.c_" in name or name == "lm_head.weight":
            scale = weight.abs().amax(dim=1, keepdim=True) / 127
            weights[name] = (weight / scale).round() * scale
        elif "wte" in name or "value_embeds" in name:
            weights[name] = weight.bfloat16().float()
    rounded = GPT(model.config)
    rounded.load_state_dict(weights)
    return rounded


@pytest.mark.parametrize("isa", HERE)
def test_int8_loses_what_its_weights_lose(model: GPT, byte_tokenizer: Tokenizer, isa: str) -> None:
    """And, beside that, no more than bf16 does with the weights that it has."""
    ids = _ids(T)
    errors = {}
    for dtype, oracle in (("int8", _int8(model)), ("bf16", model)):
        with torch.no_grad():
            expected = oracle(torch.tensor([ids]))[0].numpy()
        with _native(model, byte_tokenizer, dtype=dtype, isa=isa) as engine:
            errors[dtype] = np.abs(engine.logits(ids) - expected).mean()
    assert errors["int8"] <= errors["bf16"]


@pytest.mark.slow
def test_greedy_tokens_of_500_prompts_are_those_of_the_model(
    model: GPT, byte_tokenizer: Tokenizer
) -> None:
    """Where the two likeliest tokens are less than 0.001 apart, rounding may choose."""
    rng = random.Random(1)
    prompts = [_ids(rng.randrange(1, 60), seed=i) for i in range(500)]
    options = {"dtype": "fp32", "chunk": 33, "chunk_beside": 5, "cache_tokens": 600}
    with _native(model, byte_tokenizer, slots=17, **options) as engine:
        completions = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=8))
        assert engine.statistics()["cached_tokens"] > 0
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = [*prompt, *completion.ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, len(prompt) - 1 : -1]
        best, second = logits.topk(2).values.unbind(-1)
        is_chosen = torch.tensor(completion.mask, dtype=torch.bool)  # not a tool's answer
        is_clear = is_chosen & (best - second > 1e-3)
        chosen = torch.tensor(completion.ids)
        assert torch.equal(chosen[is_clear], logits.argmax(-1)[is_clear])


# Against itself: tokens and bits.


def test_logits_have_the_same_bits_for_every_chunk_and_thread(
    model: GPT, byte_tokenizer: Tokenizer
) -> None:
    ids = _ids(T)
    seen = set()
    for chunk, threads in product((1, 7, 64, 512), (1, 2)):
        with _native(model, byte_tokenizer, chunk=chunk, threads=threads) as engine:
            engine.generate([ids[:50]], Sampling(max_tokens=9))  # another content of pages
            seen.add(engine.logits(ids).tobytes())
    assert len(seen) == 1


def _samplings(number: int) -> list[Sampling]:
    kinds: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 20},
        {"top_p": 0.9, "min_p": 0.01},
        {"temperature": 0.0, "repetition_penalty": 1.3},
    ]
    # Log-probabilities tell bits of the logits that the tokens may not.
    return [
        Sampling(max_tokens=14, seed=i, logprobs=2, **kinds[i % 5])  # type: ignore[arg-type]
        for i in range(number)
    ]


WAYS = [
    {"slots": batch, "threads": threads, "chunk": chunk, "chunk_beside": chunk,
     "shares_prefixes": shares, "max_drafts": drafts, "cache_tokens": room}
    for batch, threads, chunk, shares, drafts, room in [
        (1, 1, 512, False, 0, None), (1, 2, 1, True, 8, None), (2, 1, 7, True, 0, None),
        (3, 2, 64, False, 8, None), (7, 1, 512, True, 8, None), (8, 2, 7, True, 3, T),
        (33, 1, 64, True, 8, None), (33, 2, 512, True, 8, T), (33, 1, 1, False, 0, T),
    ]
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8"])
def test_a_completion_does_not_depend_on_how_it_is_run(
    model: GPT, byte_tokenizer: Tokenizer, dtype: str
) -> None:
    """Batch, threads, chunks, cache, speculation, preemption (a cache for one), neighbours."""
    common = _ids(100, seed=9)
    prompts = [
        [*common[: random.Random(i).choice((0, 3, 64, 65, 100))], *_ids(1 + i % 9, seed=i)]
        for i in range(40)
    ]
    samplings = _samplings(40)
    expected = None
    for number, way in enumerate(WAYS):
        options = dict(way)
        with _native(model, byte_tokenizer, dtype=dtype, **options) as engine:  # type: ignore[arg-type]
            order = random.Random(number).sample(range(40), 40)
            doomed = [engine.submit(prompts[i], samplings[i], lambda _: None) for i in order[:5]]
            for request in doomed[::2]:
                request.cancel()
            completions = engine.generate(
                [prompts[i] for i in order], [samplings[i] for i in order]
            )
            for request in doomed:
                request.cancel()
            counted = engine.statistics()
        answers = dict(zip(order, ((c.ids, c.logprobs) for c in completions), strict=True))
        expected = expected or answers
        assert answers == expected, way
        if way["cache_tokens"] is not None and way["slots"] == 33:
            assert counted["preemptions"] > 0
        if way["shares_prefixes"] and way["cache_tokens"] is None:
            assert counted["cached_tokens"] > 0


@pytest.mark.slow
def test_nor_on_any_combination_of_them(model: GPT, byte_tokenizer: Tokenizer) -> None:
    common = _ids(66, seed=8)
    prompts = [[*common[: (0, 64, 66)[i % 3]], *_ids(1 + i, seed=i)] for i in range(12)]
    samplings = [replace(how, max_tokens=6) for how in _samplings(12)]
    seen = set()
    for batch, threads, chunk, shares, drafts in product(
        (1, 2, 3, 7, 8, 33), (1, 2), (1, 7, 64, 512), (False, True), (0, 8)
    ):
        with _native(
            model, byte_tokenizer, slots=batch, threads=threads, chunk=chunk, chunk_beside=chunk,
            shares_prefixes=shares, max_drafts=drafts,
        ) as engine:  # fmt: skip
            completions = engine.generate(prompts, samplings)
        seen.add(str([(c.ids, c.logprobs) for c in completions]))
    assert len(seen) == 1


# What a caller sees.


def test_samples_of_one_prompt_share_its_keys_and_differ(
    model: GPT, byte_tokenizer: Tokenizer
) -> None:
    prompt, sampling = _ids(130), Sampling(max_tokens=10, seed=3)
    with _native(model, byte_tokenizer, slots=8) as engine:
        samples = engine.generate([prompt], sampling, n=8)
        counted = engine.statistics()
        assert [c.ids for c in engine.generate([prompt], sampling, n=3)] == [
            c.ids for c in samples[:3]
        ]
    assert len({tuple(c.ids) for c in samples}) > 4
    assert counted["cached_tokens"] >= 7 * 129  # computed once
    assert samples[0].usage.cached_tokens == 0 and samples[7].usage.cached_tokens == 129


def test_a_second_turn_computes_its_new_tokens_only(model: GPT, byte_tokenizer: Tokenizer) -> None:
    first = _ids(70)
    with _native(model, byte_tokenizer) as engine:
        (answer,) = engine.generate([first], Sampling(max_tokens=20, seed=1))
        turn = [*first, *answer.ids, *_ids(5, seed=2)]
        (second,) = engine.generate([turn], Sampling(max_tokens=2, seed=1))
        counted = engine.statistics()
    assert counted["bytes_read"] / counted["steps"] > 2 * model.config.num_block_parameters()
    # The token that was drawn last has not been computed.
    is_cut = answer.reason == "length"
    assert second.usage.cached_tokens == len(first) + len(answer.ids) - is_cut


def test_logprobs_are_those_of_the_model(model: GPT, byte_tokenizer: Tokenizer) -> None:
    prompt = _ids(20)
    with _native(model, byte_tokenizer, dtype="fp32") as engine:
        (answer,) = engine.generate([prompt], Sampling(max_tokens=6, seed=2, logprobs=3))
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer.ids]]))[0].numpy()
    assert answer.logprobs is not None
    for i, told in enumerate(answer.logprobs):
        logprob, top = logprobs_of(logits[len(prompt) - 1 + i], told.token, 3)
        assert told.logprob == pytest.approx(logprob, abs=1e-3)
        assert [token for token, _ in told.top] == [token for token, _ in top]
        assert [p for _, p in told.top] == pytest.approx([p for _, p in top], abs=1e-3)


def test_guesses_ahead_save_steps(scripted: object, byte_tokenizer: Tokenizer) -> None:
    """A text that repeats: what follows is in the prompt already."""
    cycle = [*b"the quick brown fx jumps"]
    model = scripted([*dict.fromkeys(cycle), cycle[0]])  # type: ignore[operator]
    greedy = Sampling(temperature=0.0, max_tokens=120)
    steps = {}
    for max_drafts in (0, 8):
        with _native(model, byte_tokenizer, max_drafts=max_drafts) as engine:
            (answer,) = engine.generate([[*dict.fromkeys(cycle)] * 2], greedy)
            steps[max_drafts] = (engine.statistics()["steps"], answer.ids)
    assert steps[0][1] == steps[8][1]
    assert steps[8][0] < steps[0][0] / 2


def test_weights_that_are_not_numbers_fail_everyone(model: GPT, byte_tokenizer: Tokenizer) -> None:
    with torch.no_grad():
        model.lm_head.weight[7, 3] = float("nan")
    with _native(model, byte_tokenizer) as engine:
        with pytest.raises(RuntimeError, match="NaN"):
            engine.generate([[1]], Sampling(max_tokens=4))
        assert "NaN" in str(engine.failure)
        with pytest.raises(RuntimeError, match="stopped by an earlier error"):
            engine.generate([[1]], Sampling())


def test_a_checkpoint_is_mapped_and_answers_the_same(
    model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path, 1, model=model, tokenizer=byte_tokenizer, meta={})
    sampling = Sampling(max_tokens=12, seed=4)
    with _native(model, byte_tokenizer) as engine:
        expected = engine.generate([_ids(30)], sampling)[0].ids
    with Engine.load(tmp_path) as engine:
        assert engine.backend == "native" and engine.model is None
        assert engine.generate([_ids(30)], sampling)[0].ids == expected
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:40], whole[:-4], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="engine: cannot read weights from"):
            MappedTensors(path)


def test_options_and_weights_that_do_not_fit_are_refused(
    model: GPT, byte_tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match=r"isa must be one of base, .*, got 'sse'"):
        NativeOptions(isa="sse")
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        NativeOptions(threads=0)
    with pytest.raises(ValueError, match="on CUDA the dtype must be bf16, got int8"):
        NativeOptions(cuda_device=0, dtype="int8")
    if not torch.cuda.is_available():  # refused, whether by the build or for want of a device
        with pytest.raises(NotImplementedError, match="engine: "):
            _native(model, byte_tokenizer, cuda_device=0)
    with pytest.raises(ValueError, match="a context of 200 tokens takes 5 pages of 64, got 3"):
        _native(model, byte_tokenizer, cache_tokens=100)
    odd = GPT(GPTConfig(arch="classic", n_layer=1, n_head=1, n_kv_head=1, n_embd=20, vocab_size=270,
                        seq_len=T))  # fmt: skip
    with pytest.raises(NotImplementedError, match="multiples of 16, got n_embd 20"):
        _native(odd, byte_tokenizer)
    other = GPT(GPTConfig.from_depth(1, vocab_size=300, seq_len=T, head_dim=64))
    del other.transformer.h[0].attn.c_k
    with pytest.raises(ValueError, match=r"transformer.h.0.attn.c_k.weight is missing"):
        _native(other, byte_tokenizer)
