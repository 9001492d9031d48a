"""Softcapped cross-entropy of a language-model head."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nanochat.ops import reference


def cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = 15.0,
    ignore_index: int = -1,
    vocab_size: int | None = None,
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """Cross-entropy of softcap * tanh(x @ weight.T / softcap) against ``targets``, in nats."""
    return reference.cross_entropy(
        x,
        weight,
        targets,
        softcap=softcap,
        ignore_index=ignore_index,
        vocab_size=vocab_size,
        reduction=reduction,
    )
