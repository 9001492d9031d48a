"""Bytes per token of a tokenizer, by kind of text, beside those of GPT-2 and GPT-4 (cl100k).

More bytes per token means a shorter sequence for the same text. 1.0 is a tokenizer that knows
nothing but bytes. Each text is also decoded again, which must give it back. The peers' ranks are
files that somebody put here; nothing is ever downloaded.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanochat.common.console import say
from nanochat.common.errors import UserError
from nanochat.common.paths import home
from nanochat.data import Corpus, Source, items, tinyworld
from nanochat.evals.texts import TEXTS
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.bpe import CL100K_PATTERN, GPT2_PATTERN
from nanochat.tokenizer.interop import read_tiktoken

TINYWORLD = "tinyworld"  # the value of --data that means the generator
NUM_DOCUMENTS = 200  # of tinyworld, held out
MAX_CHARS = 1_000_000  # of each split of --data
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A published tokenizer to compare with."""

    name: str
    file: str  # in NANOCHAT_HOME/ranks
    url: str  # tiktoken's, by whose hash it names its own copy
    pattern: str


PEERS = (
    Peer(
        name="GPT-2",
        file="gpt2.tiktoken",
        url="https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken",
        pattern=GPT2_PATTERN,
    ),
    Peer(
        name="cl100k",
        file="cl100k_base.tiktoken",
        url="https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        pattern=CL100K_PATTERN,
    ),
)


@dataclass(frozen=True, kw_only=True)
class TokEvalConfig:
    """Show how many bytes a token of a run's tokenizer holds, by kind of text, beside GPT-2's."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    data: str = TINYWORLD
    """The run's --data: its training and held-out text are rows besides tinyworld's."""
    text: tuple[Path, ...] = ()
    """More texts: UTF-8 files, each a row of its own."""
    gpt2: Path | None = None
    """Ranks of GPT-2; if not given, NANOCHAT_HOME/ranks/gpt2.tiktoken or tiktoken's cache."""
    cl100k: Path | None = None
    """Ranks of cl100k; if not given, NANOCHAT_HOME/ranks/cl100k_base.tiktoken or that cache."""


@dataclass(frozen=True)
class Row:
    """One kind of text and how long it is for each tokenizer."""

    text: str
    num_bytes: int
    num_tokens: Mapping[str, int]

    def bytes_per_token(self, name: str) -> float:
        return self.num_bytes / self.num_tokens[name]

    def saving(self, peer: str) -> float:
        """Share of the peer's tokens that ours does without; negative if ours needs more."""
        return 1 - self.num_tokens[OURS] / self.num_tokens[peer]


def tok_eval(config: TokEvalConfig) -> None:
    """Print the table, then the same as one line of JSON.

    Raises: UserError for a tokenizer, ranks or a text that cannot be read.
    """
    folder = config.out if config.out is not None else home() / "runs" / config.run
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(f"tok-eval: no tokenizer at {path}; run tok-train first")
    tokenizer = Tokenizer.load(path)
    tokenizers = {OURS: tokenizer}
    for peer, given in zip(PEERS, (config.gpt2, config.cl100k), strict=True):
        if (ranks := find_ranks(peer, given)) is not None:
            tokenizers[peer.name] = Tokenizer.from_ranks(read_tiktoken(ranks), peer.pattern)
        else:
            say(f"tok-eval: no {peer.name}; save {peer.url} as {home() / 'ranks' / peer.file}")
    rows = [measure(tokenizers, name, documents) for name, documents in _texts(config)]
    _print_table(rows)
    print(json.dumps(_document(tokenizer, rows)))


def find_ranks(peer: Peer, given: Path | None) -> Path | None:
    """The file of the peer's ranks: the given one, the one in our home, tiktoken's copy, or None.

    tiktoken is not asked, since it would download what it does not have.
    """
    if given is not None:
        return given
    ours = home() / "ranks" / peer.file
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    theirs = Path(cache, sha1(peer.url.encode()).hexdigest()) if cache else ours
    return next((path for path in (ours, theirs) if path.exists()), None)


def measure(tokenizers: Mapping[str, Tokenizer], name: str, documents: Sequence[str]) -> Row:
    """Count tokens, each document on its own.

    Raises: ValueError for a text that is empty, or that does not come back from its tokens.
    """
    num_tokens = {}
    for column, tokenizer in tokenizers.items():
        encoded = tokenizer.encode_batch(documents)
        for ids, document in zip(encoded, documents, strict=True):
            if tokenizer.decode(ids) != document:
                raise ValueError(f"tok-eval: {name} does not come back from tokens of {column}")
        num_tokens[column] = sum(map(len, encoded))
    num_bytes = sum(len(document.encode()) for document in documents)
    if num_bytes == 0:
        raise ValueError(f"tok-eval: text must not be empty, got {name}")
    return Row(name, num_bytes, num_tokens)


def _texts(config: TokEvalConfig) -> Iterator[tuple[str, list[str]]]:
    """Name and documents of each row."""
    yield from ((name, [text]) for name, text in TEXTS.items())
    yield TINYWORLD, [tinyworld.document(i, split="val", seed=0) for i in range(NUM_DOCUMENTS)]
    if config.data != TINYWORLD:
        corpus = Corpus(config.data)
        yield "train", list(_head(corpus.source("train")))
        yield "val", list(_head(corpus.source("val")))
    yield from ((path.name, [_read(path)]) for path in config.text)


def _head(source: Source) -> Iterator[str]:
    """Documents of the first MAX_CHARS characters."""
    seen = 0
    for document in items(source):
        yield document[: MAX_CHARS - seen]
        seen += len(document)
        if seen >= MAX_CHARS:
            return
    if seen == 0:
        raise UserError(f"tok-eval: no document in {source.name}")


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode()  # line ends as they are
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tok-eval: cannot read {path}: {error}") from error
    if not text:
        raise UserError(f"tok-eval: {path} is empty")
    return text


def _print_table(rows: Sequence[Row]) -> None:
    columns = list(rows[0].num_tokens)
    peers = columns[1:]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("bytes per token")
    for title in ("bytes", *columns, *(f"vs {peer}" for peer in peers)):
        table.add_column(title, justify="right")
    for row in rows:
        ratios = (f"{row.bytes_per_token(column):.2f}" for column in columns)
        savings = (f"{100 * row.saving(peer):+.1f} %" for peer in peers)
        table.add_row(row.text, f"{row.num_bytes:,}", *ratios, *savings)
    Console().print(table)
    if peers:
        say("vs: tokens that ours saves, of the peer's; positive is better")


def _document(tokenizer: Tokenizer, rows: Sequence[Row]) -> dict[str, object]:
    return {
        "eval": "tok",
        "tokenizer": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "rows": [
            {"text": row.text, "bytes": row.num_bytes, "tokens": dict(row.num_tokens)}
            | {"saving": {peer: round(row.saving(peer), 4) for peer in [*row.num_tokens][1:]}}
            for row in rows
        ],
    }
