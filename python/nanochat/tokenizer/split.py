"""Split patterns without a native scanner: the ``regex`` package, slower and with its own Unicode.

The scanners know Unicode 16.0, like tiktoken; ``regex`` follows the newest version, so that letters
assigned since then split otherwise than in ``Tokenizer.to_tiktoken()``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from nanochat import _core

_NATIVE = {_core.SPLIT_PATTERN, _core.GPT4_PATTERN, _core.GPT2_PATTERN, _core.CL100K_PATTERN}


def split_pattern(pattern: str) -> str:
    """``pattern`` if it has a native scanner; else "", which means texts that are split already."""
    if pattern in _NATIVE:
        return pattern
    _compiled(pattern)
    return ""


def pieces_by_regex(pattern: str, texts: Iterable[str | bytes]) -> Iterator[bytes]:
    """The pieces of all ``texts``, in order.

    Raises: TypeError if one is neither str nor bytes; ValueError for a lone surrogate, and as
        ``split_by_regex`` does.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"split: texts must be an iterable, got one {type(texts).__name__}")
    for index, text in enumerate(texts):
        if not isinstance(text, str | bytes):
            raise TypeError(
                f"split: texts must be str or bytes, got {type(text).__name__} at index {index}"
            )
        yield from split_by_regex(pattern, text.encode() if isinstance(text, str) else text)


def split_by_regex(pattern: str, text: str | bytes) -> list[bytes]:
    """The matches of ``pattern`` in ``text``; bytes that are not UTF-8 come back as they were.

    Raises: ValueError if matches leave text out or are empty, which would lose some of it.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    pieces = []
    end = 0
    for match in _compiled(pattern).finditer(text):
        if match.start() != end or match.end() == end:
            break
        end = match.end()
        pieces.append(match.group().encode("utf-8", "surrogateescape"))
    if end != len(text):
        raise ValueError(
            f"split: the pattern must match all of a text, got nothing at character {end} of "
            f"{text[end : end + 20]!r}: {pattern!r}"
        )
    return pieces


@cache
def _compiled(pattern: str) -> Any:
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"split: not a regular expression: {error}, got {pattern!r}") from error
    if compiled.fullmatch("") is not None:
        raise ValueError(f"split: a pattern must not match the empty text, got {pattern!r}")
    warnings.warn(
        f"nanochat: the split pattern has no native scanner, so the regex package splits, some 30 "
        f"times slower and by another version of Unicode: {pattern!r}",
        stacklevel=4,
    )
    return compiled
