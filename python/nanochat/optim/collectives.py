"""Sums and gathers of tensors cut along dim 0, launched asynchronously; with one rank, nothing.

Every rank launches the same collectives in the same order, and waits for each before it touches the
buffers again. gloo and nccl both take all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed the two collectives on single tensors and warns about the old names.
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Pending:
    """A collective under way; :meth:`wait` before touching its buffers."""

    def __init__(self, work: dist.Work | None = None) -> None:
        self._work = work

    def wait(self) -> None:
        if self._work is not None:
            self._work.wait()


@dataclass(frozen=True)
class World:
    """The ranks that share the optimizer: those of the default process group, or this one alone."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> World:
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    def share(self, num_rows: int) -> slice:
        """Rows of this rank; ``num_rows`` is a multiple of the world size."""
        assert num_rows % self.size == 0
        per_rank = num_rows // self.size
        return slice(self.rank * per_rank, (self.rank + 1) * per_rank)

    def all_reduce(self, tensor: Tensor) -> Pending:
        """Sum ``tensor`` over ranks in place."""
        return Pending(dist.all_reduce(tensor, async_op=True) if self.size > 1 else None)

    def reduce_scatter(self, tensor: Tensor) -> tuple[Tensor, Pending]:
        """This rank's share of the sum of ``tensor`` over ranks; a view of it with one rank."""
        share = tensor[self.share(tensor.shape[0])]
        if self.size == 1:
            return share, Pending()
        output = share.new_empty(share.shape)
        return output, Pending(_reduce_scatter(output, tensor, async_op=True))

    def all_gather(self, tensor: Tensor) -> Pending:
        """Fill ``tensor`` on every rank from the shares of all; each has written its own."""
        if self.size == 1:
            return Pending()
        share = tensor[self.share(tensor.shape[0])]
        return Pending(_all_gather(tensor, share, async_op=True))
