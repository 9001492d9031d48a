"""Compares the tokenizer with tiktoken on random text for as long as it is told to.

    python tests/fuzz/fuzz_tiktoken.py --seconds 60 --seed 1

Pieces of all four split patterns, ids of a trained vocabulary for each, and decode(encode(x)) == x
for any bytes. Prints how many texts it tried; on a mismatch, a text made as short as it gets, and
exits 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

import tiktoken

from nanochat import _core
from nanochat.testing.peers import tiktoken_pieces
from nanochat.tokenizer import CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN, SPLIT_PATTERN, train_bpe

PATTERNS = {
    "nanochat": SPLIT_PATTERN,
    "gpt4": GPT4_PATTERN,
    "gpt2": GPT2_PATTERN,
    "cl100k": CL100K_PATTERN,
}
# One or more of every kind that the patterns tell apart, in every length of UTF-8.
TRICKY = [
    *"'sdmtlverSDMTLVER\u017f\u212axZ",
    *"\xe9\xdf\u0130\u4e2d\u3042\ud55c\u05d0\u0e01\U00020000",
    *"019\u0664\xb2\u2167\U0001d7d8",
    *"\r\n \t\x0b\x0c\x1c\x85\xa0\u3000\u2028\u2029",
    *".!-_\x00\u200b\u200d\u0301\ufe0f\U0001f600\ufffd\ue000\U0010ffff",
    *["'ll", "'VE", "'re", "'\u017f", "\r\n", "\n\n", "  ", "    ", "abcdefghi", "2026", "..."],
]
PROSE = """It's the children's garden, isn't it? They'll say: "WE'RE 12,345.67 km from home!"
    for (int i = 0; i < 100; ++i) {\r\n\t\treturn i * 0x7fff;  // caf\xe9, na\xefve
    }
https://example.org/path?query=a+b&c=%20   \u4f60\u597d\uff0c\u4e16\u754c\u3002
\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0928\u092e\u0938\u094d\u0924\u0947
| left | right |\n|------|-------|\n\n\n- 1\n- 2\u2026 \U0001f44d\U0001f3fd\u200d\u2640\ufe0f
"""
LENGTHS = [14, 15, 16, 17, 31, 32, 33, 45, 46, 47, 62, 63, 64, 65, 66, 130, 300]
BATCH = 100  # texts for which one vocabulary of substrings serves
VOCAB_SIZE = 1000


def any_text(rng: random.Random) -> str:
    def any_char() -> str:
        limit = rng.choice([0x80, 0x800, 0x3100, 0x20000, 0x110000])
        code_point = rng.randrange(limit)
        return "\ufffd" if 0xD800 <= code_point < 0xE000 else chr(code_point)

    return "".join(any_char() for _ in range(rng.randrange(40)))


def tricky_text(rng: random.Random) -> str:
    return "".join(rng.choices(TRICKY, k=rng.randrange(1, 16)))


def runs(rng: random.Random) -> str:
    return "".join(
        rng.choice(TRICKY)[0] * rng.choice([1, 2, 3, *LENGTHS]) for _ in range(rng.randrange(1, 4))
    )


def mutated_prose(rng: random.Random) -> str:
    begin = rng.randrange(len(PROSE))
    text = PROSE[begin : begin + rng.randrange(1, 80)]
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["", *TRICKY]) + text[at + rng.randrange(3) :]
    return text


def any_bytes(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(mutated_prose(rng).encode())
    for _ in range(1 + rng.randrange(3)):
        data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
    return bytes(data)


def shortest(text: str, differs: Callable[[str], bool]) -> str:
    """``text`` with everything cut out that the difference does not need."""
    size = len(text) // 2
    while size > 0:
        at = 0
        while at < len(text):
            shorter = text[:at] + text[at + size :]
            if differs(shorter):
                text = shorter
            else:
                at += size
        size //= 2
    return text


def fail(what: str, text: str, differs: Callable[[str], bool]) -> None:
    print(f"fuzz_tiktoken: {what} differ on {shortest(text, differs)!r}", file=sys.stderr)
    sys.exit(1)


class Vocabulary:
    """One trained vocabulary, ours and tiktoken's."""

    def __init__(self, pattern: str) -> None:
        ranks = train_bpe([PROSE * 3, "".join(TRICKY)], VOCAB_SIZE, pattern, 1)
        self.tokens = list(ranks)
        self.ours = _core.BpeEncoder16(self.tokens, pattern)
        self.theirs = tiktoken.Encoding(
            "trained", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )

    def ids_differ(self, text: str) -> bool:
        return self.ours.encode(text) != self.theirs.encode_ordinary(text)

    def loses(self, data: bytes) -> bool:
        return b"".join(self.tokens[i] for i in self.ours.encode(data)) != data


def pieces_differ(text: str, pattern: str) -> bool:
    return _core.bpe_pretokenize(text.encode(), pattern) != tiktoken_pieces([text], pattern)[0]


def compare(rng: random.Random, name: str, vocabulary: Vocabulary) -> int:
    """One batch; how many texts it was."""
    pattern = PATTERNS[name]
    short = [rng.choice([any_text, tricky_text, mutated_prose])(rng) for _ in range(BATCH)]
    for text, theirs in zip(short, tiktoken_pieces(short, pattern), strict=True):
        if _core.bpe_pretokenize(text.encode(), pattern) != theirs:
            fail(f"pieces of {name}", text, lambda text: pieces_differ(text, pattern))
    texts = [*short, *(runs(rng) for _ in range(BATCH)), PROSE[rng.randrange(len(PROSE)) :]]
    for text in texts:
        if vocabulary.ids_differ(text):
            fail(f"ids of {name}", text, vocabulary.ids_differ)
    blobs = [any_bytes(rng) for _ in range(BATCH)]
    for blob in blobs:
        if vocabulary.loses(blob):
            print(f"fuzz_tiktoken: {name} does not give back {blob!r}", file=sys.stderr)
            sys.exit(1)
    return len(texts) + len(blobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    vocabularies = {name: Vocabulary(pattern) for name, pattern in PATTERNS.items()}
    num_texts = 0
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for name, vocabulary in vocabularies.items():
            num_texts += compare(rng, name, vocabulary)
    print(f"fuzz_tiktoken: {num_texts} executions, seed {args.seed}")


if __name__ == "__main__":
    main()
