"""What only the PyTorch core does: bits per slot, a common batch, a model that breaks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat.engine import Engine, Sampling
from nanochat.engine.sampling import sample
from nanochat.engine.torch_core import CHUNK
from nanochat.model import GPT, GPTConfig, KVCache
from nanochat.tokenizer import Tokenizer


def _prompts(number: int) -> list[list[int]]:
    """Random bytes of very different lengths; the first spans two chunks of prefill."""
    rng = random.Random(number)
    lengths = [CHUNK + 9] + [rng.randrange(1, 60) for _ in range(number - 1)]
    return [[rng.randrange(256) for _ in range(length)] for length in lengths]


def test_logits_are_equal_in_every_bit_whatever_the_slot(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide enough for the library to split its work; the tiny model is below that."""
    model = GPT(GPTConfig.from_depth(4, vocab_size=byte_tokenizer.vocab_size, seq_len=128))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    seen: dict[tuple[int, int], bytes] = {}

    def spy(
        logits: np.ndarray, sampling: Sampling, *, seed: int, position: int, **others: object
    ) -> int:
        bits = logits.tobytes()
        assert seen.setdefault((seed, position), bits) == bits
        return sample(logits, sampling, seed=seed, position=position)

    monkeypatch.setattr("nanochat.engine.torch_core.sample", spy)
    prompts = [prompt[:40] for prompt in _prompts(7)]
    samplings = [Sampling(max_tokens=6, seed=i) for i in range(7)]
    with Engine(model, byte_tokenizer, slots=7, backend="torch") as engine:
        for order in (range(7), range(6, -1, -1), (3, 0, 6), (5,), (2,)):
            engine.generate([prompts[i] for i in order], [samplings[i] for i in order])
    assert len(seen) == 7 * 6


def test_a_common_batch_gives_the_same_answers(tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    """Up to rounding, which no token of these hangs on; prefill goes on beside it."""
    prompts = _prompts(7)
    samplings = [Sampling(max_tokens=16, seed=i, temperature=i % 2) for i in range(7)]
    answers = []
    for is_exact in (True, False):
        with Engine(
            tiny_model, byte_tokenizer, slots=3, backend="torch", is_exact=is_exact
        ) as engine:
            answers.append([c.ids for c in engine.generate(prompts, samplings)])
    assert answers[0] == answers[1]


class Fragile(GPT):
    """Breaks at one of its calls."""

    calls = 0
    fail_at = 0

    def hidden(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError("the device is gone")
        return super().hidden(ids, cache=cache)


@pytest.mark.parametrize("fail_at", [1, 2, 5])
def test_a_crash_fails_everyone_and_nobody_waits(
    tiny_model: GPT, byte_tokenizer: Tokenizer, fail_at: int
) -> None:
    model = Fragile(tiny_model.config)
    model.load_state_dict(tiny_model.state_dict())
    model.fail_at = fail_at
    greedy = Sampling(temperature=0.0, max_tokens=64)
    with Engine(model, byte_tokenizer, slots=2, backend="torch") as engine:
        # It may break before the last prompt is submitted, which is then refused because of it.
        with pytest.raises(RuntimeError) as caught:
            engine.generate([[*b"a"], [*b"b"], [*b"c"]], greedy)
        assert "the device is gone" in f"{caught.value} {caught.value.__cause__}"
        assert "OSError: the device is gone" in str(engine.failure)
        assert (engine.num_running, engine.num_queued) == (0, 0)
        with pytest.raises(RuntimeError, match="stopped by an earlier error"):
            engine.generate([[1]], greedy)
