"""llama.cpp as a contender of scripts/bench/engine.py, through the C interface of llama_cpp.

It knows no model like ours. "arcee" has the same matrices and activation, but no norm of embeddings
and queries and keys, and no softcap: as much work for a token, other logits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nanochat.model import GPTConfig
from nanochat.testing.engine_timing import Generated

_UBATCH = 512  # tokens that it computes at once, its default
_BLOCK = {
    "attn.c_q": "attn_q",
    "attn.c_k": "attn_k",
    "attn.c_v": "attn_v",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(config: GPTConfig, weights: dict[str, Tensor], path: Path) -> Path:
    """``weights`` are those of a GPT, in bf16."""
    gguf = import_module("gguf")
    writer = gguf.GGUFWriter(path, "arcee")
    writer.add_context_length(config.seq_len)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.mlp_ratio * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, matrix in _tensors(config, weights):
        writer.add_tensor(name, matrix.view(torch.uint8).numpy(),
                          raw_dtype=gguf.GGMLQuantizationType.BF16)  # fmt: skip
    for name in _norms(config):
        writer.add_tensor(name, np.ones(config.n_embd, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(config: GPTConfig, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "token_embd.weight", weights["transformer.wte.weight"][: config.vocab_size]
    yield "output.weight", weights["lm_head.weight"][: config.vocab_size]
    for layer in range(config.n_layer):
        for ours, theirs in _BLOCK.items():
            yield f"blk.{layer}.{theirs}.weight", weights[f"transformer.h.{layer}.{ours}.weight"]


def _norms(config: GPTConfig) -> list[str]:
    blocks = [
        f"blk.{i}.{kind}_norm.weight" for i in range(config.n_layer) for kind in ("attn", "ffn")
    ]
    return ["output_norm.weight", *blocks]


class Llama:
    """A model and room for ``num_rows`` sequences, each with its own part of the cache."""

    def __init__(self, path: Path, config: GPTConfig, *, num_rows: int, num_threads: int) -> None:
        self._lib = llama_cpp = import_module("llama_cpp")
        self._vocab_size = config.vocab_size
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = num_rows * config.seq_len
        options.n_ubatch = _UBATCH
        options.n_seq_max = num_rows
        options.n_threads = options.n_threads_batch = num_threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp: no context for {options.n_ctx} tokens")
        self._batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)

    def generate(
        self, prompts: Sequence[list[int]], num_tokens: int, temperature: float
    ) -> Generated:
        assert temperature == 0
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)
        length = len(prompts[0])
        tokens: list[list[int]] = [[] for _ in prompts]
        arrivals_s: list[float] = []
        started = time.perf_counter()
        inputs = list(prompts)
        for step in range(num_tokens):
            inputs = [[token] for token in self._compute(inputs, length + step - len(inputs[0]))]
            for row, (token,) in zip(tokens, inputs, strict=True):
                row.append(token)
            arrivals_s.append(time.perf_counter() - started)
        return Generated(tokens, [arrivals_s] * len(prompts), {})

    def _compute(self, rows: Sequence[list[int]], position: int) -> list[int]:
        """The likeliest token after each row, whose tokens begin at ``position``."""
        batch, last = self._batch, []
        i = 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[i] = token
                batch.pos[i] = position + offset
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = offset == len(row) - 1
                i += 1
            last.append(i - 1)
        batch.n_tokens = i
        if status := self._lib.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp: llama_decode returned {status}")
        size = (self._vocab_size,)
        return [
            int(
                np.ctypeslib.as_array(
                    self._lib.llama_get_logits_ith(self._context, i), size
                ).argmax()
            )
            for i in last
        ]
