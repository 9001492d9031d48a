"""train_bpe and Tokenizer.encode_to_numpy against their peers, over sizes and kinds of text.

    python scripts/bench/bpe.py --mb 10 30 100 --data corpus.jsonl.zst
    python scripts/bench/bpe.py --what encode --kind english=wiki.parquet code=src.jsonl

Results are compared before anything is said about time: token lists of ours and rustbpe's by their
hash, ids with tiktoken's for each document. Contenders take turns, round by round, so that a busy
machine slows all of them; figures are medians over the rounds, ratios the median of the rounds'
ratios. The clock runs from Python strings in memory to the ranks, or the ids, in memory.

Training: each measurement in a fresh process; "peak MB" is the rise of resident memory above what
the documents take. "ours, 1 each" runs as many trainings of one thread at once as it says threads:
its "x one thread", trainings in the time of one alone, is what the machine gives to that many.
Encoding: one process for each kind of text, one thread but for the column that says otherwise, in
MB/s; "first" is a new encoder, "warm" the same one again. What a process does is in
nanochat.testing.bpe_child. Text that is not given is made up, see nanochat.testing.texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from nanochat.common.errors import UserError, run_main
from nanochat.testing import bench, child, peers, texts
from nanochat.testing.bpe_child import AT_ONCE, our_threads
from nanochat.testing.peers import HF
from nanochat.testing.texts import Texts
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.tokenizer.bpe import available_cpus

PACKAGES = ("rustbpe", "tiktoken", "tokenizers")
CHILD = "nanochat.testing.bpe_child"
BASE = ("rustbpe", 1)  # what training is compared with
ONE = ("ours", 1)  # what more threads are compared with

OTHER_ORDER = "bytes in another order"  # in place of the hash: other ties, hence other tokens
RAW = "random bytes, raw"  # as bytes, which only ours takes


# Training.


def contenders(threads: list[int], with_tokenizers: bool) -> list[tuple[str, int]]:
    """Name and number of threads, those that are installed."""
    names = [*(("ours", n) for n in threads), ("ours, Arrow", 1)]
    names += [(AT_ONCE, n) for n in threads if n > 1]
    if peers.installed("rustbpe"):
        names += [("rustbpe", n) for n in sorted({1, max(threads)})]
    if peers.installed(HF) and with_tokenizers:
        names.append((HF, 1))
    return names


def train_rounds(
    corpus: Texts, names: list[tuple[str, int]], options: argparse.Namespace
) -> list[dict[tuple[str, int], dict[str, Any]]]:
    """Name and threads -> answer, in each round. Raises: UserError if tokens are not as they must
    be: one and the same list from all but Hugging Face's."""
    rounds: list[dict[tuple[str, int], dict[str, Any]]] = []
    for number in range(options.rounds):
        answers = {}
        for name, num_threads in names:
            say(f"train {corpus.num_bytes / 1e6:.1f} MB, round {number + 1}: {name}, {num_threads}")
            request = {
                "texts": asdict(corpus),
                "contender": name,
                "num_threads": num_threads,
                "vocab_size": options.vocab_size,
            }
            answers[name, num_threads] = child.run(
                "-m", CHILD, "train", json.dumps(request), num_threads=num_threads
            )
        rounds.append(answers)
    hashes = {
        (*who, answer["sha256"])
        for answers in rounds
        for who, answer in answers.items()
        if who[0] != HF
    }
    if len({digest for *_, digest in hashes}) > 1:
        raise UserError(f"bench bpe: token lists must be equal, got SHA-256 {sorted(hashes)}")
    return rounds


