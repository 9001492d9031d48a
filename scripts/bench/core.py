"""CORE in groups against one example a forward: the same verdicts, and how much sooner.

    python scripts/bench/core.py --model RUN/base --eval-data FOLDER [--tasks copa,winograd]

For each task whose file is there, so many examples a round: ours (nanochat.evals.core_prompts and
likelihood: rows tokenized once, trunks shared, logits where scored, the native engine on the CPU),
then the plain way as karpathy/nanochat's core_eval.py does it (whole prompts tokenized, one padded
forward of all choices of an example, fp32 logits of every position) with the same model, weights
and dtype. Both begin at the rows and end at verdicts; ours has its share of the time in which all
rows are tokenized. Rounds ask different examples, so that no cache helps; times are medians over
rounds.

Verdicts must be the same but for near ties: scores closer than TOLERANCE, the most by which the two
may differ in bf16. "full" is the time of the whole task at this pace.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nanochat.checkpoint import load_model
from nanochat.common.errors import UserError, run_main
from nanochat.common.ranks import DTYPES, default_device
from nanochat.engine import Engine, NativeOptions
from nanochat.evals.core_prompts import Prompts, scored_from, whole_texts
from nanochat.evals.core_tasks import CoreTask, Kind, TaskRows, choose_tasks, load_rows
from nanochat.evals.likelihood import Score, TokenRow, scorer
from nanochat.model import GPT, GPTConfig
from nanochat.testing import bench
from nanochat.testing.plain_scores import PlainScore, plain_scores
from nanochat.tokenizer import Tokenizer

TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # nats of a token, and logits
COLUMNS = (
    "task", "rows", "examples", "tokens", "ours ms", "plain ms", "ratio", "ours tok/s",
    "plain tok/s", "ours full s", "plain full s", "max diff", "verdicts differ",
)  # fmt: skip


def plain_example(
    model: GPT, tokenizer: Tokenizer, task: CoreTask, rows: TaskRows, index: int
) -> list[PlainScore]:
    """One example, from its rows to its scores."""
    texts = whole_texts(task, rows.rows, index)
    ids = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    starts = scored_from(task, ids)
    if task.kind == "language_modeling":
        ids, starts = ids[1:], starts[1:]
    excess = max(0, max(map(len, ids)) - model.config.seq_len)
    pairs = zip(ids, starts, strict=True)
    group = [TokenRow(tokens[excess:], max(1, start - excess)) for tokens, start in pairs]
    device = model.cos.device
    return plain_scores(lambda x: model(x.to(device)).cpu(), group, pad=tokenizer.bos)


def verdict(scores: Sequence[Score]) -> int | bool:
    """The choice, or whether the only row is greedy."""
    if len(scores) == 1:
        return scores[0].is_greedy
    means = [score.mean_nats for score in scores]
    return means.index(min(means))


def is_near_tie(plain: Sequence[PlainScore], tolerance: float) -> bool:
    if len(plain) == 1:
        return plain[0].margin <= tolerance
    first, second, *_ = sorted(one.score.mean_nats for one in plain)
    return second - first <= tolerance


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(
    engine: Engine,
    model: GPT,
    task: CoreTask,
    rows: TaskRows,
    *,
    rounds: int,
    examples: int,
    tolerance: float,
) -> dict[str, Any]:
    """One row of the table."""
    tokenizer, score = engine.tokenizer, scorer(engine)
    spent, prompts = seconds(lambda: Prompts(task, rows.rows, tokenizer, context=engine.context))
    at_once = min(examples, len(prompts) // rounds)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    num_tokens, difference, num_differing = 0, 0.0, 0
    for first in range(0, rounds * at_once, at_once):
        indices = range(first, first + at_once)
        groups = []

        def ours(indices: range = indices, groups: list[Any] = groups) -> list[list[Score]]:
            groups += [prompts.example(i).rows for i in indices]
            return score(groups)

        def plain(indices: range = indices) -> list[list[PlainScore]]:
            return [plain_example(model, tokenizer, task, rows, i) for i in indices]

        elapsed, found = seconds(ours)
        times["ours"].append(elapsed)
        elapsed, expected = seconds(plain)
        times["plain"].append(elapsed)
        num_tokens += sum(len(row.ids) for group in groups for row in group)
        for one, other in zip(found, expected, strict=True):
            theirs = [each.score for each in other]
            for a, b in zip(one, theirs, strict=True):
                difference = max(difference, abs(a.mean_nats - b.mean_nats))
            if verdict(one) != verdict(theirs):
                num_differing += 1
                if not is_near_tie(other, tolerance):
                    raise UserError(f"bench core: verdicts differ on {task.name}: {one}, {other}")
    if difference > tolerance:
        raise UserError(f"bench core: scores of {task.name} differ by {difference} nats a token")
    times["ours"] = [elapsed + spent * at_once / len(prompts) for elapsed in times["ours"]]
    per_example = {name: median(values) / at_once for name, values in times.items()}
    pairs = zip(times["ours"], times["plain"], strict=True)
    tokens = num_tokens / (rounds * at_once)
    values: tuple[object, ...] = (
        task.name, len(prompts), rounds * at_once, num_tokens,
        1e3 * per_example["ours"], 1e3 * per_example["plain"], median(b / a for a, b in pairs),
        round(tokens / per_example["ours"]), round(tokens / per_example["plain"]),
        per_example["ours"] * len(prompts), per_example["plain"] * len(prompts),
        difference, num_differing,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def quick_case() -> tuple[GPT, Tokenizer, list[tuple[CoreTask, TaskRows]]]:
    """A model and rows of each kind, made here."""
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    config = GPTConfig.from_depth(1, vocab_size=tokenizer.vocab_size, seq_len=128, head_dim=64)
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    made: dict[Kind, list[dict[str, Any]]] = {
        "multiple_choice": [
            {"query": f"{i} + 1 is", "choices": ["1", f"{i + 1}"], "gold": 1} for i in range(6)
        ],
        "schema": [
            {"context_options": [f"{i} is", "x is"], "continuation": "odd", "gold": 0}
            for i in range(6)
        ],
        "language_modeling": [
            {"context": f"after {i}", "continuation": f"{i + 1}"} for i in range(6)
        ],
    }
    tasks = [
        (CoreTask(name=kind, kind=kind, path=kind, shots=2), TaskRows(rows, 0))
        for kind, rows in made.items()
    ]
    return model.eval(), tokenizer, tasks


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="rows made here, for tests")
    parser.add_argument("--model", type=Path, help="folder of a checkpoint")
    parser.add_argument("--eval-data", type=Path, help="folder of evaluation sets")
    parser.add_argument("--tasks", default="present", help="present, or names with commas")
    parser.add_argument("--examples", type=int, default=16, help="of a task in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    dtype = "fp32" if options.quick else options.dtype
    if options.quick:
        options.rounds, options.examples, options.device = 1, 2, "cpu"
        model, tokenizer, tasks = quick_case()
    else:
        if options.model is None:
            raise UserError("bench core: --model must name a checkpoint's folder")
        model, tokenizer, _ = load_model(
            options.model, device=options.device, dtype=DTYPES[options.dtype]
        )
        chosen = choose_tasks(options.tasks, options.eval_data)
        tasks = [(task, load_rows(task, options.eval_data)) for task in chosen]
    native = NativeOptions(dtype=dtype, threads=options.threads)
    found = []
    with Engine(model, tokenizer, options=native) as engine:
        for task, rows in tasks:
            print(f"bench core: {task.name}", file=sys.stderr, flush=True)
            found.append(
                measure(
                    engine, model, task, rows,
                    rounds=options.rounds, examples=options.examples, tolerance=TOLERANCE[dtype],
                )
            )  # fmt: skip
    ours, plain = (sum(row[f"{who} full s"] for row in found) for who in ("ours", "plain"))
    size = model.config.to_dict() | {"dtype": dtype}
    facts = bench.machine(torch.device(options.device).type)
    print("core: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    print(bench.table(COLUMNS, [list(row.values()) for row in found]))
    print(f"all of it: {ours:.0f} s against {plain:.0f} s, {plain / ours:.1f} times sooner")
    document = {
        "benchmark": "core", "machine": facts, "model": size, "rows": found,
        "ours_s": ours, "plain_s": plain, "ratio": plain / ours,
    }  # fmt: skip
    print(json.dumps(document))


if __name__ == "__main__":
    run_main(main)
