"""Training of a byte-level BPE vocabulary, in the native core."""

from __future__ import annotations

import os
from collections.abc import Iterable

from nanochat import _core

SPLIT_PATTERN = _core.SPLIT_PATTERN
"""GPT-4's split pattern with numbers in groups of one or two digits."""


def train_bpe(
    texts: Iterable[str | bytes],
    vocab_size: int,
    pattern: str = SPLIT_PATTERN,
    num_threads: int | None = None,
) -> dict[bytes, int]:
    """Learn at most ``vocab_size`` tokens (256 bytes and merges) from ``texts``.

    Ids are the byte values, then 256 + the number of the merge. Each merge joins the most frequent
    pair; among equals the one with the smaller left id, then the smaller right id. The result is
    the same for any order of the documents and any number of threads, and equal to rustbpe's.

    Args:
        texts: Documents, each str or UTF-8 bytes; streamed, about 16 MB of them held at a time.
            Pieces never cross documents. A byte that is not UTF-8 counts as a punctuation mark.
        vocab_size: At least 256. Special tokens are not counted; they come on top. When the texts
            have no more pairs to merge, fewer tokens are returned.
        num_threads: Threads that split and count; None means all CPUs this process may use.
    Returns: Token bytes -> id, in the order of ids.
    Raises: ValueError for a vocabulary too small, another pattern, a lone surrogate; TypeError for
        a document of another type. What the iterable raises arrives unchanged, Ctrl-C too.
    """
    if pattern != SPLIT_PATTERN:
        raise ValueError(
            f"train_bpe: pattern must be SPLIT_PATTERN, the one with a scanner, got {pattern!r}"
        )
    if num_threads is None:
        num_threads = available_cpus()
    tokens = _core.bpe_train(texts, vocab_size, num_threads)
    return {token: rank for rank, token in enumerate(tokens)}


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
