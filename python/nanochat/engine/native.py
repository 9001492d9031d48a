"""The native core (csrc/engine) for a model in memory or in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat import _core
from nanochat.common.errors import UserError
from nanochat.model import GPTConfig

View = tuple[int, tuple[int, ...], tuple[int, ...], int]  # address, sizes, strides, dtype code

PAGE_TOKENS = 64  # kPageTokens of csrc/engine/model.h
DTYPES = ("fp32", "bf16", "int8")  # Precision of csrc/engine/cpu/packed_matrix.h
CUDA_BURST = 8  # tokens that sequences draw on a GPU before the host looks: 3 ms at d24
ISAS = ("base", "avx2", "avx512", "avx512_bf16")

_CODES = {"F32": (0, 4), "BF16": (1, 2)}  # of dtypes in a file: that of dtype.h, bytes an element


@dataclass(frozen=True)
class NativeOptions:
    """How the native engine computes. None of it but ``dtype`` and ``isa`` changes a token."""

    dtype: str = "bf16"
    """Of weights, keys and values: bf16 or fp32; int8 is of weights, beside keys in bf16."""
    threads: int | None = None
    """By default as many as there are processors to run on."""
    isa: str | None = None
    """Instruction level: base, avx2, avx512 or avx512_bf16; by default the best of the machine."""
    cache_tokens: int | None = None
    """Room for keys and values; by default the context for every slot and one more."""
    chunk: int = 512
    """Tokens of a prompt in a step, when nobody decodes."""
    chunk_beside: int = 64
    """The same beside those who decode: what a new prompt may delay them by."""
    shares_prefixes: bool = True
    """Keep keys and values for prompts that begin the same."""
    max_drafts: int = 8
    """Tokens to guess ahead from the text so far, where that pays; 0 for none."""
    cuda_device: int | None = None
    """Compute on this CUDA device, in bf16. Opt-in: its kernels have not yet run on hardware."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"engine: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}"
            )
        if self.isa is not None and self.isa not in ISAS:
            raise ValueError(f"engine: isa must be one of {', '.join(ISAS)}, got {self.isa!r}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"engine: threads must be at least 1, got {self.threads}")
        if self.cuda_device is not None and self.dtype != "bf16":
            raise ValueError(f"engine: on CUDA the dtype must be bf16, got {self.dtype}")


def native_core(
    config: GPTConfig, tensors: Mapping[str, View], *, slots: int, options: NativeOptions
) -> _core.Engine:
    """The core, with its own copy of the weights; ``tensors`` by their state-dict names.

    Raises: ValueError for weights that do not fit the config; NotImplementedError for an ``isa``
        that this machine lacks, and for ``cuda_device`` in a build without CUDA.
    """
    cache_tokens = options.cache_tokens or (slots + 1) * config.seq_len
    return _core.Engine(
        _fields(config),
        dict(tensors),
        precision=DTYPES.index(options.dtype),
        isa=-1 if options.isa is None else ISAS.index(options.isa),
        threads=options.threads or len(os.sched_getaffinity(0)),
        slots=slots,
        pages=-(-cache_tokens // PAGE_TOKENS) + 1,
        max_chunk=options.chunk,
        max_chunk_beside=options.chunk_beside,
        shares_prefixes=options.shares_prefixes,
        max_drafts=options.max_drafts,
        max_burst=1 if options.cuda_device is None else CUDA_BURST,
        cuda_device=-1 if options.cuda_device is None else options.cuda_device,
    )


def _fields(config: GPTConfig) -> dict[str, Any]:
    """ModelConfig of csrc/engine/model.h."""
    names = (
        "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd", "vocab_size", "seq_len",
        "rope_base", "norm_eps", "qk_scale", "softcap", "ve_gate_channels", "use_residual_lambdas",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names} | {
        "mlp_width": config.mlp_ratio * config.n_embd,
        "windows": [-1 if window is None else window for window in config.windows()],
        "has_value_embedding": [config.has_value_embedding(i) for i in range(config.n_layer)],
        "smear_gate_channels": config.smear_gate_channels if config.use_smear else 0,
        "backout_layer": config.backout_layer if config.use_backout else -1,
    }


class MappedTensors:
    """The tensors of a .safetensors file, in the memory that the system maps it to.

    Attributes:
        views: By name; good as long as this object lives.
    """

    def __init__(self, path: Path) -> None:
        """Raises: UserError if the file is not what it should be."""
        try:
            self._memory = np.memmap(path, dtype=np.uint8, mode="r")
            size = int.from_bytes(self._memory[:8].tobytes(), "little")
            header = json.loads(self._memory[8 : 8 + size].tobytes())
            self.views = {
                name: self._view(8 + size, entry)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"engine: cannot read weights from {path}: {error}") from error

    def _view(self, start: int, entry: dict[str, Any]) -> View:
        code, num_bytes = _CODES[entry["dtype"]]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        if end - begin != int(np.prod(shape)) * num_bytes or start + end > len(self._memory):
            raise ValueError(f"a tensor of shape {shape} does not fit {end - begin} bytes")
        return self._memory.ctypes.data + start + begin, shape, strides, code
