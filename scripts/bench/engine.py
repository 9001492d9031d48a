"""Prefill and decode of the native engine against PyTorch, transformers and llama.cpp, on the CPU.

    python scripts/bench/engine.py --depth 12 --context 512 --batch 1 8 32

A classic model with random weights, the shape that transformers' NanoChat class implements; all
contenders have the same weights. llama.cpp has no such class: there it is "arcee", the same
matrices and activation without norm of embeddings, queries and keys. Before any clock runs, greedy
tokens are compared with the choices of transformers in fp32, fed the same tokens: one may differ
only where the choice leads the second by less than LEADS.

Each contender keeps its model in a process of its own and works when told, one at a time, in
rounds: private prompts of random tokens, other ones in each round, greedy; ours without guesses
ahead. Figures are medians over the rounds, ratios ("x") medians of the rounds' ratios to
transformers in bf16, p99 is over the steps of all rounds.

prefill  tokens of all prompts by the time until every row has its first token; ours and torch
         compute prompts one after the other, beside the rows that decode already
decode   rows by the median time of a step in which all of them decode
MBU      bytes that a step must read (matrices, keys and values; what a prompt shares counts once)
         by that time, as share of the bandwidth of reading (GB/s), measured with as many threads
         before and after

Speculation: one prompt, ours in bf16 with guesses ahead and without, whose tokens must be equal.
Text "copied" comes from a model made to repeat its prompt, which is the most there is to gain;
"free" is one of 16 words after the other by chance, where guesses are made and are wrong: what
trying costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from nanochat.common.errors import UserError, run_main
from nanochat.engine import torch_core
from nanochat.model import GPTConfig
from nanochat.testing import bench, engine_child, engine_models
from nanochat.testing.engine_child import Contender
from nanochat.testing.engine_timing import Generated, Timing, percentile, timing
from nanochat.testing.peers import installed
from nanochat.testing.worker import Worker

OURS, TORCH, TRANSFORMERS, LLAMA = "ours", "torch", "transformers", "llama.cpp"
PACKAGES = {
    TORCH: ("torch",),
    TRANSFORMERS: ("transformers",),
    LLAMA: ("llama_cpp", "gguf"),  # of PyPI's llama-cpp-python and gguf
}
TAKES = {
    OURS: ("bf16", "fp32", "int8"),
    TORCH: ("bf16", "fp32"),
    TRANSFORMERS: ("bf16",),
    LLAMA: ("bf16",),
}
DISTRIBUTIONS = ("torch", "transformers", "llama-cpp-python", "numpy")
LEADS = {"fp32": 0.05, "bf16": 0.5, "int8": 1.0}  # of logits, whose RMS is 5
MAX_DRAFTS = 8
NUM_WORDS = 16  # of the text in which guesses are wrong
SEED = 1

DECODE_HEADINGS = {  # of the table -> field and factor
    "engine": ("engine", None), "dtype": ("dtype", None), "threads": ("threads", None),
    "prompts": ("prompts", None), "context": ("prompt_tokens", None), "batch": ("batch", None),
    "prefill tok/s": ("prefill_tok_per_sec", 1), "x": ("prefill_x", 1),
    "TTFT ms": ("ttft_sec", 1e3), "decode tok/s": ("tok_per_sec", 1), " x": ("decode_x", 1),
    "p50 ms": ("tpot_sec", 1e3), "p99 ms": ("tpot_p99_sec", 1e3), "MBU %": ("mbu_pct", 1),
    "GB/s": ("read_gb_per_sec", 1),
}  # fmt: skip
SPECULATION_HEADINGS = {
    "text": ("text", None), "guesses": ("max_drafts", None), "tok/s": ("tok_per_sec", 1),
    "x": ("x", 1), "accepted %": ("accepted_pct", 1), "guessed per token": ("drafted_per_token", 1),
}  # fmt: skip

T = TypeVar("T")
Workers = dict[Contender, Worker]
Readers = dict[int, Worker]  # by number of threads


# Contenders.


def start(contender: Contender, stack: ExitStack) -> Worker:
    return stack.enter_context(
        Worker(
            label(contender),
            "nanochat.testing.engine_child",
            asdict(contender),
            num_threads=contender.num_threads,
        )
    )


def start_reader(num_threads: int, stack: ExitStack) -> Worker:
    setup = {"num_threads": num_threads}
    # One of OpenBLAS's own in each of them.
    return stack.enter_context(
        Worker("reading memory", "nanochat.testing.bandwidth", setup, num_threads=1)
    )


def label(contender: Contender) -> str:
    return f"{contender.engine} {contender.dtype}, threads {contender.num_threads}"


def contenders(base: Contender, options: argparse.Namespace) -> list[Contender]:
    """All that are wanted and installed. ``base`` is ours in bf16, for the largest batch."""
    found = []
    for engine in options.only:
        dtypes = [dtype for dtype in TAKES[engine] if dtype in options.dtype]
        if engine == OURS:
            found += [replace(base, dtype=dtype) for dtype in dtypes]
            found += [replace(base, num_threads=threads) for threads in options.threads[1:]]
        elif missing := [package for package in PACKAGES[engine] if not installed(package)]:
            say(f"{engine}: left out, {' and '.join(missing)} not installed")
        elif batches := [batch for batch in options.batch if batch <= options.peer_batch]:
            peer = replace(base, engine=engine, num_rows=max(batches))
            found += [replace(peer, dtype=dtype) for dtype in dtypes]
    return found


def generate(
    worker: Worker, prompts: list[list[int]], num_tokens: int, *, temperature: float = 0.0
) -> Generated:
    question = {"prompts": prompts, "num_tokens": num_tokens, "temperature": temperature}
    return Generated(**worker.ask(question))


def random_prompts(key: str, count: int, length: int, config: GPTConfig) -> list[list[int]]:
    draw = random.Random(key)
    return [[draw.randrange(config.vocab_size) for _ in range(length)] for _ in range(count)]


# Results before times.


def check(workers: Workers, base: Contender, options: argparse.Namespace) -> dict[str, str]:
    """Greedy tokens of contenders with our weights against the choices of transformers in fp32, fed
    the same tokens.

    Returns: Contender -> how many are equal. Raises: UserError for a token that must not differ.
    """
    if not installed(TRANSFORMERS):
        say("tokens are not compared, transformers is not installed")
        return {}
    prompt = random_prompts("check", 1, min(options.context), base.config)[0]
    judge = engine_child.load(replace(base, engine=TRANSFORMERS, dtype="fp32"))
    assert isinstance(judge, engine_child.Transformers)
    equal = {}
    for contender, worker in workers.items():
        if contender.engine == LLAMA:
            continue  # another architecture
        tokens = generate(worker, [prompt], options.tokens).tokens[0][: options.tokens]
        choices = judge.choices(prompt + tokens[:-1])[len(prompt) - 1 :]
        num_equal = 0
        for i, (token, (choice, lead)) in enumerate(zip(tokens, choices, strict=True)):
            num_equal += token == choice
            if token != choice and lead >= LEADS[contender.dtype]:
                raise UserError(
                    f"bench engine: token {i} of {label(contender)} must be {choice}, which leads"
                    f" by {lead:.2g}, got {token}"
                )
        equal[label(contender)] = f"{num_equal} of {len(tokens)}"
    return equal


# Prefill and decode.


@dataclass(frozen=True)
class Cell:
    """What is measured in every round."""

    contender: Contender
    context: int
    batch: int
    is_shared: bool = False


@dataclass(frozen=True)
class Measurement:
    timing: Timing
    read_gb_per_sec: float


def cells(found: Sequence[Contender], base: Contender, options: argparse.Namespace) -> list[Cell]:
    """In the order of the rounds: contenders with the same task follow each other."""
    tasks = [(context, batch) for context in options.context for batch in options.batch]
    in_order = [
        Cell(contender, context, batch)
        for context, batch in tasks
        for contender in found
        if batch <= contender.num_rows
    ]
    if base in found:
        in_order += [
            Cell(base, context, base.num_rows, is_shared=True) for context in options.context
        ]
    return in_order


def prompts_of(cell: Cell, number: int) -> list[list[int]]:
    """Of a round; the same for all contenders, others for each task, since ours remembers some."""
    key = f"{number} {cell.context} {cell.batch} {cell.is_shared}"
    if cell.is_shared:
        return random_prompts(key, 1, cell.context, cell.contender.config) * cell.batch
    return random_prompts(key, cell.batch, cell.context, cell.contender.config)


def measure(
    cell: Cell, number: int, workers: Workers, readers: Readers, num_steps: int
) -> Measurement:
    """In round ``number``."""
    contender = cell.contender
    prompts = prompts_of(cell, number)
    reader = readers[contender.num_threads]
    before = reader.ask({})
    generated = generate(workers[contender], prompts, 1 + num_steps)
    return Measurement(timing(generated.arrivals_s), (before + reader.ask({})) / 2)


def tpot(one: Measurement) -> float:
    return median(one.timing.steps_s)


def prefill(one: Measurement) -> float:
    return one.timing.prefill_s


def decode_row(
    cell: Cell, own: list[Measurement], base: list[Measurement] | None
) -> dict[str, object]:
    """Field names are those of nanochat's infer_bench where it has them."""
    contender, batch = cell.contender, cell.batch
    weight_bytes = engine_models.weight_bytes(contender.config, contender.dtype)
    kv_bytes = engine_models.kv_bytes_per_token(contender.config, contender.dtype)
    tpots = [tpot(one) for one in own]
    mbus = []
    for one in own:
        num_prompts = 1 if cell.is_shared else batch
        num_tokens = num_prompts * cell.context + batch * one.timing.mean_generated
        num_bytes = weight_bytes + kv_bytes * num_tokens
        mbus.append(num_bytes / tpot(one) / (1e9 * one.read_gb_per_sec))
    prefills = [prefill(one) for one in own]
    return {
        "engine": contender.engine,
        "dtype": contender.dtype,
        "threads": contender.num_threads,
        "prompts": "shared" if cell.is_shared else "private",
        "prompt_tokens": cell.context,
        "batch": batch,
        "prefill_tok_per_sec": None if cell.is_shared else batch * cell.context / median(prefills),
        "prefill_x": None if cell.is_shared else ratio(base, own, prefill),
        "ttft_sec": median(one.timing.ttft_s for one in own),
        "tok_per_sec": batch / median(tpots),
        "decode_x": ratio(base, own, tpot),
        "tpot_sec": median(tpots),
        "tpot_p99_sec": percentile([step for one in own for step in one.timing.steps_s], 0.99),
        "mbu_pct": 100 * median(mbus),
        "read_gb_per_sec": median(one.read_gb_per_sec for one in own),
        "weight_bytes": weight_bytes,
        "kv_bytes_per_token": kv_bytes,
        "decode_steps": sum(len(one.timing.steps_s) for one in own),
    }


