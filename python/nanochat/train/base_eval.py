"""Evaluate the base model of a run: held-out bits per byte, CORE, tinyworld's bound, samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint import load_model
from nanochat.common.console import say, ticker
from nanochat.common.errors import UserError
from nanochat.common.figures import count, duration
from nanochat.common.paths import atomic_write
from nanochat.common.ranks import DTYPES, Ranks, compute_dtype, ranks
from nanochat.common.record import Measure, now
from nanochat.data import validation_rows
from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.evals.bpb import bits_per_byte
from nanochat.evals.core import CoreResult, core_value, run_core_task
from nanochat.evals.core_tasks import CORE_TASKS, CoreTask, choose_tasks, load_rows, present_tasks
from nanochat.evals.likelihood import scorer
from nanochat.evals.records import write_records
from nanochat.evals.stories import story_bpb
from nanochat.tasks.files import locate
from nanochat.train.inputs import TINYWORLD, text_render, text_sources
from nanochat.train.run import (
    Stopwatch,
    exclusive,
    is_done,
    result_options,
    run_dir,
    write_record,
)

PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "The opposite of hot is",
    "One day, a little fox",
    "The days of the week are Monday,",
)


@dataclass(frozen=True, kw_only=True)
class BaseEvalConfig:
    """Evaluate the base model of a run."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: str = TINYWORLD
    """Text whose held-out part is measured: tinyworld, or a folder, glob or file."""
    num_tokens: int = 1_048_576
    """Tokens of held-out text."""
    num_stories: int = 500
    """Stories to compare with their entropy bound (tinyworld only)."""
    device_batch_size: int = 16
    """Rows of one forward."""
    core_tasks: str | None = None
    """Tasks of CORE: present (their files are there), all (missing ones are fetched), none, or
    names with commas between them. By default none on tinyworld, else those present."""
    max_per_task: int | None = None
    """Examples of each CORE task, shots drawn from them; all if not given."""
    eval_data: Path | None = None
    """Folder of evaluation sets; NANOCHAT_HOME/eval if not given."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""


def base_eval(config: BaseEvalConfig) -> None:
    """Measure ``<run>/base`` and print it; write the record and, of CORE, every example.

    ``base_eval/core.json`` has a row for each task, ``base_eval/core/<task>.jsonl`` one for each
    example, which ``nanochat report --against`` compares.
    """
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with ranks(config.device) as world, exclusive(folder, is_main=world.is_main):
        if is_done(folder, "base_eval", options):
            return
        tasks = _core_tasks(config, world)
        started, watch = now(), Stopwatch()
        dtype = compute_dtype(world.device, config.dtype)
        model, tokenizer, _ = load_model(folder / "base", device=world.device, dtype=dtype)
        _, held_out = text_sources(config.data, seed=config.seed)
        batches = validation_rows(
            held_out,
            render=text_render(tokenizer),
            bos=tokenizer.bos,
            seq_len=model.config.seq_len,
            device_rows=config.device_batch_size,
            num_tokens=config.num_tokens,
        )
        share = batches[world.rank :: world.world_size]
        on_device = ((x.to(world.device), y.to(world.device)) for x, y in share)
        bpb = bits_per_byte(model, on_device, tokenizer.token_bytes())
        metrics: dict[str, float | Measure] = {"val_bpb": bpb}
        text = f"base-eval: val bpb {bpb:.4f}"
        if config.data == TINYWORLD:  # on all ranks, over which it sums
            stories, bound = story_bpb(
                model, tokenizer, num_stories=config.num_stories, seed=config.seed
            )
            metrics["story_bpb"] = Measure(value=stories, bound=bound)
            text += f", story bpb {stories:.4f} (bound {bound:.4f})"
        if world.is_main:
            say(text)
        name = next(name for name, value in DTYPES.items() if value is dtype)
        with Engine(model, tokenizer, options=NativeOptions(dtype=name)) as engine:
            results = [_run_core(engine, task, config, folder, world) for task in tasks]
            if not world.is_main:
                return
            metrics |= _core_metrics(results, folder)
            prompts = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in PROMPTS]
            replies = engine.generate(prompts, Sampling(max_tokens=48, temperature=0.0))
        samples = [prompt + reply.text for prompt, reply in zip(PROMPTS, replies, strict=True)]
        for sample in samples:
            say(f"  | {' '.join(sample.split())}")
        write_record(
            folder,
            "base_eval",
            started=started,
            seconds=watch.seconds,
            model="base",
            config=options,
            metrics=metrics,
            samples=samples,
        )


def _core_tasks(config: BaseEvalConfig, world: Ranks) -> tuple[CoreTask, ...]:
    """The tasks asked for, their files there: the first rank fetches."""
    if config.max_per_task is not None and config.max_per_task < 1:
        raise UserError(f"base-eval: --max-per-task must be at least 1, got {config.max_per_task}")
    if config.core_tasks is not None:
        tasks = choose_tasks(config.core_tasks, config.eval_data)
    else:
        tasks = () if config.data == TINYWORLD else present_tasks(config.eval_data)
    if world.is_main:
        for task in tasks:
            locate(task.file, config.eval_data)
    world.barrier()
    return tasks


def _run_core(
    engine: Engine, task: CoreTask, config: BaseEvalConfig, folder: Path, world: Ranks
) -> CoreResult:
    """The result of a task; says it when it is known and keeps its examples."""
    rows = load_rows(task, config.eval_data, max_rows=config.max_per_task)
    share = len(range(world.rank, len(rows.rows), world.world_size))
    with ticker(f"core {task.name}", share, quiet=not world.is_main) as bar:
        watch = Stopwatch()

        def progress(num_done: int, _: int, num_tokens: int) -> None:
            bar.update(num_done, tokens_per_s=f"{num_tokens / watch.seconds:,.0f}")

        result = run_core_task(
            task,
            rows,
            scorer(engine),
            engine.tokenizer,
            context=engine.context,
            on_progress=progress,
        )
    if world.is_main:
        write_records(folder / "base_eval" / "core" / f"{task.name}.jsonl", result.records)
        say(f"  {describe(result)}")
    return result


def describe(result: CoreResult) -> str:
    """A line of the table: accuracy, what guessing gets, size, rate, what was not as it should."""
    low, high = result.interval
    rate = result.num_tokens / result.seconds
    odd = {
        "malformed rows left out": result.num_malformed,
        "prompts cut at the left": result.num_cropped,
        "without a finite score": result.num_not_finite,
    }
    return (
        f"{result.task.name:<32} {100 * result.accuracy:5.1f} % ({100 * low:.1f} to "
        f"{100 * high:.1f}), chance {100 * result.task.chance:g}, {result.num_examples} examples, "
        f"{count(result.num_tokens)} tokens, {duration(result.seconds)}, {rate:,.0f} tokens/s"
        + "".join(f", {number} {what}" for what, number in odd.items() if number)
    )


def _core_metrics(results: Sequence[CoreResult], folder: Path) -> dict[str, float | Measure]:
    """Of the record: each task, and CORE, under a name that says so where tasks are missing."""
    if not results:
        return {}
    table = [result.row for result in results]
    atomic_write(folder / "base_eval" / "core.json", json.dumps(table, indent=1) + "\n")
    value, half = core_value(results)
    measure = Measure(
        value=value,
        low=value - half,
        high=value + half,
        num_examples=sum(result.num_examples for result in results),
    )
    is_whole = len(results) == len(CORE_TASKS)
    name = "core" if is_whole else f"core_{len(results)}_of_{len(CORE_TASKS)}"
    say(
        f"base-eval: CORE {value:.4f} ({value - half:.4f} to {value + half:.4f}), "
        + ("all tasks" if is_whole else f"the mean of {len(results)} of {len(CORE_TASKS)} tasks")
    )
    return {name: measure, **{f"core_{r.task.name}": r.measure for r in results}}