def train_rows(
    corpus: Texts, megabytes: float, options: argparse.Namespace
) -> list[dict[str, object]]:
    """The contenders on one size of text."""
    names = contenders(options.threads, megabytes <= options.hf_mb)
    rounds = train_rounds(corpus, names, options)
    rows: list[dict[str, object]] = []
    bases = [results[BASE] for results in rounds if BASE in results]
    ones = [results[ONE] for results in rounds if ONE in results]
    for name, num_threads in names:
        own = [results[name, num_threads] for results in rounds]
        wall_s = median(column(own, "wall_s"))
        peaks = column(own, "peak_bytes")
        rows.append(
            {
                "MB": megabytes,
                "documents": corpus.count,
                "contender": name,
                "threads": num_threads,
                "s": wall_s,
                "cpu s": median(column(own, "cpu_s")),
                "MB/s": corpus.num_bytes / 1e6 / wall_s,
                "peak MB": None if None in peaks else round(median(peaks) / 1e6),
                "x rustbpe": ratio(column(bases, "wall_s"), column(own, "wall_s")),
                "x one thread": gain(
                    name, num_threads, ratio(column(ones, "wall_s"), column(own, "wall_s"))
                ),
                "x in cpu s": ratio(column(bases, "cpu_s"), column(own, "cpu_s")),
                "sha256 of tokens": OTHER_ORDER if name == HF else own[0]["sha256"][:16],
            }
        )
    return rows


def gain(name: str, num_threads: int, ratio: float | None) -> float | None:
    """Trainings in the time of one with one thread."""
    if not name.startswith("ours") or ratio is None:
        return None
    return ratio * num_threads if name == AT_ONCE else ratio


def column(results: list[dict[str, Any]], name: str) -> list[Any]:
    return [result[name] for result in results]


# Encoding.


def encode_rows(
    kinds: dict[str, Texts], tokenizer: Path, options: argparse.Namespace
) -> list[dict[str, object]]:
    """Columns with the name of an encoder are in MB/s."""
    num_cpus = max(options.threads)
    rows = []
    for kind, corpus in kinds.items():
        say(f"encode {kind}")
        request = {
            "texts": asdict(corpus),
            "is_raw": kind == RAW,
            "tokenizer": str(tokenizer),
            "num_cpus": num_cpus,
            "rounds": options.rounds,
        }
        answer = child.run("-m", CHILD, "encode", json.dumps(request), num_threads=1)
        seconds, megabytes = answer["seconds"], answer["num_bytes"] / 1e6
        row: dict[str, object] = {"text": kind, "MB": megabytes, "documents": corpus.count}
        for name in [*our_threads(num_cpus), *peers.encoders()]:
            if name in seconds:
                row[name] = megabytes / median(seconds[name])
            else:  # no failure: a peer that does not take bytes
                row[name] = verdict(kind, name, answer["failures"].get(name))
        for name in ("first", "warm"):
            row[f"{name} x tiktoken"] = ratio(seconds.get("tiktoken"), seconds[f"ours {name}"])
        rows.append(row)
    return rows


def verdict(kind: str, encoder: str, failure: str | None) -> str | None:
    if failure is None:
        return None
    say(f"encode {kind}: {encoder} fails: {failure}")
    return "crashes" if failure.startswith("PanicException") else "fails"


def encode_texts(mixed: Texts, folder: Path, options: argparse.Namespace) -> dict[str, Texts]:
    """Kind -> at most --encode-mb of it."""
    num_bytes = int(options.encode_mb * 1e6)
    files = dict(options.kind)
    kinds = [*dict.fromkeys([*texts.KINDS, RAW, *files])]
    if unknown := set(options.only) - set(kinds):
        raise UserError(f"bench bpe: --only must be of {', '.join(kinds)}, got {min(unknown)}")
    found = {}
    for kind in kinds:
        if options.only and kind not in options.only:
            continue
        if kind == "mixed":
            found[kind] = mixed.prefix(num_bytes)
            continue
        if kind in files:
            documents = texts.take(texts.read([files[kind]]), num_bytes)
        else:
            documents = texts.generate("random bytes" if kind == RAW else kind, num_bytes)
        found[kind] = Texts.save(documents, folder / f"{len(found)}.jsonl")
    return found


# The command.


