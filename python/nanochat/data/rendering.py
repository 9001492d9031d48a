"""From items to token ids: what a tokenizer must offer to the loader, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def render_text(
    encode: Callable[[list[str]], tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]],
) -> Render:
    """Renders documents, all of whose tokens are targets; ``encode`` gives ids and offsets."""

    def render(items: list[Item]) -> TokenBatch:
        ids, offsets = encode(items)
        return TokenBatch(ids, offsets, mask=None)

    return render


def render_chat(
    render_conversation: Callable[[Item], tuple[Sequence[int], Sequence[int]]], *, bos: int
) -> Render:
    """Renders conversations with a mask: only what the assistant says is a target.

    ``render_conversation`` gives ids from BOS on, and as many flags. The renderer raises ValueError
    if it does not.
    """

    def render(items: list[Item]) -> TokenBatch:
        ids: list[int] = []
        mask: list[int] = []
        offsets = [0]
        for item in items:
            its_ids, its_mask = render_conversation(item)
            if len(its_ids) == 0 or its_ids[0] != bos:
                raise ValueError(
                    f"rendering: a conversation must begin with BOS ({bos}), got {its_ids[:4]}"
                )
            if len(its_mask) != len(its_ids):
                raise ValueError(
                    f"rendering: mask must have {len(its_ids)} entries, got {len(its_mask)}"
                )
            ids += its_ids[1:]
            mask += its_mask[1:]
            offsets.append(len(ids))
        return TokenBatch(
            np.array(ids, np.int32), np.array(offsets, np.int64), np.array(mask, np.bool_)
        )

    return render
