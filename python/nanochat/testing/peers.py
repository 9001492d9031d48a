"""Other packages' BPE, with our split pattern: trainers and encoders that stand beside ours.

Packages are imported where they are used, since rustbpe and tokenizers are for tests alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer
from nanochat.tokenizer.interop import huggingface_json

Encode = Callable[[Sequence[str]], list[Any]]
MakeEncode = Callable[[Tokenizer], Encode]
HF = "tokenizers"  # Hugging Face's


def installed(package: str) -> bool:
    return find_spec(package) is not None


def train_rustbpe(documents: Sequence[str], vocab_size: int) -> list[bytes]:
    """Tokens in the order of ids; RAYON_NUM_THREADS decides on threads."""
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(documents), vocab_size, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in tokenizer.get_mergeable_ranks()]


def train_tokenizers(documents: Sequence[str], vocab_size: int) -> list[str]:
    """Tokens, spelled in GPT-2's letters for bytes. Those letters have another order than the
    bytes, which decides among pairs that are equally frequent: not the tokens of rustbpe."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    bytes_alone = Tokenizer([bytes([byte]) for byte in range(256)])
    tokenizer.pre_tokenizer = _hugging_face(bytes_alone).pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def tiktoken_to_lists(ours: Tokenizer) -> Encode:
    encoding = ours.to_tiktoken()
    return lambda documents: [encoding.encode_ordinary(text) for text in documents]


def tiktoken_to_numpy(ours: Tokenizer) -> Encode:
    encoding = ours.to_tiktoken()
    return lambda documents: [
        encoding.encode_to_numpy(text, disallowed_special=()) for text in documents
    ]


def tokenizers_batch(ours: Tokenizer) -> Encode:
    tokenizer = _hugging_face(ours)
    return lambda documents: [
        encoded.ids for encoded in tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    ]


ENCODERS: dict[str, MakeEncode] = {
    "tiktoken": tiktoken_to_lists,
    "tiktoken numpy": tiktoken_to_numpy,
    HF: tokenizers_batch,
}


def encoders() -> list[str]:
    """Names of ENCODERS whose package is installed."""
    return [name for name in ENCODERS if installed(name.split()[0])]


def ids_or_failure(encode: Encode, documents: Sequence[str]) -> list[list[int]] | str:
    """Ids of each document, or the error: some regex engines give up on long runs of spaces."""
    try:
        return [list(map(int, ids)) for ids in encode(documents)]
    except BaseException as error:
        name = type(error).__name__
        # The panic of a Rust library is no Exception, so that no one catches it by accident.
        if not isinstance(error, Exception) and name != "PanicException":
            raise
        return f"{name}: {error}"


def _hugging_face(ours: Tokenizer) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(huggingface_json(ours))


def tiktoken_pieces(texts: Sequence[str], pattern: str) -> list[list[bytes]]:
    """Pieces of each text, by a vocabulary in which every substring is one token."""
    import tiktoken

    tokens = dict.fromkeys(bytes([i]) for i in range(256))
    for data in (text.encode() for text in texts):
        for i in range(len(data)):
            tokens.update(dict.fromkeys(data[i:j] for j in range(i + 1, len(data) + 1)))
    encoding = tiktoken.Encoding(
        "substrings",
        pat_str=pattern,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={},
    )
    return [encoding.decode_tokens_bytes(encoding.encode_ordinary(text)) for text in texts]
