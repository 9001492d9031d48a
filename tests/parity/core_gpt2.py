"""Our CORE of a GPT-2 against its published results.

    python tests/parity/core_gpt2.py --weights FOLDER --eval-data FOLDER [--model gpt2-medium]

``--weights`` is a folder that transformers' from_pretrained takes, tokenizer included. Published
results (core_reference_gpt2.jsonl beside the tasks) are of all rows, for the three larger models
of 1,000 a task. Each example is one plain forward, since the model is not ours; the evaluator is.
It cuts all choices of a long prompt alike, where the published runs cut each by its own length.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.common.errors import UserError, run_main
from nanochat.common.ranks import default_device
from nanochat.evals.core import core_value, run_core_task
from nanochat.evals.core_tasks import choose_tasks, load_rows
from nanochat.evals.likelihood import Group, Score
from nanochat.tasks.files import find, read_rows
from nanochat.testing import bench
from nanochat.testing.plain_scores import plain_scores

COLUMNS = ("task", "examples", "accuracy", "low", "high", "published", "within")


class HuggingFaceEncoder:
    """transformers' tokenizer with the face that the evaluator asks for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.bos = int(tokenizer.bos_token_id)
        self.pattern = ""  # not known to split behind a blank line: whole prompts are encoded

    def encode_batch(
        self, texts: Sequence[str], *, num_threads: int | None = None
    ) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="gpt2", help="name among the published results")
    parser.add_argument("--eval-data", type=Path, required=True)
    parser.add_argument("--tasks", default="present", help="present, or names with commas")
    parser.add_argument("--max-per-task", type=int, help="examples; all if not given")
    parser.add_argument("--device", default=default_device())
    options = parser.parse_args(argv)
    import transformers

    path = find("core_reference_gpt2", options.eval_data)
    if path is None:
        raise UserError(f"core_gpt2: {options.eval_data} must hold core_reference_gpt2.jsonl")
    published = {
        row["task"]: row["accuracy"]
        for row in read_rows(path).rows
        if row["model"] == options.model
    }
    model = transformers.AutoModelForCausalLM.from_pretrained(options.weights)
    model = model.to(options.device).eval()
    encoder = HuggingFaceEncoder(transformers.AutoTokenizer.from_pretrained(options.weights))

    def logits(ids: Tensor) -> Tensor:
        out: Tensor = model(ids.to(options.device)).logits.float().cpu()
        return out

    def score(groups: Sequence[Group]) -> list[list[Score]]:
        return [
            [one.score for one in plain_scores(logits, group, pad=encoder.bos)] for group in groups
        ]

    results = []
    for task in choose_tasks(options.tasks, options.eval_data):
        rows = load_rows(task, options.eval_data, max_rows=options.max_per_task)
        context = model.config.max_position_embeddings
        results.append(run_core_task(task, rows, score, encoder, context=context))
    table = []
    for result in results:
        low, high = result.interval
        said = published.get(result.task.name)
        is_within = said is not None and low <= said <= high
        table.append(
            (result.task.name, result.num_examples, result.accuracy, low, high, said, is_within)
        )
    value, half = core_value(results)
    print(bench.table(COLUMNS, table))
    print(f"mean centred accuracy of {len(results)} tasks: {value:.4f} +- {half:.4f}")
    print(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in table]))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    run_main(main)
