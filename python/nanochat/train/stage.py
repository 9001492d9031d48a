"""One training stage from its start, or from where it was killed, to its record.

A stage (pretraining, finetuning) brings a model, a source and a schedule; this file owns what must
be the same for all: exact resume, checkpoints before evaluations, metrics, a record at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nanochat.checkpoint import TrainState, save_checkpoint
from nanochat.common.allocator import keep_freed_memory
from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.figures import count, duration
from nanochat.common.ranks import Ranks
from nanochat.common.record import MetricsLog, now
from nanochat.data import Loader, Render, Source, validation_rows
from nanochat.evals.bpb import bits_per_byte
from nanochat.model import GPT
from nanochat.optim import MuonAdamW, Schedule
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Evaluation, Position, train
from nanochat.train.run import find_resume, write_record


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Shape of a step: tokens over all ranks, rows on one device, tokens of a row."""

    total_batch_size: int
    device_batch_size: int
    seq_len: int

    def device_rows(self, world_size: int) -> int:
        """Rows of a micro-batch: ``device_batch_size``, or all of a rank's share if that is less.

        Raises: UserError if a step cannot be cut into equal micro-batches.
        """
        rows, rest = divmod(self.total_batch_size, self.seq_len * world_size)
        if rest or rows == 0:
            raise UserError(
                f"train: --total-batch-size must be a multiple of seq_len {self.seq_len} times "
                f"{world_size} processes, got {self.total_batch_size}"
            )
        device_rows = min(rows, self.device_batch_size)
        if device_rows < 1 or rows % device_rows:
            raise UserError(
                f"train: --device-batch-size must divide the {rows} rows of a process, got "
                f"{self.device_batch_size}"
            )
        return device_rows


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one training stage is made of."""

    name: str  # base_train
    checkpoint: str  # base: folder of its checkpoints, and their column in the report
    model: GPT  # at its starting weights, on the device
    tokenizer: Tokenizer
    groups: list[dict[str, Any]]  # of the optimizer
    optimizer_state: Mapping[str, Tensor] | None  # to start warm from; None starts cold
    schedule: Schedule
    train_source: Source
    val_source: Source
    render: Render
    batch: Batch
    seed: int
    eval_every: int
    eval_tokens: int
    save_every: int
    lr_scale: float  # batch factor of pretraining's rates, which later stages start from
    options: dict[str, Any]  # that decide the result
    metrics: dict[str, float]  # known before training, for the record
    evaluations: tuple[Evaluation, ...] = ()  # besides bits per byte
    data_digest: str = ""  # of data that are known before training


def run_stage(stage: Stage, folder: Path, ranks: Ranks, *, resume: bool) -> None:
    """Train ``stage`` to its end in the run at ``folder`` and write its record."""
    if ranks.device.type == "cpu":
        keep_freed_memory()
    started = now()
    root = folder / stage.checkpoint
    device_rows = stage.batch.device_rows(ranks.world_size)
    model, tokenizer = stage.model, stage.tokenizer
    optimizer = MuonAdamW(stage.groups)
    if stage.optimizer_state is not None:
        optimizer.load_full_state(stage.optimizer_state)
    position = Position()
    found = find_resume(root, resume=resume, options=stage.options)
    if found is not None:
        checkpoint, state = found
        if state.position.get("data_digest", "") != stage.data_digest:
            raise UserError(
                f"{stage.name}: the data changed since {checkpoint}; bring the old ones back, or "
                "give another --out"
            )
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        optimizer.load_full_state(state.tensors)
        position = Position(**state.position["position"])
        if ranks.is_main:
            say(f"{stage.name}: continues at step {position.step} of {stage.schedule.num_steps}")

    val_batches = validation_rows(
        stage.val_source,
        render=stage.render,
        bos=tokenizer.bos,
        seq_len=stage.batch.seq_len,
        device_rows=device_rows,
        num_tokens=stage.eval_tokens,
    )
    token_bytes = torch.from_numpy(tokenizer.token_bytes())

    def evaluate() -> dict[str, float]:
        model.eval()
        share = val_batches[ranks.rank :: ranks.world_size]
        on_device = ((x.to(ranks.device), y.to(ranks.device)) for x, y in share)
        bpb = bits_per_byte(model, on_device, token_bytes)
        model.train()
        return {"val_bpb": bpb}

    def save(position: Position) -> None:
        tensors = optimizer.full_state()  # collective
        if ranks.is_main:
            save_checkpoint(
                root,
                position.step,
                model=model,
                tokenizer=tokenizer,
                meta={"stage": stage.name, "lr_scale": stage.lr_scale, "options": stage.options},
                train=TrainState(
                    tensors,
                    {
                        "position": asdict(position),
                        "options": stage.options,
                        "data_digest": stage.data_digest,
                    },
                ),
            )
        ranks.barrier()

    num_steps = stage.schedule.num_steps
    with (
        MetricsLog(folder / stage.name / "metrics.jsonl") as log,
        Loader(
            stage.train_source,
            render=stage.render,
            bos=tokenizer.bos,
            seq_len=stage.batch.seq_len,
            rows_per_step=stage.batch.total_batch_size // stage.batch.seq_len,
            device_rows=device_rows,
            seed=stage.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
            state=position.loader,
            device=ranks.device,
        ) as loader,
    ):
        final = train(
            model.train(),
            optimizer,
            loader,
            ranks=ranks,
            title=stage.name,
            num_steps=num_steps,
            position=position,
            set_rates=lambda step: stage.schedule.apply(optimizer.param_groups, step),
            evaluations=(Evaluation(stage.eval_every, evaluate), *stage.evaluations),
            save=save,
            save_every=stage.save_every,
            log=log,
        )
        waste = loader.stats.waste
    if ranks.is_main:
        rate = position.tokens / max(position.seconds, 1e-9)
        write_record(
            folder,
            stage.name,
            started=started,
            seconds=position.wall_seconds,
            model=stage.checkpoint,
            config=stage.options,
            metrics={
                **stage.metrics,
                **final,
                "num_tokens": position.tokens,
                "tokens_per_second": rate,
                "packing_waste": waste,
            },
        )
        say(
            f"{stage.name}: {num_steps} steps, {count(position.tokens)} tokens at "
            f"{rate:,.0f} tokens/s, val bpb {final['val_bpb']:.4f}, "
            f"{duration(position.wall_seconds)}"
        )
