"""Finetuning on conversations: the base model learns to answer, and when to call the calculator.

    nanochat chat-sft --run mine --data chats.jsonl gsm8k:4 identity.jsonl:10 --fill name=Ada

What it is trained on, and how much of each: mixture.py. Only what the assistant says is a target.
Starts from the weights of ``<run>/base`` and, so that the first steps are not thrown away, from its
optimizer moments; the learning rates are those of its beginning, times ``--lr-scale``.
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
from nanochat.data import Source, count_rows, lay_end_to_end
from nanochat.engine import Engine
from nanochat.evals.tasks import mean_centred, run_tasks
from nanochat.model import GPT
from nanochat.optim import Schedule, build_groups
from nanochat.tasks.suite import CHATCORE, suite
from nanochat.tokenizer import Tokenizer
from nanochat.train.inputs import TINYWORLD
from nanochat.train.loop import Evaluation
from nanochat.train.mixture import Mixture, make_mixture, parse, parse_fill, tinyworld_sources
from nanochat.train.run import exclusive, is_done, result_options, run_dir
from nanochat.train.stage import Batch, Stage, run_stage

ENDLESS_STEPS = 500
SLOTS = 32  # prompts that decode together
MAX_REPLY_TOKENS = 256  # in measurements


@dataclass(frozen=True, kw_only=True)
class ChatSFTConfig:
    """Finetune the base model of a run on conversations."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: tuple[str, ...] = (TINYWORLD,)
    """tinyworld, tasks, and folders, globs or files of .jsonl(.zst|.gz) or .parquet; each may end
    in :TIMES (its rows that often) or @ROWS (so many of them)."""
    fill: tuple[str, ...] = ()
    """KEY=VALUE ...: what stands for {{KEY}} in the rows of files."""
    eval_data: Path | None = None
    """Folder of the sets of the tasks; NANOCHAT_HOME/eval, and fetched, if not given."""
    device_batch_size: int = 32
    """Rows of one micro-batch on one device; lower it when memory runs out."""
    total_batch_size: int = 524_288
    """Tokens of one optimizer step over all devices."""
    num_epochs: int = 1
    """Times to go through the data; tinyworld alone has no end, so it is taken for 500 steps."""
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
    eval_tasks: str = ""
    """Tasks to measure accuracy on while training, as of chat-eval: tinyworld, chatcore, or single
    ones with commas between them."""
    chat_eval_every: int = 200
    """Steps between these measurements."""
    eval_examples: int = 64
    """Examples of each task."""
    save_every: int = 200
    """Steps between checkpoints."""
    resume: bool = False
    """Continue the newest checkpoint of the run, if there is one."""


def chat_sft(config: ChatSFTConfig) -> None:
    """Train, evaluate and save under ``<run>/sft``; continues there with ``resume``."""
    _check(config)
    folder = run_dir(config.run, config.out)
    options = result_options(config) | {
        "data": shlex.join(config.data),
        "fill": shlex.join(config.fill) or None,
        "num_epochs": None if config.num_iterations else config.num_epochs,
        "eval_data": None,  # where the sets are does not matter
    }
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
        if not ranks.is_main:
            ranks.barrier()  # the first rank fetches what is not there
        course = _course(config, tokenizer, batch)
        evaluations = _evaluations(config, model, tokenizer, is_main=ranks.is_main)
        if ranks.is_main:
            ranks.barrier()
            _tell(folder, course)
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
            schedule=Schedule.linear(course.num_steps, peak_lr=config.lr_scale),
            train_source=course.train,
            val_source=course.val,
            render=lay_end_to_end,
            batch=batch,
            seed=config.seed,
            eval_every=config.eval_every,
            eval_tokens=config.eval_tokens,
            save_every=config.save_every,
            lr_scale=meta["lr_scale"],
            options=options,
            data_digest=course.mixture.digest if course.mixture is not None else "",
            metrics={"num_parameters": model.config.num_parameters()}
            | ({} if course.num_epochs is None else {"num_epochs": course.num_epochs}),
            evaluations=evaluations,
        )
        run_stage(stage, folder, ranks, resume=config.resume)


