"""The bound of the stories, and a model that knows nothing far above it."""

from __future__ import annotations

import math

import torch

from nanochat.evals.stories import story_bpb
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer


def test_a_uniform_model_pays_log_v_per_token() -> None:
    tokenizer = Tokenizer.from_ranks({bytes([i]): i for i in range(256)})
    config = GPTConfig.from_depth(1, vocab_size=tokenizer.vocab_size, seq_len=1024, head_dim=32)
    model = GPT(config)
    model.init_weights(seed=0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    bpb, bound = story_bpb(model, tokenizer, num_stories=20, seed=3)
    assert math.isclose(bpb, math.log2(tokenizer.vocab_size), rel_tol=1e-4)  # one byte, one token
    assert 0.05 < bound < 0.5