def decode_rows(
    base: Contender, options: argparse.Namespace
) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Rows, and what check() returns."""
    found = contenders(base, options)
    in_order = cells(found, base, options)
    measured: dict[Cell, list[Measurement]] = {cell: [] for cell in in_order}
    with ExitStack() as stack:
        say(f"load {len(found)} contenders")
        workers = {contender: start(contender, stack) for contender in found}
        threads = {contender.num_threads for contender in found}
        readers = {num_threads: start_reader(num_threads, stack) for num_threads in threads}
        equal = check(workers, base, options)
        for number in range(options.rounds):
            for cell in in_order:
                say(f"round {number + 1}: {label(cell.contender)}, {cell.batch} x {cell.context}")
                measured[cell].append(measure(cell, number, workers, readers, options.tokens))
    rows = []
    peers = {
        (cell.context, cell.batch): results
        for cell, results in measured.items()
        if cell.contender.engine == TRANSFORMERS
    }
    for cell, own in measured.items():
        rows.append(decode_row(cell, own, peers.get((cell.context, cell.batch))))
    return rows, equal


# Speculation.


def speculate(
    base: Contender, folder: Path, options: argparse.Namespace
) -> dict[tuple[str, int], list[Generated]]:
    """Text and largest number of guesses in a step -> what was generated in each round."""
    context = max(options.context)
    config = replace(base.config, seq_len=context + options.draft_tokens + MAX_DRAFTS + 1)
    # The text stands four times in the prompt.
    period = min(config.vocab_size, max(4, context // 4))
    copying = engine_models.copying_weights(config, period=period, seed=SEED)
    babbling = engine_models.babbling_weights(config, num_words=NUM_WORDS, seed=SEED)
    draw = random.Random("free")
    texts = {  # weights, prompt, temperature
        "copied": (copying, engine_models.copied_text(period, context), 0.0),
        "free": (babbling, [draw.randrange(NUM_WORDS) for _ in range(context)], 1.0),
    }
    results: dict[tuple[str, int], list[Generated]] = {}
    with ExitStack() as stack:
        workers = {}
        for text, (weights, _, _) in texts.items():
            path = engine_models.save(weights, folder / f"{text}.safetensors")
            own = replace(base, config=config, weights=str(path), num_rows=1)
            for max_drafts in (0, MAX_DRAFTS):
                workers[text, max_drafts] = start(replace(own, max_drafts=max_drafts), stack)
        for number in range(options.rounds):
            for (text, max_drafts), worker in workers.items():
                say(f"round {number + 1}: {text}, guesses {max_drafts}")
                _, prompt, temperature = texts[text]
                generated = generate(
                    worker, [prompt], options.draft_tokens, temperature=temperature
                )
                results.setdefault((text, max_drafts), []).append(generated)
    return results


def speculation_rows(
    results: dict[tuple[str, int], list[Generated]], num_tokens: int
) -> list[dict[str, object]]:
    """Two for each text. Raises: UserError if guesses change one of the first ``num_tokens``."""
    rows: list[dict[str, object]] = []
    for (text, max_drafts), own in results.items():
        plain = results[text, 0]
        for theirs, ours in zip(plain, own, strict=True):
            if theirs.tokens[0][:num_tokens] != ours.tokens[0][:num_tokens]:
                raise UserError(f"bench engine: guesses must not change tokens, they do in {text}")
        drafted = sum(one.counters["drafted_tokens"] for one in own)
        accepted = sum(one.counters["accepted_tokens"] for one in own)
        rows.append(
            {
                "text": text,
                "max_drafts": max_drafts,
                "tok_per_sec": 1 / median(map(seconds_per_token, own)),
                "x": ratio(plain, own, seconds_per_token),
                "accepted_pct": 100 * accepted / drafted if drafted else None,
                "drafted_per_token": drafted / sum(len(one.tokens[0]) for one in own),
            }
        )
    return rows


def seconds_per_token(generated: Generated) -> float:
    arrivals_s = generated.arrivals_s[0]
    return (arrivals_s[-1] - arrivals_s[0]) / (len(arrivals_s) - 1)


# The command.


def ratio(
    base: Sequence[T] | None, own: Sequence[T], seconds: Callable[[T], float]
) -> float | None:
    """Median over the rounds of how many times faster than the base; None if that did not run."""
    if base is None:
        return None
    return median(seconds(theirs) / seconds(ours) for theirs, ours in zip(base, own, strict=True))


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--what", nargs="+", choices=("decode", "speculation"), default=["decode", "speculation"])
    add("--only", nargs="+", choices=(OURS, *PACKAGES), default=[OURS, *PACKAGES], metavar="ENGINE",
        help=f"of {', '.join((OURS, *PACKAGES))}; what is not installed is left out")  # fmt: skip
    add("--dtype", nargs="+", choices=TAKES[OURS], default=TAKES[OURS],
        help="of weights; torch takes bf16 and fp32, transformers and llama.cpp bf16")  # fmt: skip
    add("--depth", type=positive, default=12, help="layers; width is 64 for each, in heads of 128")
    add("--vocab-size", type=positive, default=32_768)
    add("--context", nargs="+", type=positive, default=[512], help="tokens of a prompt")
    add("--batch", nargs="+", type=positive, default=[1, 8, 32], help="prompts at the same time")
    add("--peer-batch", type=positive, default=8, help="largest batch for other engines than ours")
    add("--tokens", type=positive, default=32, help="decoding steps of a measurement")
    add("--draft-tokens", type=positive, default=256, help="tokens of a measurement of speculation")
    add("--threads", nargs="+", type=positive, default=[1],
        help="of all; more numbers are for ours in bf16")  # fmt: skip
    add("--rounds", type=positive, default=3, help="measurements of each contender")
    add("--out", type=Path, help="file for the JSON of the last line")
    return parser.parse_args(argv)


def model_config(options: argparse.Namespace) -> GPTConfig:
    context = max(options.context)
    # Rows that came first decode while the prompts of the others are computed.
    num_waiting = max(options.batch) * -(-context // torch_core.CHUNK)
    return GPTConfig.from_depth(
        options.depth,
        arch="classic",
        vocab_size=options.vocab_size,
        seq_len=context + num_waiting + options.tokens + 2,
    )


def print_table(title: str, headings: Mapping[str, tuple[str, float | None]], rows: Any) -> None:
    def cell(value: Any, factor: float | None) -> object:
        return value if factor is None or value is None else factor * value

    cells = [[cell(row[field], factor) for field, factor in headings.values()] for row in rows]
    print(f"\n{title}\n{bench.table(list(headings), cells)}")


def main(argv: list[str]) -> None:
    options = parse(argv)
    config = model_config(options)
    facts = (
        bench.host()
        | versions()
        | {
            "load": os.getloadavg()[0],
            "depth": options.depth,
            "params": config.num_parameters(),
            "vocab_size": options.vocab_size,
            "rounds": options.rounds,
        }
    )
    print("engine: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    document: dict[str, Any] = {"benchmark": "engine", "machine": facts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = Contender(
            engine=OURS,
            dtype="bf16",
            num_threads=options.threads[0],
            config=config,
            weights=str(folder / "random.safetensors"),
            num_rows=max(options.batch),
        )
        if "decode" in options.what:
            weights = engine_models.random_weights(config, seed=SEED)
            engine_models.save(weights, Path(base.weights))
            del weights  # before those who load them need the room
            document["decode"], document["equal_tokens"] = decode_rows(base, options)
            equal = "; ".join(f"{who}: {count}" for who, count in document["equal_tokens"].items())
            print(f"greedy tokens equal to transformers in fp32: {equal or 'not compared'}")
            print_table("decode", DECODE_HEADINGS, document["decode"])
        if "speculation" in options.what:
            results = speculate(base, folder, options)
            document["speculation"] = speculation_rows(results, options.draft_tokens)
            print_table("speculation", SPECULATION_HEADINGS, document["speculation"])
    line = json.dumps(document)
    print(f"\n{line}")
    if options.out:
        options.out.write_text(line + "\n")


def versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    run_main(main)
