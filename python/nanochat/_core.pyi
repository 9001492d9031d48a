"""Typed face of the native core; one section per capability, in the order of module.cpp."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Build and machine
def cuda_built() -> bool: ...
def cuda_devices() -> list[tuple[int, int]]: ...
def cpu_level() -> int: ...

# BPE
SPLIT_PATTERN: str
GPT4_PATTERN: str
GPT2_PATTERN: str
CL100K_PATTERN: str
UNICODE_VERSION: str

def bpe_train(
    texts: Iterable[Any],
    vocab_size: int,
    pattern: str,
    num_threads: int,
    progress: Callable[[int, int], None] | None,
) -> list[bytes]: ...
def bpe_pretokenize(text: bytes, pattern: str) -> list[bytes]: ...
def bpe_char_class(code_point: int) -> int: ...

class _BpeEncoder:
    def __init__(self, tokens: Sequence[bytes], pattern: str) -> None: ...
    def encode(self, text: str | bytes) -> list[int]: ...
    def encode_to_numpy(
        self, texts: Iterable[Any], num_threads: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]: ...

class BpeEncoder16(_BpeEncoder): ...
class BpeEncoder32(_BpeEncoder): ...

# Packer
class PackerPlan:
    @property
    def num_rows(self) -> int: ...
    @property
    def num_chunks(self) -> int: ...

def packer_plan(
    offsets: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_] | None, *, seq_len: int
) -> PackerPlan: ...
def packer_write(
    plan: PackerPlan,
    ids: npt.NDArray[np.integer],
    mask: npt.NDArray[np.bool_] | None,
    *,
    bos: int,
    row_words: npt.NDArray[np.uint64],
    chunk_words: npt.NDArray[np.uint64],
) -> tuple[
    npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]
]: ...

# Tensors arrive as (address, sizes, strides, dtype), a place to run as (is_cuda, num_threads,
# cpu_level, device, stream): nanochat.ops.native makes both.
_View = tuple[int, tuple[int, ...], tuple[int, ...], int]
_Placement = tuple[bool, int, int, int, int, bool]

# Attention
def prepass_forward(
    where: _Placement,
    q: _View,
    k: _View,
    cos: _View,
    sin: _View,
    v: _View | None,
    ve: _View | None,
    gate: _View | None,
    q_hat: _View,
    k_hat: _View,
    v_hat: _View | None,
    q_inv_rms: _View,
    k_inv_rms: _View,
    *,
    qk_scale: float,
    eps: float,
) -> None: ...
def prepass_backward(
    where: _Placement,
    dq_hat: _View,
    dk_hat: _View,
    q_hat: _View,
    k_hat: _View,
    q_inv_rms: _View,
    k_inv_rms: _View,
    cos: _View,
    sin: _View,
    dq: _View,
    dk: _View,
    *,
    qk_scale: float,
) -> None: ...
def gate_backward(
    where: _Placement, dv_hat: _View, ve: _View, gate: _View, dve: _View, dgate: _View
) -> None: ...
def attention_forward(
    where: _Placement,
    q: _View,
    k: _View,
    v: _View,
    out: _View,
    lse: _View,
    *,
    window: int,
    scale: float,
    score_bound: float,
) -> None: ...
def attention_backward(
    where: _Placement,
    dout: _View,
    q: _View,
    k: _View,
    v: _View,
    out: _View,
    lse: _View,
    q_inv_rms: _View,
    k_inv_rms: _View,
    cos: _View,
    sin: _View,
    delta: _View,
    dq: _View,
    dk: _View,
    dv: _View,
    dq_sum: _View | None,
    *,
    window: int,
    scale: float,
    qk_scale: float,
    is_deterministic: bool,
) -> None: ...

# Cross-entropy
def cross_entropy_rows(
    where: _Placement,
    logits: _View,
    targets: _View,
    loss: _View,
    *,
    vocab_size: int,
    ignore_index: int,
    softcap: float,
    with_gradient: bool,
) -> None: ...

# Muon and AdamW
def muon_step(
    where: _Placement,
    grads: Sequence[_View],
    params: Sequence[_View],
    momentum_buffer: _View,
    second_moment: _View,
    workspace: _View | None,
    *,
    is_bf16: bool,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
) -> None: ...
def muon_workspace_size(K: int, m: int, n: int) -> int: ...
def adamw_step(
    where: _Placement,
    params: Sequence[_View],
    grads: Sequence[_View],
    exp_avg: Sequence[_View],
    exp_avg_sq: Sequence[_View],
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None: ...

# Engine
def best_isa() -> int: ...

class Engine:
    def __init__(
        self,
        config: dict[str, Any],
        tensors: dict[str, _View],
        *,
        precision: int,
        isa: int,
        threads: int,
        slots: int,
        pages: int,
        max_chunk: int,
        max_chunk_beside: int,
        shares_prefixes: bool,
        max_drafts: int,
        max_burst: int,
        cuda_device: int,
    ) -> None: ...
    def submit(
        self,
        prompt: list[int],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        logprobs: int,
        seed: int,
        sample: int,
        max_tokens: int,
        stop_ids: list[int],
        pause_ids: list[int],
    ) -> int: ...
    def load_weights(self, tensors: dict[str, _View]) -> None: ...
    def cancel(self, id: int) -> None: ...
    def resume(self, id: int, tokens: list[int]) -> None: ...
    def wait(
        self, seconds: float
    ) -> list[
        tuple[int, list[int], list[tuple[float, list[tuple[int, float]]]] | None, bool, int, int]
    ]: ...
    def statistics(self) -> dict[str, float]: ...
    def failure(self) -> str: ...
    def close(self) -> None: ...
    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]: ...
    def scores(
        self, groups: Sequence[Sequence[tuple[list[int], int]]]
    ) -> list[list[tuple[float, bool]]]: ...

# Sampler
def sample(
    logits: npt.NDArray[np.float32],
    softcap: float,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    num_logprobs: int,
    seed: int,
    sample: int,
    position: int,
    seen: Sequence[int],
) -> tuple[int, float, list[tuple[int, float]]]: ...
