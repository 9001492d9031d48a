"""Finetuning on conversations: the base model learns to answer, and when to call the calculator.

Only what the assistant says is a target. Starts from the weights of ``<run>/base`` and, so that the
first steps are not thrown away, from its optimizer moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint import load_model, load_train
from nanochat.common.ranks import compute_dtype
from nanochat.common.ranks import ranks as join_ranks
from nanochat.optim import Schedule, build_groups
from nanochat.train.inputs import TINYWORLD, chat_render, chat_sources
from nanochat.train.run import exclusive, is_done, result_options, run_dir
from nanochat.train.stage import Batch, Stage, run_stage


@dataclass(frozen=True, kw_only=True)
class ChatSFTConfig:
    """Finetune the base model of a run on conversations."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: str = TINYWORLD
    """tinyworld, or a folder, glob or file of .jsonl(.zst|.gz) whose rows have messages."""
    device_batch_size: int = 32
    """Rows of one micro-batch on one device; lower it when memory runs out."""
    total_batch_size: int = 524_288
    """Tokens of one optimizer step over all devices."""
    num_iterations: int = 500
    """Steps."""
    lr_scale: float = 0.8
    """Factor on the learning rates that pretraining began with."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""
    eval_every: int = 200
    """Steps between validations."""
    eval_tokens: int = 262_144
    """Tokens of held-out conversations to validate on."""
    save_every: int = 200
    """Steps between checkpoints."""
    resume: bool = False
    """Continue the newest checkpoint of the run, if there is one."""


def chat_sft(config: ChatSFTConfig) -> None:
    """Train, evaluate and save under ``<run>/sft``; continues there with ``resume``."""
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with join_ranks(config.device) as ranks, exclusive(folder, is_main=ranks.is_main):
        if is_done(folder, "chat_sft", options):
            return
        dtype = compute_dtype(ranks.device, config.dtype)
        model, tokenizer, meta = load_model(folder / "base", device=ranks.device, dtype=dtype)
        train_source, val_source = chat_sources(config.data, seed=config.seed)
        stage = Stage(
            name="chat_sft",
            checkpoint="sft",
            model=model,
            tokenizer=tokenizer,
            groups=build_groups(
                model,
                n_embd=model.config.n_embd,
                batch_lr_scale=meta["lr_scale"],
                weight_decay=0.0,
            ),
            optimizer_state=load_train(folder / "base").tensors,
            schedule=Schedule.linear(config.num_iterations, peak_lr=config.lr_scale),
            train_source=train_source,
            val_source=val_source,
            render=chat_render(tokenizer),
            batch=Batch(
                total_batch_size=config.total_batch_size,
                device_batch_size=config.device_batch_size,
                seq_len=model.config.seq_len,
            ),
            seed=config.seed,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
            save_every=config.save_every,
            lr_scale=meta["lr_scale"],
            options=options,
            metrics={"num_parameters": model.config.num_parameters()},
        )
        run_stage(stage, folder, ranks, resume=config.resume)
