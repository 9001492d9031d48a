"""What a stage reads: tinyworld by name, or files by path, as text or as conversations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nanochat.data import (
    Corpus,
    GeneratedSource,
    Render,
    Source,
    render_chat,
    render_text,
    tinyworld,
)
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.conversation import validate

TINYWORLD = "tinyworld"  # the value of --data that means the generator


def text_sources(data: str, *, seed: int) -> tuple[Source, Source]:
    """Training and held-out documents of ``--data``."""
    if data == TINYWORLD:
        return _generated(tinyworld.document, seed=seed)
    corpus = Corpus(data, kind="text")
    return corpus.source("train", seed=seed), corpus.source("val", seed=seed)


def chat_sources(data: str, *, seed: int) -> tuple[Source, Source]:
    """Training and held-out conversations of ``--data``."""
    if data == TINYWORLD:
        return _generated(tinyworld.conversation, seed=seed)
    corpus = Corpus(data, kind="chat", check=validate)
    return corpus.source("train", seed=seed), corpus.source("val", seed=seed)


def _generated(make: Callable[..., Any], *, seed: int) -> tuple[Source, Source]:
    def source(split: str) -> Source:
        return GeneratedSource(partial(make, split=split, seed=seed), name=f"{TINYWORLD} {split}")

    return source("train"), source("val")


def text_render(tokenizer: Tokenizer) -> Render:
    return render_text(partial(tokenizer.encode_to_numpy, num_threads=1))


def chat_render(tokenizer: Tokenizer) -> Render:
    return render_chat(tokenizer.render_conversation, bos=tokenizer.bos)
