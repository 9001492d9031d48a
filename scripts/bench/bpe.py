"""train_bpe and Tokenizer.encode_to_numpy against their peers, over sizes and kinds of text.

    python scripts/bench/bpe.py --mb 10 30 100 --data corpus.jsonl.zst
    python scripts/bench/bpe.py --what encode --kind english=wiki.parquet code=src.jsonl

Results are compared before anything is said about time: token lists of ours and rustbpe's by their
hash, ids with tiktoken's for each document. Contenders take turns, round by round, so that a busy
machine slows all of them; figures are medians over the rounds, ratios the median of the rounds'
ratios. The clock runs from Python strings in memory to the ranks, or the ids, in memory.

Training: each measurement in a fresh process; "peak MB" is the rise of resident memory above what
the documents take. Encoding: one process for each kind of text, one thread but for the column that
says otherwise, MB/s; "first" is a new encoder, "warm" the same one again. Text that is not given is made
up (nanochat.testing.texts).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from nanochat.common.errors import UserError, run_main
from nanochat.testing import child, peers, texts
from nanochat.testing.texts import Texts
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.tokenizer.bpe import available_cpus

PACKAGES = ("rustbpe", "tiktoken", "tokenizers")
CHILD = "--child"  # argv of a child: this, "train" or "encode", and JSON
HF = "tokenizers"  # Hugging Face's
BASE = ("rustbpe", 1)  # what training is compared with

OTHER_ORDER = "bytes in another order"  # in place of the hash: other ties, hence other tokens
RAW = "random bytes, raw"  # as bytes, which only ours takes
PEER_ENCODERS = {
    "tiktoken": peers.tiktoken_to_lists,
    "tiktoken numpy": peers.tiktoken_to_numpy,
    HF: peers.tokenizers_batch,
}


# Training.


def train(contender: str, documents: list[Any], vocab_size: int, num_threads: int) -> list[Any]:
    """Tokens in the order of ids. The threads of peers are set by the environment."""
    if contender == "rustbpe":
        return peers.train_rustbpe(documents, vocab_size)
    if contender == HF:
        return list(map(str.encode, peers.train_tokenizers(documents, vocab_size)))
    return list(train_bpe(documents, vocab_size, num_threads=num_threads))


def train_child(request: dict[str, Any]) -> dict[str, Any]:
    """One training, measured, and the hash of its token list."""
    documents: Any = Texts(**request["texts"]).load()
    if request["contender"] == "ours, Arrow":
        import pyarrow as pa

        strings = documents  # kept: memory given back would be used again and not be counted
        documents = [pa.array(strings, pa.large_string())]
    call = partial(
        train, request["contender"], documents, request["vocab_size"], request["num_threads"]
    )
    tokens, cost = child.measure(call)
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(len(token).to_bytes(8, "little") + token)
    return {**asdict(cost), "tokens": len(tokens), "sha256": digest.hexdigest()}


def contenders(threads: list[int], with_tokenizers: bool) -> list[tuple[str, int]]:
    """Name and number of threads, those that are installed."""
    names = [*(("ours", n) for n in threads), ("ours, Arrow", 1)]
    if installed("rustbpe"):
        names += [("rustbpe", n) for n in sorted({1, max(threads)})]
    if installed(HF) and with_tokenizers:
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
                __file__, CHILD, "train", json.dumps(request), num_threads=num_threads
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
                "x in cpu s": ratio(column(bases, "cpu_s"), column(own, "cpu_s")),
                "sha256 of tokens": OTHER_ORDER if name == HF else own[0]["sha256"][:16],
            }
        )
    return rows


def column(results: list[dict[str, Any]], name: str) -> list[Any]:
    return [result[name] for result in results]


# Encoding.


def our_threads(num_cpus: int) -> dict[str, int]:
    """Encoder -> threads, in the order of the calls: the first of them finds the caches empty."""
    alone = {"ours first": 1, "ours warm": 1}
    return alone | ({f"ours, {num_cpus} threads": num_cpus} if num_cpus > 1 else {})


def peer_encoders() -> list[str]:
    return [name for name in PEER_ENCODERS if installed(name.split()[0])]


def encode_child(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each encoder, one for each round, and why others fail.

    Raises: UserError if a peer's ids are not ours, or ours do not spell the text.
    """
    documents: Any = Texts(**request["texts"]).load()
    if request["is_raw"]:
        documents = [text.encode("latin-1") for text in documents]
    ours = Tokenizer.load(request["tokenizer"])
    ids, offsets = ours.encode_to_numpy(documents, num_threads=1)
    spelled = ours.decode_bytes(ids)
    if spelled != b"".join(t if isinstance(t, bytes) else t.encode() for t in documents):
        raise UserError("bench bpe: the ids of ours must spell the text")

    expected = [ids[begin:end].tolist() for begin, end in pairwise(offsets)]
    seconds: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    encoders: dict[str, Callable[..., Any]] = {}
    for name in [] if request["is_raw"] else peer_encoders():
        encode = PEER_ENCODERS[name](ours)
        actual = peers.ids_or_failure(encode, documents)
        if isinstance(actual, str):
            failures[name] = actual
        elif actual == expected:
            encoders[name] = encode
        else:
            raise UserError(f"bench bpe: the ids of {name} must be equal to ours")
    del expected

    for _ in range(request["rounds"]):
        ours = Tokenizer.load(request["tokenizer"])
        for name, num_threads in our_threads(request["num_cpus"]).items():
            encoders[name] = partial(ours.encode_to_numpy, num_threads=num_threads)
        for name, encode in encoders.items():
            started = time.perf_counter()
            result = encode(documents)
            elapsed = time.perf_counter() - started
            del result  # not on the clock
            seconds.setdefault(name, []).append(elapsed)
    return {"num_bytes": len(spelled), "seconds": seconds, "failures": failures}


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
        answer = child.run(__file__, CHILD, "encode", json.dumps(request), num_threads=1)
        seconds, megabytes = answer["seconds"], answer["num_bytes"] / 1e6
        row: dict[str, object] = {"text": kind, "MB": megabytes, "documents": corpus.count}
        for name in [*our_threads(num_cpus), *peer_encoders()]:
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


def installed(package: str) -> bool:
    return find_spec(package) is not None


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


def run_child(what: str, request: str) -> None:
    answer = {"train": train_child, "encode": encode_child}[what](json.loads(request))
    print(json.dumps(answer))


def run(options: argparse.Namespace) -> None:
    from nanochat.testing import bench  # imports torch, which no child has to wait for

    facts = bench.host() | {name: version(name) for name in PACKAGES if installed(name)}
    facts |= {
        "text": " ".join(map(str, options.data)) or "made up",
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


def main(argv: list[str]) -> None:
    if argv[:1] == [CHILD]:
        run_child(*argv[1:])
    else:
        run(parse(argv))


if __name__ == "__main__":
    run_main(main)
