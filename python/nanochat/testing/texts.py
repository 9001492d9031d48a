"""Documents for the benchmarks of the tokenizer: read from files, or made up, by kind of text.

Made-up text has the letters, the length of words and the marks of its kind, and means nothing. A
word's frequency falls by Zipf's law and one word in 40 is new, so that the number of distinct
pieces grows with the text: 43,000 in 10 MB of English, where real English has some 100,000.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice, product
from pathlib import Path
from random import Random

MAX_CHARS = 10_000  # of a document, as in tok_train; a longer one is cut into several
_WORDS = 20_000  # that recur
_WORDS_PER_DOCUMENT = 200  # about 1,200 bytes of English
_NEW_WORDS = _WORDS_PER_DOCUMENT // 40
_MAX_SPACES = 1_000_000


def read(paths: Iterable[Path]) -> list[str]:
    """All documents of the files, folders or globs, cut at MAX_CHARS, in a fixed random order.

    Raises: UserError for what ``nanochat.data`` cannot read.
    """
    from nanochat.data.files import Reader  # imports torch, which made-up text does without
    from nanochat.data.sources import Corpus

    documents = []
    for path in paths:
        corpus, reader = Corpus(path), Reader()
        for file in corpus.files:
            for segment in range(len(file.sizes)):
                for _, text in corpus.read(file, segment, reader):
                    documents += [text[i : i + MAX_CHARS] for i in range(0, len(text), MAX_CHARS)]
        reader.close()
    Random(0).shuffle(documents)
    return documents


def generate(kind: str, num_bytes: int) -> list[str]:
    """Documents of a kind among ``KINDS``, the same at each call, of at least ``num_bytes``."""
    rng = Random(kind)
    if kind == "one word":
        return ["".join(rng.choices("etaoinshrdlcumwfgypb", k=num_bytes))]
    if kind == "spaces":
        return [" " * min(num_bytes, _MAX_SPACES) + "x"]
    return take(_ENDLESS[kind](rng), num_bytes)


def take(documents: Iterable[str], num_bytes: int) -> list[str]:
    """The first documents, up to the one that makes them ``num_bytes`` or more."""
    taken = []
    for text in documents:
        if num_bytes <= 0:
            break
        taken.append(text)
        num_bytes -= len(text.encode())
    return taken


@dataclass(frozen=True)
class Texts:
    """The first documents of a file of JSON strings, one to a line: what a child process is told.

    Attributes:
        num_bytes: Of them in UTF-8.
    """

    path: str
    count: int
    num_bytes: int

    @classmethod
    def save(cls, documents: list[str], path: Path) -> Texts:
        with path.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(text) + "\n" for text in documents)
        return cls(str(path), len(documents), sum(len(text.encode()) for text in documents))

    def prefix(self, num_bytes: int) -> Texts:
        """The first ones, up to the one that makes them ``num_bytes`` or more."""
        documents = take(self._lines(), num_bytes)
        return Texts(self.path, len(documents), sum(len(text.encode()) for text in documents))

    def load(self) -> list[str]:
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        with Path(self.path).open(encoding="ascii") as file:
            yield from map(json.loads, islice(file, self.count))


@dataclass(frozen=True)
class _Language:
    """Words of syllables (most frequent first) and what stands between words."""

    syllables: list[str]
    lengths: list[int]  # of a word in syllables
    marks: list[str]


def _letters(first: int, last: int) -> list[str]:
    return [chr(code) for code in range(first, last + 1)]


def _syllables(*parts: Iterable[str]) -> list[str]:
    """One of each part, in a random order."""
    joined = ["".join(letters) for letters in product(*parts)]
    return Random(0).sample(joined, len(joined))


_SPACED = [*[" "] * 14, ", ", ", ", ". ", ".\n\n", "'s ", " (", ") ", " 1945 ", ": ", " - "]
_HAN = [chr(0x4E00 + i * 6971 % 20902) for i in range(3000)]  # from all over the block
_LANGUAGES = {
    "english": _Language(
        _syllables("bcdfghlmnprstw", ["e", "a", "o", "i", "ea"], ["", "n", "r", "st", "t", "ing"]),
        [1, 1, 1, 2, 2, 3],
        _SPACED,
    ),
    "russian": _Language(_syllables(_letters(0x0430, 0x044F)), [1, 2, 4, 5, 6, 7, 8, 9], _SPACED),
    "chinese": _Language(_HAN, [1, 2, 2], [*[""] * 8, "\uff0c", "\u3002"]),
    "japanese": _Language(  # hiragana, characters, katakana
        [*_letters(0x3042, 0x3093), *_HAN[:1500], *_letters(0x30A2, 0x30F3)],
        [1, 2, 3, 4],
        [*[""] * 8, "\u3001", "\u3002"],
    ),
    "arabic": _Language(
        _syllables([*_letters(0x0627, 0x063A), *_letters(0x0641, 0x064A)]),
        [2, 3, 4, 5, 6],
        [*[" "] * 12, "\u060c ", ". "],
    ),
    "hindi": _Language(  # consonants with vowel signs, which are marks and no letters
        _syllables(_letters(0x0915, 0x0939), ["", *"\u093e\u0947\u093f\u094b\u0940\u094d\u0902"]),
        [1, 2, 2, 3],
        [*[" "] * 12, ", ", " \u0964 "],
    ),
    "emoji": _Language(  # a skin tone, a sequence with joiners, a flag, a heart with its selector
        [
            *_letters(0x1F600, 0x1F64F),
            *(f"\U0001f44d{tone}" for tone in _letters(0x1F3FB, 0x1F3FF)),
            "\U0001f469\u200d\U0001f680",
            "\U0001f1e9\U0001f1ea",
            "\u2764\ufe0f",
            " lol ",
            " so good ",
        ],
        [1, 1, 2, 3],
        [" ", "", "! ", " ok "],
    ),
}


class _Words:
    """Draws words: mostly from a lexicon by Zipf's law, now and then a new one."""

    def __init__(self, language: _Language, rng: Random) -> None:
        self._rng = rng
        self._language = language
        self._weights = _zipf(len(language.syllables))
        self._lexicon = self._make(_WORDS, 0)
        self._lexicon_weights = _zipf(_WORDS)

    def draw(self, count: int, num_new: int) -> list[str]:
        words = self._rng.choices(
            self._lexicon, cum_weights=self._lexicon_weights, k=count - num_new
        )
        words += self._make(num_new, 2)  # rare words are longer
        self._rng.shuffle(words)
        return words

    def _make(self, count: int, num_more: int) -> list[str]:
        return [
            "".join(
                self._rng.choices(
                    self._language.syllables, cum_weights=self._weights, k=length + num_more
                )
            )
            for length in self._rng.choices(self._language.lengths, k=count)
        ]


