"""Typed face of the native core; one section per capability, in the order of module.cpp."""

from collections.abc import Iterable

# BPE
SPLIT_PATTERN: str
UNICODE_VERSION: str

def bpe_train(texts: Iterable[str | bytes], vocab_size: int, num_threads: int) -> list[bytes]: ...
def bpe_pretokenize(text: bytes) -> list[bytes]: ...
def bpe_char_class(code_point: int) -> int: ...
