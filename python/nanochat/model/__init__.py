"""The model: configuration, network, key/value cache."""

from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import KVCache

__all__ = ["GPT", "GPTConfig", "KVCache"]
