"""Training of a byte-level BPE vocabulary, in the native core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from nanochat import _core
from nanochat.tokenizer.split import pieces_by_regex, split_pattern

SPLIT_PATTERN = _core.SPLIT_PATTERN
"""GPT-4's split pattern with numbers in groups of one or two digits."""
GPT4_PATTERN = _core.GPT4_PATTERN
"""Numbers in groups of up to three digits."""
GPT2_PATTERN = _core.GPT2_PATTERN
"""GPT-2's, as tiktoken's r50k_base spells it."""
CL100K_PATTERN = _core.CL100K_PATTERN
"""GPT-4's as tiktoken's cl100k_base has it: white space that ends a text is one piece."""


def train_bpe(
    texts: Iterable[str | bytes | Any],
    vocab_size: int,
    pattern: str = SPLIT_PATTERN,
    num_threads: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[bytes, int]:
    """Learn at most ``vocab_size`` tokens (256 bytes and merges) from ``texts``.

    Ids are the byte values, then 256 + the number of the merge. Each merge joins the most frequent
    pair; among equals the one with the smaller left id, then the smaller right id. The result is
    the same for any order of the documents and any number of threads, and equal to rustbpe's.

    Args:
        texts: Documents, each str or UTF-8 bytes, or Arrow arrays of either (anything with
            ``__arrow_c_array__`` or, as a whole, ``__arrow_c_stream__``: a parquet column or its
            row groups), which are read in place. Streamed, about 16 MB of them held at a time.
            Pieces never cross documents. A byte that is not UTF-8 counts as a punctuation mark.
        vocab_size: At least 256. Special tokens are not counted; they come on top. When the texts
            have no more pairs to merge, fewer tokens are returned.
        pattern: Regular expression that splits documents. SPLIT_PATTERN, GPT4_PATTERN, GPT2_PATTERN
            and CL100K_PATTERN have scanners (Unicode 16.0); another one runs in the ``regex``
            package, some 30 times slower, which is said once.
        num_threads: Threads at work; None means all CPUs this process may use.
        progress: Called with (bytes of text counted, merges done) every 100 ms or so, and at the
            end; what it raises ends the training.
    Returns: Token bytes -> id, in the order of ids.
    Raises: ValueError for a vocabulary too small, a pattern that is not a regular expression, that
        matches nothing or leaves text out, a lone surrogate; TypeError for a document of another
        type. What the iterable raises arrives unchanged, and so does Ctrl-C, within 100 ms.
    """
    if num_threads is None:
        num_threads = available_cpus()
    native = split_pattern(pattern)
    if not native:
        texts = pieces_by_regex(pattern, texts)
    tokens = _core.bpe_train(texts, vocab_size, native, num_threads, progress)
    return {token: rank for rank, token in enumerate(tokens)}


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
