"""Models for scripts/bench/engine.py: classic, as deep as one likes, never trained.

Weights are rounded to bf16 before anyone gets them, so that all contenders have the same ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nanochat.model import GPT, GPTConfig

_EMBEDDING, _HEAD = "transformer.wte.weight", "lm_head.weight"
_LOGIT_RMS = 5.0  # a third of the softcap: most tokens are clear, some are not
_COPY_LOGIT = 15.0  # of the next token in the text, before the softcap
_NEVER_LOGIT = 60.0  # negative, of what is no word


def random_weights(config: GPTConfig, *, seed: int) -> dict[str, Tensor]:
    """A model that says anything, with logits as large as those of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    for name, shape in shapes.items():
        std = {_EMBEDDING: 1.0, _HEAD: _LOGIT_RMS / shape[1] ** 0.5}.get(name, shape[1] ** -0.5)
        weights[name] = (std * torch.randn(shape, generator=generator)).bfloat16()
    return weights


def copying_weights(config: GPTConfig, *, period: int, seed: int) -> dict[str, Tensor]:
    """A model that after token i, less than ``period``, surely says i + 1, after the last one 0.

    It costs what another does: blocks compute and add nothing, and a row of the head is the
    embedding of the token before its own.
    """
    weights = _without_blocks(config, seed=seed)
    text = torch.nn.functional.rms_norm(weights[_EMBEDDING][:period].float(), (config.n_embd,))
    head = weights[_HEAD].zero_()
    head[:period] = (text.roll(1, 0) * (_COPY_LOGIT / config.n_embd)).bfloat16()
    return weights


def copied_text(period: int, num_tokens: int) -> list[int]:
    """What the model of :func:`copying_weights` says from token 0 on."""
    return [i % period for i in range(num_tokens)]


def babbling_weights(config: GPTConfig, *, num_words: int, seed: int) -> dict[str, Tensor]:
    """A model that says any of the tokens below ``num_words``, each time all as likely.

    Three words in a row come again and again, and what follows is another word: guesses are made,
    and refused. As costly as another model, see :func:`copying_weights`.
    """
    weights = _without_blocks(config, seed=seed)
    weights[_EMBEDDING].fill_(1.0)  # the same after every token
    head = weights[_HEAD]
    head[:num_words] = 0.0
    head[num_words:] = -_NEVER_LOGIT / config.n_embd
    return weights


def _without_blocks(config: GPTConfig, *, seed: int) -> dict[str, Tensor]:
    """Random weights whose blocks multiply as usual and add zeros to the stream."""
    weights = random_weights(config, seed=seed)
    for name, tensor in weights.items():
        if name.endswith("c_proj.weight"):
            tensor.zero_()
    return weights


def save(weights: dict[str, Tensor], path: Path) -> Path:
    save_file(weights, path)
    return path


def weight_bytes(config: GPTConfig, dtype: str) -> int:
    """That a step must read, whatever the number of rows: all matrices, no look-up table."""
    return config.num_scaling_params() * {"bf16": 2, "fp32": 4, "int8": 1}[dtype]


def kv_bytes_per_token(config: GPTConfig, dtype: str) -> int:
    """Keys and values of a model of int8 are bf16."""
    num_elements = 2 * config.n_layer * config.n_kv_head * config.head_dim
    return num_elements * {"bf16": 2, "fp32": 4, "int8": 2}[dtype]
