"""Attention as others have it, behind our pre-pass: the rungs of CUDA's ladder below our kernels.

"flash_attn" is the package of that name (version 3 where it is built for the device), "torch" is
PyTorch's SDPA, and FlexAttention for windows: an explicit mask would cost as much as no window.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from nanochat.ops import reference

_HAS_TRITON = find_spec("triton") is not None
_HAS_FLASH_3 = find_spec("flash_attn_interface") is not None
_TILE = 128  # queries and keys of one entry of a block mask

_block_masks: dict[tuple[int, int, torch.device], BlockMask] = {}


def attend(
    path: Literal["flash_attn", "torch"], q: Tensor, k: Tensor, v: Tensor, *, window: int | None
) -> Tensor:
    """Causal attention of q (B, T, H, D) and k, v (B, T, Hkv, D) that went through the pre-pass."""
    if window is not None and window >= q.shape[1] - 1:
        window = None
    if path == "flash_attn":
        return _flash(q, k, v, window)
    if window is None or not _HAS_TRITON:
        return reference.causal_attention(q, k, v, window=window)
    return flex(q, k, v, window)


def _flash(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    if _HAS_FLASH_3 and torch.cuda.get_device_capability(q.device) == (9, 0):
        from flash_attn_interface import flash_attn_func
    else:
        from flash_attn import flash_attn_func
    sides = (-1, -1) if window is None else (window, 0)  # keys to the left and right of a query
    out = flash_attn_func(q, k, v, causal=True, window_size=sides)
    first: Tensor = out[0] if isinstance(out, tuple) else out  # early version 3 adds the logsumexp
    return first


def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlexAttention over the tiles that a window touches; compiled, except on the CPU."""
    attention: Any = flex_attention
    if q.is_cuda and not torch.compiler.is_compiling():
        attention = _compiled_flex()
    out: Tensor = attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        block_mask=_cached_block_mask(q.shape[1], window, q.device),
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _cached_block_mask(T: int, window: int, device: torch.device) -> BlockMask:
    if torch.compiler.is_compiling():
        return block_mask(T, window, device)  # part of the graph: n x n integers, n = T / _TILE
    key = T, window, device
    if key not in _block_masks:
        _block_masks[key] = block_mask(T, window, device)
    return _block_masks[key]


def block_mask(T: int, window: int, device: torch.device) -> BlockMask:
    """Which tiles queries see whole, and which in part; the T x T mask itself is never made."""

    def is_visible(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j <= window)

    def tables(tiles: Tensor) -> tuple[Tensor, Tensor]:
        """For each row of tiles (n, n) how many are set, and their columns first."""
        order = tiles.int().argsort(dim=-1, descending=True, stable=True)
        return tiles.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]

    n = -(-T // _TILE)
    i = torch.arange(n, device=device)
    # In the tile at this distance from the diagonal, queries are apart - (_TILE - 1) up to
    # apart + (_TILE - 1) keys away.
    apart = (i[:, None] - i[None, :]) * _TILE
    is_seen = (apart >= 0) & (apart - (_TILE - 1) <= window)
    is_whole = (apart > 0) & (apart + (_TILE - 1) <= window)
    return BlockMask.from_kv_blocks(
        *tables(is_seen & ~is_whole),
        *tables(is_whole),
        BLOCK_SIZE=_TILE,
        mask_mod=is_visible,
        seq_lengths=(T, T),
    )
