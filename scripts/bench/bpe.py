"""Time train_bpe against rustbpe on the same documents, after checking that the ranks are equal.

Each round runs every contender once, one after the other, so that a busy machine slows all of them;
the figures are medians over the rounds, a ratio the median of the rounds' ratios of wall time. The
clock runs from Python strings in memory to the ranks. Without --data the text is generated: words
drawn by Zipf's law, of one Latin and three other scripts. Needs rustbpe (the test extra).

    python scripts/bench/bpe.py --data corpus.jsonl.zst --mb 100 --vocab-size 32759
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nanochat.common.errors import UserError, run_main
from nanochat.tokenizer import SPLIT_PATTERN, train_bpe
from nanochat.tokenizer.bpe import available_cpus

MAX_CHARS = 10_000  # of a document, as in tok_train
# Latin, Cyrillic, Greek and Han letters, most frequent first in Latin.
SCRIPTS = (
    "etaoinshrdlcumwfgypb",
    *("".join(map(chr, range(first, first + 16))) for first in (0x0430, 0x03B1, 0x4E00)),
)


def read(paths: list[Path]) -> Iterator[str]:
    """Documents: the field "text" of the lines of .jsonl (.gz, .zst) files."""
    from nanochat.data.streams import open_bytes

    for path in paths:
        with open_bytes(path) as file:
            for line in file:
                yield json.loads(line)["text"][:MAX_CHARS]


def generate() -> Iterator[str]:
    """Endless documents of about 1,200 characters."""
    rng = random.Random(0)
    words = []
    for letters in rng.choices(SCRIPTS, weights=[85, 7, 3, 5], k=50_000):
        harmonic = [1 / rank for rank in range(1, len(letters) + 1)]
        words.append("".join(rng.choices(letters, harmonic, k=rng.randrange(2, 10))))
    zipf = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    marks = [" ", " ", " ", " ", " ", ", ", ". ", "'s ", " 1945 ", "\n"]
    while True:
        chosen = rng.choices(words, cum_weights=zipf, k=200)
        yield "".join(
            word + mark for word, mark in zip(chosen, rng.choices(marks, k=200), strict=True)
        )


def take(documents: Iterator[str], num_bytes: int) -> list[str]:
    texts: list[str] = []
    for text in documents:
        if num_bytes <= 0:
            break
        texts.append(text)
        num_bytes -= len(text.encode())
    return texts


def train_rustbpe(texts: list[str], vocab_size: int) -> dict[bytes, int]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=SPLIT_PATTERN)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help=".jsonl files (.gz, .zst)")
    parser.add_argument("--mb", type=float, default=20, help="megabytes of text to train on")
    parser.add_argument("--vocab-size", type=int, default=32_759, help="bytes and merges")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    options = parser.parse_args(argv)

    texts = take(read(options.data) if options.data else generate(), int(options.mb * 1e6))
    num_bytes = sum(len(text.encode()) for text in texts)
    if num_bytes == 0:
        raise UserError("bench bpe: the data must hold at least one document")

    contenders: dict[str, Callable[[], dict[bytes, int]]] = {
        "rustbpe": lambda: train_rustbpe(texts, options.vocab_size),
        "ours, 1 thread": lambda: train_bpe(texts, options.vocab_size, num_threads=1),
    }
    if (cpus := available_cpus()) > 1:
        contenders[f"ours, {cpus} threads"] = lambda: train_bpe(
            texts, options.vocab_size, num_threads=cpus
        )
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    expected = train_rustbpe(texts, options.vocab_size)
    for _ in range(options.rounds):
        for name, train in contenders.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            ranks = train()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
            if ranks != expected:
                raise UserError(f"bench bpe: the ranks of {name} differ from rustbpe's")

    print(
        f"{num_bytes / 1e6:.1f} MB, {len(texts)} documents, {len(expected)} ranks (all equal),"
        f" {options.rounds} rounds, {platform.machine()}, {cpus} CPUs"
    )
    print(f"{'contender':<16} {'seconds':>8} {'cpu s':>8} {'MB/s':>7} {'x rustbpe':>10}")
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = [r / t for r, t in zip(seconds["rustbpe"], times, strict=True)]
        row = {
            "contender": name,
            "seconds": round(median, 3),
            "cpu_s": round(statistics.median(cpu_seconds[name]), 3),
            "mb_per_s": round(num_bytes / 1e6 / median, 1),
            "x_rustbpe": round(statistics.median(ratios), 2),
        }
        rows.append(row)
        print(
            f"{name:<16} {row['seconds']:>8} {row['cpu_s']:>8} {row['mb_per_s']:>7}"
            f" {row['x_rustbpe']:>10}"
        )
    print(
        json.dumps({"bench": "bpe", "bytes": num_bytes, "vocab": options.vocab_size, "rows": rows})
    )


if __name__ == "__main__":
    run_main(main)
