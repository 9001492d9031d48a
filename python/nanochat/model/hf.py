"""A classic model in the form of Hugging Face transformers' ``NanoChatForCausalLM``.

Only ``classic`` can be expressed there: that class has no value embeddings, windows, smear, backout
or residual scalars. No tensor is transposed or permuted; padded vocabulary rows are cropped.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT

_TOP = {"transformer.wte.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
_LAYER = {
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def hf_config(config: GPTConfig) -> dict[str, Any]:
    """Fields of transformers' ``NanoChatConfig``. Raises: ValueError unless it is classic."""
    if config.arch != "classic":
        raise ValueError(f"hf: only arch classic fits transformers' NanoChat, got {config.arch}")
    return {
        "model_type": "nanochat",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_ratio * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "max_position_embeddings": config.seq_len,
        "hidden_act": "relu2",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "final_logit_softcapping": config.softcap,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }


def hf_state_dict(model: GPT) -> dict[str, Tensor]:
    """Weights under transformers' keys: 6 L + 2 tensors, fp32. Raises: as :func:`hf_config`."""
    hf_config(model.config)  # classic or an error
    exported: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in _TOP:
            exported[_TOP[name]] = tensor[: model.config.vocab_size]
            continue
        _, _, layer, inner = name.split(".", 3)  # transformer.h.N.attn.c_q.weight
        exported[f"model.layers.{layer}.{_LAYER[inner.removesuffix('.weight')]}.weight"] = tensor
    return exported
