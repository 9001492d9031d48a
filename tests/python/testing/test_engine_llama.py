"""llama.cpp computes the model that it was written: its tokens do not depend on their batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.model import GPTConfig
from nanochat.testing import engine_models

CONFIG = GPTConfig.from_depth(1, arch="classic", vocab_size=64, seq_len=48)
PROMPTS = [[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]]


def test_rows_in_a_batch_are_as_alone(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from nanochat.testing.engine_llama import Llama, write_gguf

    weights = engine_models.random_weights(CONFIG, seed=3)
    path = write_gguf(CONFIG, weights, tmp_path / "model.gguf")
    llama = Llama(path, CONFIG, num_rows=2, num_threads=1)
    together = llama.generate(PROMPTS, 8, 0.0).tokens
    assert together == [llama.generate([prompt], 8, 0.0).tokens[0] for prompt in PROMPTS]
    assert together[0] != together[1] and len(set(together[0])) > 1
