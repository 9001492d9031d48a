"""What the engine's dtypes cost in quality: bits per byte and accuracy of a trained run.

    python scripts/bench/engine_quality.py --run speedrun

The base model's bpb on held-out text, its nats from the engine's own logits; the share of greedy
tokens that are those of fp32; the chat model's accuracy on the tasks that it answers in words. The
first row is PyTorch's model in fp32. Rows of one column are paired: same text, same questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanochat.checkpoint import load_model
from nanochat.common.errors import run_main
from nanochat.data import validation_rows
from nanochat.engine import Engine, NativeOptions, Sampling
from nanochat.engine.native import DTYPES
from nanochat.evals.bpb import bits_per_byte
from nanochat.evals.tasks import run_tasks
from nanochat.model import GPT
from nanochat.tasks import TASKS
from nanochat.testing import bench
from nanochat.tokenizer import Tokenizer
from nanochat.train.inputs import TINYWORLD, text_render, text_sources
from nanochat.train.run import run_dir

REFERENCE = "torch fp32"


class ByEngine:
    """Prices targets with the engine's logits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = torch.from_numpy(np.stack([self._engine.logits(row) for row in ids.tolist()]))
        flat = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
        )
        return flat.view(targets.shape)


def engine_of(model: GPT, tokenizer: Tokenizer, dtype: str, slots: int = 16) -> Engine:
    if dtype == REFERENCE:
        return Engine(model, tokenizer, slots=slots, backend="torch", is_exact=False)
    return Engine(model, tokenizer, slots=slots, options=NativeOptions(dtype=dtype))


def measure(dtype: str, options: argparse.Namespace, greedy: list[list[int]]) -> dict[str, Any]:
    """One row; ``greedy`` gets the reference's tokens, and is what the others are compared with."""
    folder = run_dir(options.run, None)
    base, tokenizer, _ = load_model(folder / "base")
    _, held_out = text_sources(options.data, seed=0)
    rows = validation_rows(
        held_out,
        render=text_render(tokenizer),
        bos=tokenizer.bos,
        seq_len=base.config.seq_len,
        device_rows=8,
        num_tokens=options.tokens,
    )
    batches = list(rows)
    first, _ = batches[0]
    prompts = first[:, : base.config.seq_len // 4].tolist()
    with engine_of(base, tokenizer, dtype) as engine:
        model = base if dtype == REFERENCE else ByEngine(engine)
        bpb = bits_per_byte(model, batches, tokenizer.token_bytes())
        answers = engine.generate(prompts, Sampling(temperature=0.0, max_tokens=64))
    tokens = [answer.ids for answer in answers]
    if dtype == REFERENCE:
        greedy += tokens
    same = [num_same(ours, theirs) for ours, theirs in zip(tokens, greedy, strict=True)]
    row: dict[str, Any] = {
        "engine": dtype,
        "bpb": bpb,
        "same greedy tokens": sum(same) / sum(map(len, greedy)),
    }
    chat, tokenizer, _ = load_model(folder / "sft")
    spoken = [task for task in TASKS if task.kind == "generative"]
    with engine_of(chat, tokenizer, dtype) as engine:
        for result in run_tasks(engine, spoken, num_examples=options.examples):
            row[result.name] = result.accuracy
    return row


def num_same(ours: list[int], theirs: list[int]) -> int:
    """Tokens until they part."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="speedrun", help="name of a run that is finished")
    parser.add_argument("--data", default=TINYWORLD, help="text, as base_train takes it")
    parser.add_argument("--tokens", type=int, default=65_536, help="of held-out text")
    parser.add_argument("--examples", type=int, default=200, help="of each task")
    parser.add_argument("--out", type=Path, help="file for the JSON of the last line")
    options = parser.parse_args(argv)
    greedy: list[list[int]] = []
    rows = []
    for dtype in (REFERENCE, *DTYPES):
        print(f"engine quality: {dtype}", file=sys.stderr, flush=True)
        rows.append(measure(dtype, options, greedy))
    print(bench.table(list(rows[0]), [list(row.values()) for row in rows]))
    line = json.dumps({"benchmark": "engine_quality", "machine": bench.host(), "rows": rows})
    print(f"\n{line}")
    if options.out:
        options.out.write_text(line + "\n")


if __name__ == "__main__":
    run_main(main)