def _check(config: ChatSFTConfig) -> None:
    """Raises: UserError for numbers that make no sense."""
    for name in ("num_epochs", "num_iterations", "chat_eval_every", "eval_examples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise UserError(f"chat_sft: --{option} must be at least 1, got {value}")


@dataclass(frozen=True)
class _Course:
    """What is learnt, and for how long."""

    train: Source
    val: Source
    num_steps: int
    mixture: Mixture | None = None  # None where tinyworld alone has no end
    num_epochs: float | None = None  # of the mixture in these steps


def _course(config: ChatSFTConfig, tokenizer: Tokenizer, batch: Batch) -> _Course:
    """Raises: UserError if the data do not fill one step, and nobody said how many to take."""
    seq_len = batch.seq_len
    if config.data == (TINYWORLD,):
        train, val = tinyworld_sources(tokenizer, seq_len=seq_len, seed=config.seed)
        return _Course(train, val, config.num_iterations or ENDLESS_STEPS)
    mixture = make_mixture(
        [parse(word) for word in config.data],
        tokenizer,
        seq_len=seq_len,
        seed=config.seed,
        fill=parse_fill(config.fill),
        sets=config.eval_data,
    )
    rows_per_step = batch.total_batch_size // seq_len
    rows = count_rows(mixture.train, render=lay_end_to_end, bos=tokenizer.bos, seq_len=seq_len)
    if config.num_iterations is None and rows < rows_per_step:
        raise UserError(
            f"chat_sft: a step takes {rows_per_step} rows of {seq_len} tokens, the data fill "
            f"{rows}; lower --total-batch-size, or give --num-iterations"
        )
    num_steps = config.num_iterations or math.ceil(config.num_epochs * rows / rows_per_step)
    return _Course(mixture.train, mixture.val, num_steps, mixture, num_steps * rows_per_step / rows)


def _tell(folder: Path, course: _Course) -> None:
    """Show the composition, and keep it beside the record."""
    if course.mixture is None:
        sample = course.val.block(0, 0) or []
        if lost := sum(len(tokens.ids) == 0 for tokens in sample):
            say(f"{TINYWORLD}: {lost} of {len(sample):,} held-out conversations do not fit a row")
        return
    parts = [asdict(part) for part in course.mixture.parts]
    body = {"num_epochs": course.num_epochs, "parts": parts}
    atomic_write(folder / "chat_sft" / "mixture.json", json.dumps(body, indent=1) + "\n")
    say(f"chat_sft: {course.num_steps} steps, {course.num_epochs:.3g} epochs of")
    for line in course.mixture.lines():
        say(line)


def _evaluations(
    config: ChatSFTConfig, model: GPT, tokenizer: Tokenizer, *, is_main: bool
) -> tuple[Evaluation, ...]:
    """Accuracy on each of ``--eval-tasks``, and the means of what is above guessing."""
    if not config.eval_tasks:
        return ()
    found = suite(config.eval_tasks, config.eval_data)
    for name, reason in found.missing.items() if is_main else ():
        say(f"chat_sft: without {name}: {reason}")

    def measure() -> dict[str, float]:
        model.eval()
        with Engine(model, tokenizer, slots=SLOTS, is_exact=False) as engine:
            results = run_tasks(
                engine,
                found.tasks,
                num_examples=config.eval_examples,
                max_tokens=MAX_REPLY_TOKENS,
                seed=config.seed,
            )
        model.train()
        figures = {result.name: result.accuracy for result in results}
        core = [result for result in results if result.name in CHATCORE]
        if len(core) == len(CHATCORE):
            figures["chat_core"] = mean_centred(core)
        return {"mean_centred": mean_centred(results), **figures}

    return (Evaluation(config.chat_eval_every, measure),)
