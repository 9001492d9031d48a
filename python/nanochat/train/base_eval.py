"""Evaluate the base model of a run: held-out bits per byte, tinyworld's bound, samples to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.checkpoint import load_model
from nanochat.common.console import say
from nanochat.common.ranks import compute_dtype, default_device
from nanochat.common.record import Measure, now
from nanochat.data import validation_rows
from nanochat.engine import Engine, Sampling
from nanochat.evals.bpb import bits_per_byte
from nanochat.evals.stories import story_bpb
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
    seed: int = 42
    device: str | None = None
    """cuda, cpu or mps; the best one there if not given."""
    dtype: str | None = None
    """Activations, bf16 or fp32; what the device is fast in if not given."""


def base_eval(config: BaseEvalConfig) -> None:
    """Measure ``<run>/base``, write the record and ``base_eval/samples.md``, print both."""
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with exclusive(folder):
        if is_done(folder, "base_eval", options):
            return
        started, watch = now(), Stopwatch()
        device = config.device or default_device()
        dtype = compute_dtype(device, config.dtype)
        model, tokenizer, _ = load_model(folder / "base", device=device, dtype=dtype)
        _, held_out = text_sources(config.data, seed=config.seed)
        batches = validation_rows(
            held_out,
            render=text_render(tokenizer),
            bos=tokenizer.bos,
            seq_len=model.config.seq_len,
            device_rows=config.device_batch_size,
            num_tokens=config.num_tokens,
        )
        on_device = ((x.to(device), y.to(device)) for x, y in batches)
        bpb = bits_per_byte(model, on_device, tokenizer.token_bytes())
        metrics: dict[str, float | Measure] = {"val_bpb": bpb}
        text = f"base-eval: val bpb {bpb:.4f}"
        if config.data == TINYWORLD:
            stories, bound = story_bpb(
                model, tokenizer, num_stories=config.num_stories, seed=config.seed
            )
            metrics["story_bpb"] = Measure(value=stories, bound=bound)
            text += f", story bpb {stories:.4f} (bound {bound:.4f})"
        say(text)
        with Engine(model, tokenizer) as engine:
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