def ratio(base: list[float] | None, own: list[float]) -> float | None:
    """Median over the rounds of how many times faster than the base; None if that did not run."""
    if not base:
        return None
    return median(theirs / ours for theirs, ours in zip(base, own, strict=True))


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def named_file(value: str) -> tuple[str, Path]:
    name, _, path = value.partition("=")
    if not name or not path or name == "mixed":
        raise argparse.ArgumentTypeError(
            f"must be NAME=FILE (that of mixed text is --data), got {value!r}"
        )
    return name, Path(path)


def parse(argv: list[str]) -> argparse.Namespace:
    cpus = available_cpus()
    powers = [1 << i for i in range(cpus.bit_length()) if 1 << i < cpus]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--what", nargs="+", choices=("train", "encode"), default=["train", "encode"])
    add("--data", nargs="+", type=Path, default=[], metavar="PATH",
        help="files or folders of text; made up if not given")  # fmt: skip
    add("--mb", nargs="+", type=float, default=[20],
        help="sizes of text to train on; encoding has the vocabulary of the largest")  # fmt: skip
    add("--threads", nargs="+", type=positive, default=[*powers, cpus],
        help="of ours in training; rustbpe gets 1 and the most")  # fmt: skip
    add("--hf-mb", type=float, default=30, help="largest size that Hugging Face's trainer gets")
    add("--vocab-size", type=int, default=32_759, help="bytes and merges")
    add("--encode-mb", type=float, default=10, help="megabytes of each kind of text, at most")
    add("--kind", nargs="+", type=named_file, default=[], metavar="NAME=FILE",
        help=f"real text for a kind ({', '.join(texts.KINDS[1:])}) or for another")  # fmt: skip
    add("--only", nargs="+", default=[], metavar="KIND", help="kinds to encode; all if not given")
    add("--rounds", type=positive, default=3, help="measurements of each contender")
    add("--out", type=Path, help="file for the JSON of the last line")
    return parser.parse_args(argv)


def read_mixed(options: argparse.Namespace, folder: Path) -> Texts:
    """The largest size of --mb; the others are its first documents."""
    num_bytes = int(1e6 * max(options.mb))
    documents = texts.read(options.data) if options.data else texts.generate("mixed", num_bytes)
    mixed = Texts.save(texts.take(documents, num_bytes), folder / "mixed.jsonl")
    if mixed.num_bytes < num_bytes:
        raise UserError(
            f"bench bpe: --mb must be at most {mixed.num_bytes / 1e6:.4g}, which is all that --data"
            f" holds, got {max(options.mb):g}"
        )
    return mixed


def main(argv: list[str]) -> None:
    options = parse(argv)
    facts = bench.host() | {name: version(name) for name in PACKAGES if peers.installed(name)}
    facts |= {
        "text": " ".join(map(str, options.data)) or "made up",
        "kinds": " ".join(f"{kind}={path}" for kind, path in options.kind) or "made up",
        "vocab_size": options.vocab_size,
        "rounds": options.rounds,
    }
    print("bpe: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    document: dict[str, Any] = {"benchmark": "bpe", "machine": facts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mixed = read_mixed(options, folder)
        if "train" in options.what:
            rows = []
            for megabytes in options.mb:
                rows += train_rows(mixed.prefix(int(1e6 * megabytes)), megabytes, options)
            document["train"] = rows
            print(f"\ntrain\n{bench.table(list(rows[0]), [list(row.values()) for row in rows])}")
        if "encode" in options.what:
            kinds = encode_texts(mixed, folder, options)
            ours = Tokenizer.from_ranks(train_bpe(mixed.load(), options.vocab_size))
            ours.save(folder / "tokenizer.json")
            rows = encode_rows(kinds, folder / "tokenizer.json", options)
            document["encode"] = rows
            print(f"\nencode\n{bench.table(list(rows[0]), [list(row.values()) for row in rows])}")
    line = json.dumps(document)
    print(f"\n{line}")
    if options.out:
        options.out.write_text(line + "\n")


if __name__ == "__main__":
    run_main(main)
