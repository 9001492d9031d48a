"""The journeys that speedrun knows, one row each: everything a stage needs to be told.

What is None is decided later: the batch by the scaling formulas, the device batch by the memory of
the device, the depth of ``gpu1`` by the hours given.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One journey. Batches and lengths are in tokens."""

    name: str
    about: str
    data: str  # tinyworld, climbmix, or a path
    vocab_size: int  # all ids: 256 bytes, merges, 9 special tokens
    tokenizer_chars: int  # of text that the tokenizer learns from
    depth: int | None
    head_dim: int
    seq_len: int
    total_batch_size: int | None
    device_batch_size: int | None  # rows
    num_iterations: int | None  # of pretraining; None takes target_param_data_ratio
    target_param_data_ratio: float  # tokens per scaling parameter
    lr_scale: float | None  # factor on learning rates; None takes the scaling formula's
    weight_decay: float | None  # of Muon's matrices; None takes the scaling formula's
    sft_iterations: int | None  # None is a tenth of the pretraining steps
    sft_lr_scale: float  # factor on the rates of pretraining
    eval_every: int  # steps
    eval_tokens: int  # held-out text of one validation
    save_every: int  # steps
    eval_examples: int = 200  # of each task
    core_examples: int = 500  # of each task of CORE, which text that is not tinyworld is asked
    sft_data: tuple[str, ...] = ("tinyworld",)  # as chat-sft --data
    chat_tasks: str = "tinyworld"  # as chat-eval --tasks
    eval_data: str | None = None  # folder of evaluation sets; None is NANOCHAT_HOME/eval


def _gpu(name: str, depth: int | None, about: str, *, ratio: float = 12.0) -> Preset:
    """The rows for GPUs differ in depth, and in how far below the optimal ratio they stop."""
    return Preset(
        name=name,
        about=about,
        data="climbmix",
        vocab_size=32_768,
        tokenizer_chars=2_000_000_000,
        depth=depth,
        head_dim=128,
        seq_len=2048,
        total_batch_size=None,
        device_batch_size=None,
        num_iterations=None,
        target_param_data_ratio=ratio,
        lr_scale=None,
        weight_decay=None,
        sft_iterations=None,
        sft_lr_scale=0.8,
        eval_every=250,
        eval_tokens=10_485_760,
        save_every=500,
    )


_ALL = (
    Preset(
        name="cpu",
        about="no accelerator: a small world, the whole journey in minutes",
        data="tinyworld",
        vocab_size=4096,
        tokenizer_chars=4_000_000,
        depth=4,
        head_dim=64,
        seq_len=256,
        total_batch_size=2048,  # learns more per token than larger steps
        device_batch_size=8,
        num_iterations=1700,
        target_param_data_ratio=12.0,
        lr_scale=0.7,
        weight_decay=0.1,
        sft_iterations=600,
        sft_lr_scale=0.25,  # at 0.8 it forgets what only pretraining taught
        eval_every=300,
        eval_tokens=65_536,
        save_every=60,
    ),
    _gpu("gpu1", None, "one GPU: the largest model that fits the hours given"),
    _gpu("d12", 12, "the smallest model with the shape of the big ones, for experiments"),
    _gpu("d20", 20, "the $100 speedrun on 8 x H100"),
    _gpu("d24", 24, "time to GPT-2: stops at 8 tokens per parameter", ratio=8.0),
    _gpu("d26", 26, "a step above GPT-2"),
    _gpu("d32", 32, "the largest"),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def preset_named(name: str) -> Preset:
    """Raises: UserError with the names there are."""
    if name not in PRESETS:
        raise UserError(f"preset: must be one of {', '.join(PRESETS)}, got {name}")
    return PRESETS[name]


def default_preset(num_gpus: int) -> Preset:
    """What the speedrun takes on a machine with this many GPUs."""
    return PRESETS["cpu" if num_gpus == 0 else "gpu1" if num_gpus == 1 else "d20"]
