"""Pretraining: packed text in, a base model out.

    torchrun --standalone --nproc_per_node=8 scripts/base_train.py --depth 20

The depth decides width, data, batch and learning rates (formulas: optim/scaling.py); small runs
give ``--total-batch-size`` and ``--num-iterations`` themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.common.ranks import compute_dtype
from nanochat.common.ranks import ranks as join_ranks
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Schedule, build_groups, plan
from nanochat.optim.scaling import REFERENCE_DEPTH
from nanochat.train.inputs import TINYWORLD, text_render, text_sources
from nanochat.train.run import exclusive, is_done, result_options, run_dir
from nanochat.train.stage import Batch, Stage, run_stage
from nanochat.train.tok import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig:
    """Pretrain a base model on text."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: str = TINYWORLD
    """tinyworld, or a folder, glob or file of .txt, .jsonl(.zst|.gz), .parquet."""
    depth: int = 12
    """Layers; width is 64 per layer. The one dial."""
    arch: Literal["classic", "modern"] = "modern"
    """classic can be exported to transformers; modern learns faster."""
    head_dim: int = 128
    """Width of an attention head."""
    seq_len: int = 2048
    """Context, tokens."""
    device_batch_size: int = 32
    """Rows of one micro-batch on one device; lower it when memory runs out."""
    total_batch_size: int | None = None
    """Tokens of one optimizer step over all devices; by the scaling formula if not given."""
    num_iterations: int | None = None
    """Steps; by --target-param-data-ratio if not given."""
    target_param_data_ratio: float = 12.0
    """Training tokens per parameter (block matrices and lm_head)."""
    lr_scale: float | None = None
    """Factor on all learning rates; sqrt(batch / 2^19) if not given."""
    weight_decay: float | None = None
    """Of Muon's matrices at the start; by the scaling formula if not given."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""
    eval_every: int = 250
    """Steps between validations."""
    eval_tokens: int = 1_048_576
    """Tokens of held-out text to validate on."""
    save_every: int = 500
    """Steps between checkpoints."""
    resume: bool = False
    """Continue the newest checkpoint of the run, if there is one."""


def base_train(config: BaseTrainConfig) -> None:
    """Train, evaluate and save under ``<run>/base``; continues there with ``resume``."""
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with join_ranks(config.device) as ranks, exclusive(folder, is_main=ranks.is_main):
        if is_done(folder, "base_train", options):
            return
        tokenizer = load_tokenizer(folder)
        shape = GPTConfig.from_depth(
            config.depth,
            arch=config.arch,
            vocab_size=tokenizer.vocab_size,
            seq_len=config.seq_len,
            head_dim=config.head_dim,
        )
        dial = plan(
            num_scaling_params=shape.num_scaling_params(),
            reference_params=_reference_params(config, tokenizer.vocab_size),
            flops_per_token=shape.flops_per_token(),
            param_data_ratio=config.target_param_data_ratio,
            num_iterations=config.num_iterations,
            total_batch_size=config.total_batch_size,
            lr_scale=config.lr_scale,
            weight_decay=config.weight_decay,
        )
        model = GPT(shape, compute_dtype=compute_dtype(ranks.device, config.dtype))
        model.init_weights(seed=config.seed)
        model.to(ranks.device)
        train_source, val_source = text_sources(config.data, seed=config.seed)
        stage = Stage(
            name="base_train",
            checkpoint="base",
            model=model,
            tokenizer=tokenizer,
            groups=build_groups(
                model,
                n_embd=shape.n_embd,
                batch_lr_scale=dial.lr_scale,
                weight_decay=dial.weight_decay,
            ),
            optimizer_state=None,
            schedule=Schedule(num_steps=dial.num_steps),
            train_source=train_source,
            val_source=val_source,
            render=text_render(tokenizer),
            batch=Batch(
                total_batch_size=dial.total_batch_size,
                device_batch_size=config.device_batch_size,
                seq_len=config.seq_len,
            ),
            seed=config.seed,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
            save_every=config.save_every,
            lr_scale=dial.lr_scale,
            options=options,
            metrics={
                "num_parameters": shape.num_parameters(),
                "total_flops": dial.total_flops,
            },
        )
        run_stage(stage, folder, ranks, resume=config.resume)


def _reference_params(config: BaseTrainConfig, vocab_size: int) -> int:
    """Scaling parameters of the reference depth, which the formulas are relative to."""
    shape = GPTConfig.from_depth(
        REFERENCE_DEPTH,
        arch=config.arch,
        vocab_size=vocab_size,
        seq_len=config.seq_len,
        head_dim=config.head_dim,
    )
    return shape.num_scaling_params()
