"""Bits per byte: a loss that does not depend on the tokenizer.

    bpb = sum of nats over targets / (ln 2 * sum of the UTF-8 bytes of those targets)

Ignored targets (-1) and targets without bytes (special tokens) count in neither sum. The sums
stay on the device until the end, so that no batch waits for the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class HasNats(Protocol):
    """Any model that can price its targets."""

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor: ...


@torch.no_grad()
def bits_per_byte(
    model: HasNats,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: np.ndarray | Tensor,
) -> float:
    """Bits per byte of ``batches`` under ``model``, over all ranks when a process group is up.

    Args:
        model: ``nats(ids, targets)`` gives (B, T) fp32, 0 where the target is ignored.
        batches: (inputs, targets) pairs, both (B, T) int64 on the model's device; each rank
            brings its own share, which may be empty on some.
        token_bytes: (V,) bytes of each id, 0 for specials.
    Returns: The same float on every rank; inf or nan if the model's loss is.
    Raises: ValueError if no target on any rank has bytes.
    """
    lengths = torch.as_tensor(token_bytes)
    nats: list[Tensor] = []
    num_bytes: list[Tensor] = []
    for inputs, targets in batches:
        lengths = lengths.to(targets.device)
        size = lengths[targets.clamp_min(0)] * (targets >= 0)  # (B, T)
        nats.append(torch.where(size > 0, model.nats(inputs, targets).float(), 0.0).sum())
        num_bytes.append(size.sum())
    total = torch.tensor([_total(nats), _total(num_bytes)], dtype=torch.float64)
    if dist.is_available() and dist.is_initialized():
        if dist.get_backend() == "nccl":
            total = total.cuda()
        dist.all_reduce(total)
    sum_nats, sum_bytes = total.tolist()
    if sum_bytes == 0:
        raise ValueError(
            "bpb: at least one target must have bytes, got none; "
            "the validation set is empty or holds only special tokens"
        )
    return float(sum_nats / (math.log(2) * sum_bytes))


def _total(parts: list[Tensor]) -> float:
    """Sum in fp64 on the host: the only wait for the device."""
    return float(torch.stack(parts).cpu().double().sum()) if parts else 0.0
