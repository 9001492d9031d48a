"""One process of scripts/bench/bpe.py: it loads the documents, measures, and prints JSON.

    python -m nanochat.testing.bpe_child train|encode REQUEST

Imports neither torch nor, beyond what it measures, other packages: it starts in 0.2 s.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import Any

from nanochat.common.errors import UserError, run_main
from nanochat.testing import child, peers
from nanochat.testing.texts import Texts
from nanochat.tokenizer import Tokenizer, train_bpe

AT_ONCE = "ours, 1 each"  # threads are processes here


def train(contender: str, documents: list[Any], vocab_size: int, num_threads: int) -> list[Any]:
    """Tokens in the order of ids. The threads of peers are set by the environment."""
    if contender == "rustbpe":
        return peers.train_rustbpe(documents, vocab_size)
    if contender == peers.HF:
        return list(map(str.encode, peers.train_tokenizers(documents, vocab_size)))
    if contender == AT_ONCE:
        return train_at_once(documents, vocab_size, num_threads)
    return list(train_bpe(documents, vocab_size, num_threads=num_threads))


def train_at_once(documents: list[Any], vocab_size: int, num_processes: int) -> list[Any]:
    """The same training, with one thread, in so many processes that share nothing but the machine:
    what that gives beyond one of them is what threads could give at best."""
    others = []
    for _ in range(num_processes - 1):
        if (pid := os.fork()) == 0:
            train_bpe(documents, vocab_size, num_threads=1)
            os._exit(0)
        others.append(pid)
    tokens = list(train_bpe(documents, vocab_size, num_threads=1))
    failed = [pid for pid in others if os.waitpid(pid, 0)[1] != 0]
    if failed:
        raise UserError(f"bench bpe: {len(failed)} of {num_processes} trainings at once failed")
    return tokens


def measure_training(request: dict[str, Any]) -> dict[str, Any]:
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


def our_threads(num_cpus: int) -> dict[str, int]:
    """Encoder -> threads, in the order of the calls: the first of them finds the caches empty."""
    alone = {"ours first": 1, "ours warm": 1}
    return alone | ({f"ours, {num_cpus} threads": num_cpus} if num_cpus > 1 else {})


def measure_encoding(request: dict[str, Any]) -> dict[str, Any]:
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
    for name in [] if request["is_raw"] else peers.encoders():
        encode = peers.ENCODERS[name](ours)
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


def main(argv: list[str]) -> None:
    what, request = argv
    measure = {"train": measure_training, "encode": measure_encoding}[what]
    print(json.dumps(measure(json.loads(request))))


if __name__ == "__main__":
    run_main(main)
