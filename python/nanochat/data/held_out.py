"""Which documents are for validation: about one in 200, by a keyed hash of the text.

A document stays on its side when files are renamed, reordered or added to, and duplicates are on
one side. A small corpus holds out a larger share, which shrinks as the corpus grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HELD_OUT = 200  # one document in this many is for validation
MIN_HELD_OUT = 20  # but this many of a small corpus, up to a tenth of it


def digest(text: str) -> int:
    """64 bits. Raises: ValueError for half a surrogate pair, which is no character."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("\\ud800 to \\udfff alone is no character; remove it") from error
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=b"nanochat held-out").digest())


def is_large(num_documents: int) -> bool:
    """Whether one in 200 is enough, so that the limit does not depend on the documents."""
    return num_documents >= HELD_OUT * MIN_HELD_OUT


def limit(digests: Iterable[int], num_documents: int) -> int:
    """Digests below it are held out; ``digests`` of all documents, unless there are many."""
    if is_large(num_documents):
        return 2**64 // HELD_OUT
    different = sorted(set(digests))
    if len(different) < 2:
        return 0
    return different[max(1, min(MIN_HELD_OUT, len(different) // 10))]
