"""From items to token ids: what a tokenizer must offer to the loader, in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nanochat.data.sources import Item


class TokenBatch(NamedTuple):
    """N documents laid end to end, without the BOS that the packer puts in front of each.

    A mask makes them conversations: it says which tokens are targets, and forbids cutting.
    """

    ids: npt.NDArray[np.integer]  # (n,) uint16, uint32 or int32
    offsets: npt.NDArray[np.int64]  # (N + 1,): document i is ids[offsets[i] : offsets[i + 1]]
    mask: npt.NDArray[np.bool_] | None  # (n,)


Render = Callable[[list[Item]], TokenBatch]


class Tokens(NamedTuple):
    """One conversation, as the sources of finetuning give it: rendered, and short enough."""

    ids: npt.NDArray[np.integer]  # (n,) int32, without BOS
    mask: npt.NDArray[np.bool_]  # (n,), what is learnt


def render_text(
    encode: Callable[[list[str]], tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]],
) -> Render:
    """Renders documents, all of whose tokens are targets; ``encode`` gives ids and offsets."""

    def render(items: list[Item]) -> TokenBatch:
        ids, offsets = encode(items)
        return TokenBatch(ids, offsets, mask=None)

    return render


def lay_end_to_end(items: list[Tokens]) -> TokenBatch:
    """The render of sources whose items are tokens."""
    if not items:
        return TokenBatch(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.bool_))
    return TokenBatch(
        np.concatenate([item.ids for item in items]),
        np.cumsum([0, *(len(item.ids) for item in items)], dtype=np.int64),
        np.concatenate([item.mask for item in items]),
    )
