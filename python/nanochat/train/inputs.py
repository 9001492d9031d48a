"""What a stage reads: tinyworld by name, or text by path; conversations are in mixture.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nanochat.data import Corpus, GeneratedSource, Render, Source, render_text, tinyworld
from nanochat.tokenizer import Tokenizer

TINYWORLD = "tinyworld"  # the value of --data that means the generator


def text_sources(data: str, *, seed: int) -> tuple[Source, Source]:
    """Training and held-out documents of ``--data``."""
    if data == TINYWORLD:
        return generated(tinyworld.document, seed=seed)
    corpus = Corpus(data)
    return corpus.source("train", seed=seed), corpus.source("val", seed=seed)


def text_render(tokenizer: Tokenizer) -> Render:
    return render_text(partial(tokenizer.encode_to_numpy, num_threads=1))


def generated(make: Callable[..., Any], *, seed: int) -> tuple[Source, Source]:
    """Training and held-out items of tinyworld; ``make(index, split=..., seed=...)``."""

    def source(split: str) -> Source:
        return GeneratedSource(partial(make, split=split, seed=seed), name=f"{TINYWORLD} {split}")

    return source("train"), source("val")
