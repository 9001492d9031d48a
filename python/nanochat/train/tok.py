"""Train the tokenizer of a run, or take one that there is already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.common.console import say, ticker
from nanochat.common.errors import UserError
from nanochat.common.figures import count, duration
from nanochat.common.record import now
from nanochat.data import Source, items
from nanochat.tokenizer import MIN_VOCAB_SIZE, Tokenizer
from nanochat.tokenizer.interop import read_tokenizer
from nanochat.train.inputs import TINYWORLD, text_sources
from nanochat.train.run import (
    TOKENIZER,
    Stopwatch,
    exclusive,
    is_done,
    result_options,
    run_dir,
    write_record,
)

MAX_DOCUMENT_CHARS = 10_000  # no single document decides the vocabulary


@dataclass(frozen=True, kw_only=True)
class TokTrainConfig:
    """Train the BPE tokenizer of a run, or with --ranks take one that is trained."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: str = TINYWORLD
    """tinyworld, or a folder, glob or file of .txt, .jsonl(.zst|.gz), .parquet."""
    vocab_size: int = 32_768
    """Number of ids: 256 bytes, merges and 9 special tokens."""
    max_chars: int = 2_000_000_000
    """Characters of text to learn from."""
    num_threads: int | None = None
    """Threads that split and count; all cores if not given. The result does not depend on it."""
    ranks: Path | None = None
    """Take this tokenizer and train none: a tokenizer.json of ours, upstream nanochat's
    tokenizer.pkl (nothing in it is executed), or a .tiktoken file of ranks, to which nanochat's
    split pattern and special tokens are added. --vocab-size and --max-chars then mean nothing."""
    seed: int = 42


def tok_train(config: TokTrainConfig) -> None:
    """Write ``tokenizer.json`` into the run's folder; does nothing if it is there already.

    It is trained, or with ``config.ranks`` read from that file and written in our format.
    """
    if config.vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"tok-train: --vocab-size must be at least {MIN_VOCAB_SIZE} (256 bytes and 9 special "
            f"tokens), got {config.vocab_size}"
        )
    folder = run_dir(config.run, config.out)
    options = result_options(config)
    with exclusive(folder):
        if is_done(folder, "tok_train", options):
            return
        started, watch = now(), Stopwatch()
        source, held_out = text_sources(config.data, seed=config.seed)
        if config.ranks is not None:
            tokenizer = read_tokenizer(config.ranks)
        else:
            texts = _texts(source, config.max_chars)
            tokenizer = Tokenizer.train(texts, config.vocab_size, num_threads=config.num_threads)
            if tokenizer.vocab_size < config.vocab_size:
                say(f"tok-train: the text has merges for {tokenizer.vocab_size} ids only")
        tokenizer.save(folder / TOKENIZER)
        ratio = bytes_per_token(tokenizer, _texts(held_out, 200_000, title=None))
        write_record(
            folder,
            "tok_train",
            started=started,
            seconds=watch.seconds,
            config=options,
            metrics={"vocab_size": tokenizer.vocab_size, "bytes_per_token": ratio},
        )
        say(
            f"tok-train: {count(tokenizer.vocab_size)} ids, {ratio:.2f} bytes per token on "
            f"held-out text, {duration(watch.seconds)}"
        )


def _texts(source: Source, max_chars: int, *, title: str | None = "tok-train") -> Iterator[str]:
    """Documents of one epoch, cut at MAX_DOCUMENT_CHARS, until ``max_chars`` have been read."""
    seen = 0
    with ticker(title or "", max_chars, quiet=title is None) as bar:
        for number, document in enumerate(items(source)):
            if seen >= max_chars:
                break
            text = document[:MAX_DOCUMENT_CHARS]
            seen += len(text)
            yield text
            if number % 1000 == 0:
                bar.update(min(seen, max_chars))
    if seen == 0:
        raise UserError(f"tok-train: no document in {source.name}")


def bytes_per_token(tokenizer: Tokenizer, texts: Iterator[str]) -> float:
    """UTF-8 bytes per token, each document encoded on its own."""
    documents = list(texts)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(documents))
    return sum(len(text.encode()) for text in documents) / tokens


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a run. Raises: UserError if it is not there yet."""
    path = folder / TOKENIZER
    if not path.exists():
        raise UserError(f"train: no {path}; run tok-train with the same --run or --out first")
    return Tokenizer.load(path)
