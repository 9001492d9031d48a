"""Run the chat tasks on the finetuned model of a run, and hold three conversations to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.checkpoint import load_model
from nanochat.common.console import Ticker, say, ticker
from nanochat.common.figures import duration
from nanochat.common.paths import atomic_write
from nanochat.common.ranks import compute_dtype, default_device
from nanochat.common.record import Measure, now
from nanochat.engine import Engine, Sampling
from nanochat.evals.stories import story_bpb
from nanochat.evals.generation import content_parts
from nanochat.evals.tasks import EvalResult, mean_centred, run_tasks
from nanochat.tasks import TASKS
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
    """Evaluate the chat model of a run on tinyworld's tasks, held-out questions."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    num_examples: int = 200
    """Examples of each task."""
    num_stories: int = 500
    """Stories to compare with their entropy bound."""
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""


def chat_eval(config: ChatEvalConfig) -> None:
    """Measure ``<run>/sft``: write the record, and each example to ``chat_eval/<task>.jsonl``."""
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with exclusive(folder):
        if is_done(folder, "chat_eval", options):
            return
        started, watch = now(), Stopwatch()
        device = config.device or default_device()
        dtype = compute_dtype(device, config.dtype)
        model, tokenizer, _ = load_model(folder / "sft", device=device, dtype=dtype)
        stories, bound = story_bpb(
            model, tokenizer, num_stories=config.num_stories, seed=config.seed
        )
        metrics: dict[str, float | Measure] = {"story_bpb": Measure(value=stories, bound=bound)}
        with Engine(model, tokenizer, slots=SLOTS, is_exact=False) as engine:
            results = _run_tasks(engine, config, folder)
            conversations = [
                {"messages": converse(engine, tokenizer, lines, seed=config.seed)}
                for lines in CONVERSATIONS
            ]
        metrics["mean_centred"] = mean_centred(results)
        for result in results:
            metrics[result.name] = result.measure
        write_record(
            folder,
            "chat_eval",
            started=started,
            seconds=watch.seconds,
            model="sft",
            config=options,
            metrics=metrics,
            conversations=conversations,
        )


def _run_tasks(engine: Engine, config: ChatEvalConfig, folder: Path) -> list[EvalResult]:
    """Results of all tasks; says each when it is known and keeps its examples."""
    results = []
    for task in TASKS:
        with ticker(f"chat-eval {task.name}", config.num_examples) as bar:

            def progress(_: str, num_done: int, __: int, bar: Ticker = bar) -> None:
                bar.update(num_done)

            (result,) = run_tasks(
                engine,
                [task],
                num_examples=config.num_examples,
                seed=config.seed,
                on_progress=progress,
            )
        lines = "".join(json.dumps(row) + "\n" for row in result.records)
        atomic_write(folder / "chat_eval" / f"{task.name}.jsonl", lines)
        low, high = result.interval
        say(
            f"  {task.name:<13} {100 * result.accuracy:5.1f} %  ({100 * low:.1f} to "
            f"{100 * high:.1f}), chance {100 * result.chance:.0f}, {duration(result.seconds)}"
        )
        results.append(result)
    return results


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
