"""Keys and values of the tokens already seen, one row per sequence.

Rows are independent: each has its own length, so that sequences of different age decode together.
Attention over the cache always spans the whole capacity and masks what a row has not written, which
makes the result of a row independent of its neighbours' lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.model.config import GPTConfig


class KVCache:
    """Cache for ``batch`` rows of up to ``capacity`` tokens.

    Attributes:
        k, v: (L, B, S, Hkv, D) in ``dtype``; zeros where nothing was written.
        previous: (B, C) normed embedding of each row's last token, which smear looks back to.
        lengths: (B,) int64, tokens held by each row; advanced by the model's forward.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 1 <= capacity <= config.seq_len:
            raise ValueError(
                f"kv_cache: capacity must be 1 to seq_len {config.seq_len}, got {capacity}"
            )
        shape = (config.n_layer, batch, capacity, config.n_kv_head, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.previous = torch.zeros(batch, config.n_embd, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch, device=device, dtype=torch.int64)

    @property
    def batch(self) -> int:
        return self.k.shape[1]

    @property
    def capacity(self) -> int:
        return self.k.shape[2]

    def row(self, index: int) -> KVCache:
        """A view of one row: what is written through it is written here."""
        view = KVCache.__new__(KVCache)
        view.k = self.k[:, index : index + 1]
        view.v = self.v[:, index : index + 1]
        view.previous = self.previous[index : index + 1]
        view.lengths = self.lengths[index : index + 1]
        return view

    def reset(self, index: int) -> None:
        """Forget the tokens of one row; stale keys are never seen, since masks follow lengths."""
        self.previous[index].zero_()
        self.lengths[index] = 0

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Append ``k``, ``v`` (B, T, Hkv, D) of one layer behind each row's length."""
        batch, num_new = k.shape[:2]
        positions = self.lengths[:, None] + torch.arange(num_new, device=k.device)  # (B, T)
        rows = torch.arange(batch, device=k.device)[:, None]
        self.k[layer].index_put_((rows, positions), k.to(self.k.dtype))
        self.v[layer].index_put_((rows, positions), v.to(self.v.dtype))

    def mask(self, num_new: int, window: int | None) -> Tensor:
        """(B, 1, T, S) bool: a query sees keys up to its own position, and ``window`` back."""
        device = self.k.device
        query = self.lengths[:, None, None] + torch.arange(num_new, device=device)[:, None]
        key = torch.arange(self.capacity, device=device)
        visible = key <= query
        if window is not None:
            visible &= key >= query - window
        return visible[:, None]
