"""How tensors are handed to the extension: as plain numbers, with the place where to run."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.ops.backends import allows_hopper, cpu_level

View = tuple[int, tuple[int, ...], tuple[int, ...], int]
Placement = tuple[bool, int, int, int, int, bool]

_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2, torch.int64: 3}  # dtype.h


def view(tensor: Tensor) -> View:
    """Address, sizes, strides and dtype of ``tensor``, which the caller keeps alive."""
    code = _DTYPE_CODES.get(tensor.dtype)
    if code is None:
        raise ValueError(f"ops: native kernels take no {tensor.dtype}; convert to float32")
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), code


def view_or_none(tensor: Tensor | None) -> View | None:
    """The view of an optional tensor."""
    return None if tensor is None else view(tensor)


def placement(tensor: Tensor, op: str | None = None) -> Placement:
    """Where a call on ``tensor`` runs: PyTorch's thread count, or its current stream.

    Args:
        op: Named by ops that have kernels for Hopper, which then run where they may.
    """
    if tensor.device.type == "cuda":
        index = tensor.get_device()
        stream = torch.cuda.current_stream(index).cuda_stream
        return True, 1, 0, index, stream, op is not None and allows_hopper(op)
    return False, torch.get_num_threads(), cpu_level(), 0, 0, False


def may_run_on_hopper(where: Placement) -> bool:
    """True if kernels for Hopper were allowed."""
    return where[-1]


def check_same_device(op: str, *tensors: Tensor | None) -> None:
    """Raises: ValueError unless all tensors that are given live on one device."""
    devices = {str(t.device) for t in tensors if t is not None}
    if len(devices) > 1:
        raise ValueError(f"{op}: tensors must be on one device, got {', '.join(sorted(devices))}")
