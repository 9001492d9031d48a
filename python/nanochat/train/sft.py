"""Finetuning on conversations: the base model learns to answer, and when to call the calculator.

Only what the assistant says is a target. Starts from the weights of ``<run>/base`` and, so that the
first steps are not thrown away, from its optimizer moments.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat.checkpoint import load_model, load_train
from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write
from nanochat.common.ranks import compute_dtype
from nanochat.common.ranks import ranks as join_ranks
from nanochat.data import count_rows, lay_end_to_end
from nanochat.optim import Schedule, build_groups
from nanochat.train.inputs import TINYWORLD
from nanochat.train.mixture import ChatInputs, Mixture, chat_inputs, parse_fill
from nanochat.train.run import exclusive, is_done, result_options, run_dir
from nanochat.train.stage import Batch, Stage, run_stage

ENDLESS_STEPS = 500


@dataclass(frozen=True, kw_only=True)
class ChatSFTConfig:
    """Finetune the base model of a run on conversations."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: tuple[str, ...] = (TINYWORLD,)
    """Ingredients: tinyworld, tasks by name, folders, globs or files of .jsonl(.zst|.gz) and
    .parquet; each may end in :TIMES or @ROWS, its weight (train/mixture.py)."""
    fill: tuple[str, ...] = ()
    """KEY=VALUE ...: what stands for {{KEY}} in the rows of files."""
    device_batch_size: int = 32
    """Rows of one micro-batch on one device; lower it when memory runs out."""
    total_batch_size: int = 524_288
    """Tokens of one optimizer step over all devices."""
    num_epochs: int = 1
    """Times to go through the mixture; tinyworld alone has no end and counts as 500 steps."""
    num_iterations: int | None = None
    """Steps, instead of --num-epochs."""
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
    options = result_options(config) | {"data": shlex.join(config.data), "fill": list(config.fill)}
    with join_ranks(config.device) as ranks, exclusive(folder, is_main=ranks.is_main):
        if is_done(folder, "chat_sft", options):
            return
        dtype = compute_dtype(ranks.device, config.dtype)
        model, tokenizer, meta = load_model(folder / "base", device=ranks.device, dtype=dtype)
        batch = Batch(
            total_batch_size=config.total_batch_size,
            device_batch_size=config.device_batch_size,
            seq_len=model.config.seq_len,
        )
        inputs = chat_inputs(
            config.data,
            tokenizer,
            seq_len=batch.seq_len,
            seed=config.seed,
            fill=parse_fill(config.fill),
        )
        length = _length(config, inputs, batch, bos=tokenizer.bos)
        if ranks.is_main and inputs.mixture is not None:
            _tell(folder, inputs.mixture, length)
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
            schedule=Schedule.linear(length.num_steps, peak_lr=config.lr_scale),
            train_source=inputs.train,
            val_source=inputs.val,
            render=lay_end_to_end,
            batch=batch,
            seed=config.seed,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
            save_every=config.save_every,
            lr_scale=meta["lr_scale"],
            options=options,
            metrics={"num_parameters": model.config.num_parameters()}
            | ({} if length.num_epochs is None else {"num_epochs": length.num_epochs}),
        )
        run_stage(stage, folder, ranks, resume=config.resume)


@dataclass(frozen=True)
class _Length:
    num_steps: int
    num_epochs: float | None  # that these steps are; None where the data have no end


def _length(config: ChatSFTConfig, inputs: ChatInputs, batch: Batch, *, bos: int) -> _Length:
    """Raises: UserError if the data do not fill one step, and nobody said how many to take."""
    if inputs.mixture is None:
        return _Length(config.num_iterations or ENDLESS_STEPS, None)
    rows_per_step = batch.total_batch_size // batch.seq_len
    rows = count_rows(inputs.train, render=lay_end_to_end, bos=bos, seq_len=batch.seq_len)
    if config.num_iterations is None and rows < rows_per_step:
        raise UserError(
            f"chat_sft: the data fill {rows} rows of {batch.seq_len} tokens, but a step takes "
            f"{rows_per_step}; lower --total-batch-size, or give --num-iterations"
        )
    num_steps = config.num_iterations or math.ceil(config.num_epochs * rows / rows_per_step)
    return _Length(num_steps, num_steps * rows_per_step / rows)


def _tell(folder: Path, mixture: Mixture, length: _Length) -> None:
    """Show the composition, and keep it beside the record."""
    say(f"chat_sft: {length.num_steps} steps, {length.num_epochs:.3g} epochs of")
    for line in mixture.lines():
        say(line)
    parts = [asdict(part) for part in mixture.parts]
    body = {"num_epochs": length.num_epochs, "parts": parts}
    atomic_write(folder / "chat_sft" / "mixture.json", json.dumps(body, indent=1) + "\n")
