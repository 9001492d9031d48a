"""What named GPUs can do: the rates from which a plan computes hours.

Peak is dense bf16 with fp32 accumulation. MFU is the share of it that whole training runs reached,
published for karpathy/nanochat, plain bf16, without fp8:

    8 x H100   d12 38 % (5.5 min), d16 39.9 %, d20 47.5 %, d24 50.0 %, d32 50.9 %
    8 x A100   d24 43 % (226K tokens/s, windows through SDPA)
    RTX 4070   d12 73 %; RTX 4090 d20 80 %: GeForce halves its peak for fp32 accumulation

A card without a row of its own above takes the share of its family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanochat.common.errors import UserError

_DEEP = 18  # layers from which matrices are large enough for the higher MFU


@dataclass(frozen=True)
class Gpu:
    name: str
    peak_tflops: float
    memory_gb: float  # 10^9 bytes
    mfu_shallow: float  # below 18 layers
    mfu_deep: float
    is_published: bool  # MFU of this very card

    def mfu(self, depth: int) -> float:
        return self.mfu_deep if depth >= _DEEP else self.mfu_shallow


_HOPPER, _AMPERE, _GEFORCE = (0.38, 0.475), (0.38, 0.43), (0.73, 0.73)

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 989, 80, *_HOPPER, True),
        Gpu("H200", 989, 141, *_HOPPER, False),
        Gpu("GH200", 989, 96, *_HOPPER, False),
        Gpu("A100", 312, 80, *_AMPERE, True),
        Gpu("A6000", 155, 48, *_AMPERE, False),
        Gpu("A10", 125, 24, *_AMPERE, False),
        Gpu("L40S", 362, 48, *_AMPERE, False),
        Gpu("L4", 121, 24, *_AMPERE, False),
        Gpu("3090", 71, 24, *_GEFORCE, False),
        Gpu("4070", 58, 12, *_GEFORCE, True),
        Gpu("4090", 165, 24, *_GEFORCE, True),
        Gpu("5090", 210, 32, *_GEFORCE, False),
    )
}


def gpu_named(name: str) -> Gpu:
    """The card behind ``name``, as a person or the driver writes it ("NVIDIA H100 80GB HBM3").

    Raises: UserError with the names there are.
    """
    words = re.findall(r"[A-Z]*\d+[A-Z]*", name.upper())
    for word in words:
        if word in GPUS:
            return GPUS[word]
    raise UserError(
        f"plan: no peak rate is known for the GPU {name}; "
        f"name the nearest of {', '.join(GPUS)} with --gpu"
    )
