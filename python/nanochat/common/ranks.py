"""Which process am I, on which device, in which dtype: torchrun's world, or a world of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.common.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Ranks:
    """This process among ``world_size``; ``device`` is its own."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, in place; the tensor itself when there is one rank."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def ranks(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group that torchrun describes in the environment; leave it at the end.

    ``device`` is cuda, cpu or mps; None takes the best one that is there. CUDA ranks talk over
    nccl, the others over gloo.
    """
    kind = device or default_device()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device: cuda was asked for but no CUDA device is visible; use cpu")
        local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(local)
    elif kind in ("cpu", "mps"):
        local = torch.device(kind)
    else:
        raise UserError(f"device: must be cuda, cpu or mps, got {kind}")
    if world_size == 1:
        yield Ranks(0, 1, local)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Ranks(rank, world_size, local)
    finally:
        dist.destroy_process_group()


def default_device() -> str:
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def compute_dtype(device: torch.device | str, name: str | None = None) -> torch.dtype:
    """Activation dtype: ``name`` (fp32, bf16), else ``NANOCHAT_DTYPE``, else what is fast.

    bf16 on CUDA from sm_80 and on CPUs with bf16 dot products (AVX512_BF16, AMX); fp32 elsewhere.
    """
    name = name or os.environ.get("NANOCHAT_DTYPE")
    if name is not None:
        if name not in DTYPES:
            raise UserError(f"dtype: must be one of {', '.join(DTYPES)}, got {name}")
        return DTYPES[name]
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = kind == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.bfloat16 if fast else torch.float32
