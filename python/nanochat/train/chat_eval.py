"""Run tasks on the chat model of a run, and hold three conversations to read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.checkpoint import load_model
from nanochat.common.console import say, ticker
from nanochat.common.errors import UserError
from nanochat.common.figures import duration
from nanochat.common.paths import atomic_write
from nanochat.common.ranks import Ranks, compute_dtype, ranks
from nanochat.common.record import Measure, now
from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.engine.sampling import MAX_TEMPERATURE
from nanochat.evals.generation import content_parts
from nanochat.evals.records import write_records
from nanochat.evals.stories import story_bpb
from nanochat.evals.tasks import EvalResult, mean_centred, run_tasks
from nanochat.tasks import Task
from nanochat.tasks.suite import CHATCORE, suite
from nanochat.tasks.tinyworld import TinyworldTask
from nanochat.tokenizer import Tokenizer
from nanochat.train.run import (
    Stopwatch,
    exclusive,
    is_done,
    result_options,
    run_dir,
    write_record,
)

SLOTS = 32  # prompts that decode together
MAX_ANSWER_TOKENS = 512  # of a task over files; HumanEval and GSM8K reason that long
MAX_TINYWORLD_TOKENS = 128
TOP_K = 50  # of replies that are drawn
MAX_REPLY_TOKENS = 150
MIN_REPLY_TOKENS = 40  # a conversation ends when the context has no room for so many

# What a visitor may say first; each line follows the model's answer to the one before.
CONVERSATIONS = (
    ("Hello!", "Who are you?", "What is the capital of Japan?", "Thank you!"),
    ("What is 67 * 34?", "How many times does the letter e appear in teacher?", "Goodbye!"),
    ("Tell me a story about a fox.", "What is the opposite of brave?"),
)


@dataclass(frozen=True, kw_only=True)
class ChatEvalConfig:
    """Evaluate the chat model of a run on tasks, with questions that it did not learn from."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    model: Literal["sft", "rl"] = "sft"
    """The model after finetuning, or after reinforcement learning."""
    tasks: str = "tinyworld"
    """tinyworld, chatcore (six sets, fetched where they are not there), or single tasks such as
    gsm8k; with commas between them."""
    eval_data: Path | None = None
    """Folder of evaluation sets; NANOCHAT_HOME/eval if not given."""
    num_examples: int = 200
    """Examples of each task; 0 takes whole sets."""
    num_samples: int = 1
    """Replies to each prompt that is not multiple choice; several give pass@k."""
    temperature: float | None = None
    """Of the replies; if not given, 0 for one and 1 for several."""
    unsafe_local_exec: bool = False
    """Let HumanEval run the model's code unprotected where this machine cannot isolate it."""
    num_stories: int = 500
    """Stories to compare with their entropy bound (tinyworld only)."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""


def chat_eval(config: ChatEvalConfig) -> None:
    """Measure ``<run>/sft`` (or rl) and print it; write the record and every example.

    ``chat_eval/tasks.json`` has a row for each task, ``chat_eval/<task>.jsonl`` one for each
    example. For the model after reinforcement learning the folder is ``chat_eval_rl``.
    """
    _check(config)
    folder = run_dir(config.run, config.out)
    stage = "chat_eval" if config.model == "sft" else f"chat_eval_{config.model}"
    options = result_options(config) | {"eval_data": None}  # where the sets are does not matter
    with ranks(config.device) as world, exclusive(folder, is_main=world.is_main):
        if is_done(folder, stage, options):
            return
        tasks = _tasks(config, world)
        started, watch = now(), Stopwatch()
        dtype = compute_dtype(world.device, config.dtype)
        model, tokenizer, _ = load_model(folder / config.model, device=world.device, dtype=dtype)
        metrics: dict[str, float | Measure] = {}
        if any(isinstance(task, TinyworldTask) for task in tasks):
            # Over all ranks: each measures all stories, which changes no ratio of sums.
            stories, bound = story_bpb(
                model, tokenizer, num_stories=config.num_stories, seed=config.seed
            )
            metrics["story_bpb"] = Measure(value=stories, bound=bound)
        native = NativeOptions(dtype=config.dtype or "bf16")  # which it is fast in everywhere
        with Engine(model, tokenizer, slots=SLOTS, options=native, is_exact=False) as engine:
            results = [_run_task(engine, task, config, folder / stage, world) for task in tasks]
            if not world.is_main:
                return
            conversations = [
                {"messages": converse(engine, tokenizer, lines, seed=config.seed)}
                for lines in CONVERSATIONS
            ]
        table = [result.row for result in results]
        atomic_write(folder / stage / "tasks.json", json.dumps(table, indent=1) + "\n")
        write_record(
            folder,
            stage,
            started=started,
            seconds=watch.seconds,
            model=config.model,
            config=options,
            metrics=metrics | _metrics(results),
            conversations=conversations,
        )


def _check(config: ChatEvalConfig) -> None:
    """Raises: UserError for numbers that make no sense."""
    if config.num_examples < 0 or config.num_samples < 1:
        raise UserError(
            "chat-eval: --num-examples must be at least 0 and --num-samples at least 1, got "
            f"{config.num_examples} and {config.num_samples}"
        )
    lowest = 0.0 if config.num_samples == 1 else math.ulp(0.0)
    if not lowest <= _temperature(config) <= MAX_TEMPERATURE:
        raise UserError(
            f"chat-eval: --temperature must be 0 to {MAX_TEMPERATURE}, and above 0 for several "
            f"samples, got {config.temperature}"
        )


def _temperature(config: ChatEvalConfig) -> float:
    if config.temperature is not None:
        return config.temperature
    return 0.0 if config.num_samples == 1 else 1.0


def _tasks(config: ChatEvalConfig, world: Ranks) -> tuple[Task, ...]:
    """The tasks asked for; says which of ChatCORE are missing. The first rank fetches."""
    if not world.is_main:
        world.barrier()
    found = suite(config.tasks, config.eval_data, unsafe_local=config.unsafe_local_exec)
    if world.is_main:
        world.barrier()
        for name, reason in found.missing.items():
            say(f"chat-eval: without {name}: {reason}")
    if config.num_examples == 0 and any(isinstance(task, TinyworldTask) for task in found.tasks):
        raise UserError("chat-eval: tinyworld has no end; give --num-examples")
    return found.tasks


def _run_task(
    engine: Engine, task: Task, config: ChatEvalConfig, folder: Path, world: Ranks
) -> EvalResult:
    """The result of a task; says it when it is known and keeps its examples."""
    num_examples = config.num_examples or 10**9
    is_tinyworld = isinstance(task, TinyworldTask)
    total = len(task.examples("val", n=num_examples, seed=config.seed))
    share = len(range(world.rank, total, world.world_size))
    with ticker(f"chat-eval {task.name}", share, quiet=not world.is_main) as bar:
        (result,) = run_tasks(
            engine,
            [task],
            num_examples=num_examples,
            max_tokens=MAX_TINYWORLD_TOKENS if is_tinyworld else MAX_ANSWER_TOKENS,
            num_samples=config.num_samples,
            temperature=_temperature(config),
            top_k=TOP_K,
            seed=config.seed,
            on_progress=lambda _name, num_done, _total: bar.update(num_done),
        )
    if world.is_main:
        write_records(folder / f"{task.name}.jsonl", result.records)
        say(f"  {describe(result)}")
    return result


def describe(result: EvalResult) -> str:
    """A line of the table: accuracy, what guessing gets, size, and what was not as it should."""
    low, high = result.interval
    odd = {
        "prompts too long": result.num_too_long,
        "replies without an answer": result.num_unanswered,
        "programs that did not end": result.num_timeouts,
        "malformed rows left out": result.num_malformed,
        "rows there twice": result.num_duplicates,
    }
    return (
        f"{result.name:<13} {100 * result.accuracy:5.1f} %  ({100 * low:.1f} to "
        f"{100 * high:.1f}), chance {100 * result.chance:.0f}, {result.num_examples} examples, "
        f"{duration(result.seconds)}"
        + "".join(f", pass@{k} {100 * value:.1f} %" for k, value in result.passes.items())
        + (f", {len(result.groups)} subjects" if result.groups else "")
        + "".join(f", {number} {what}" for what, number in odd.items() if number)
    )


def _metrics(results: Sequence[EvalResult]) -> dict[str, float | Measure]:
    """Each task, the mean, and ChatCORE, under a name that says so where tasks are missing."""
    metrics: dict[str, float | Measure] = {}
    core = [result for result in results if result.name in CHATCORE]
    others = [result for result in results if result.name not in CHATCORE]
    if others:
        metrics["mean_centred"] = mean_centred(others)
    if core:
        value, count, total = mean_centred(core), len(core), len(CHATCORE)
        metrics["chat_core" if count == total else f"chat_core_{count}_of_{total}"] = value
        say(f"chat-eval: ChatCORE {value:.4f}, the mean of {count} of {total} tasks")
    for result in results:
        metrics[result.name] = result.measure
        metrics |= {f"{result.name}_pass_at_{k}": value for k, value in result.passes.items()}
    return metrics


def converse(
    engine: Engine, tokenizer: Tokenizer, lines: Sequence[str], *, seed: int
) -> list[dict[str, Any]]:
    """The messages of a conversation in which the user says ``lines``, while the context lasts."""
    sampling = Sampling(max_tokens=MAX_REPLY_TOKENS, temperature=0.6, top_k=50, seed=seed)
    messages: list[dict[str, Any]] = []
    for line in lines:
        question = {"role": "user", "content": line}
        prompt = tokenizer.render_prompt({"messages": [*messages, question]})
        if len(prompt) + MIN_REPLY_TOKENS > engine.context:
            break
        (reply,) = engine.generate([prompt], sampling)
        messages += [question, {"role": "assistant", "content": content_parts(reply)}]
    return messages