def _zipf(n: int) -> list[float]:
    return list(accumulate(1 / rank for rank in range(1, n + 1)))


def _prose(language: _Language) -> Callable[[Random], Iterator[str]]:
    def documents(rng: Random) -> Iterator[str]:
        words = _Words(language, rng)
        while True:
            drawn = words.draw(_WORDS_PER_DOCUMENT, _NEW_WORDS)
            marks = rng.choices(language.marks, k=_WORDS_PER_DOCUMENT)
            yield "".join(word + mark for word, mark in zip(drawn, marks, strict=True))

    return documents


_CODE_LINES = [
    "def {0}_{1}(self, {2}: int = {n}) -> None:\n",
    "    if {0}.{1} >= {n} and not {2}[{3}]:\n",
    "        self.{0}_{1} = {2}({3}, '{0} {1}')\n",
    "        return [{0} * {n}.5 for {0} in {1}.{2}()]\n",
    "    # {0} {1} the {2} {3}.\n",
    "\n",
    "static const int k{0} = {1}->{2}(0x{n:x}, &{3});\n",
    "\tfor (size_t i = 0; i < {0}; ++i) {{ {1}[i] += {2}; }}\n",
    "}}\n\n",
]


def _code(rng: Random) -> Iterator[str]:
    words = _Words(_LANGUAGES["english"], rng)
    while True:
        names = words.draw(_WORDS_PER_DOCUMENT // 2, _NEW_WORDS // 2)
        lines = rng.choices(_CODE_LINES, k=len(names) // 4)
        yield "".join(
            line.format(*names[4 * i : 4 * i + 4], n=int(2 ** rng.uniform(0, 12)))
            for i, line in enumerate(lines)
        )


def _random_bytes(rng: Random) -> Iterator[str]:
    while True:
        yield rng.randbytes(1200).decode("latin-1")


def _mixed(rng: Random) -> Iterator[str]:
    """By document: half of it English, a quarter code, the rest from all the other languages."""
    others = _LANGUAGES.keys() - {"english"}
    shares = {"english": 12, "code": 6} | dict.fromkeys(sorted(others), 1)
    sources = {kind: _ENDLESS[kind](rng) for kind in shares}
    while True:
        (kind,) = rng.choices(list(shares), list(shares.values()))
        yield next(sources[kind])


_ENDLESS: dict[str, Callable[[Random], Iterator[str]]] = {
    "mixed": _mixed,
    "code": _code,
    **{name: _prose(language) for name, language in _LANGUAGES.items()},
    "random bytes": _random_bytes,
}
KINDS = (*_ENDLESS, "one word", "spaces")
"""What ``generate`` makes: "one word" and "spaces" (then one letter) are one document each."""
