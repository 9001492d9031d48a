"""SpellingBee: how many of a letter a word has; and its first half alone, spelling a word.

    How many times does the letter r appear in strawberry?

    strawberry is spelled s-t-r-a-w-b-e-r-r-y. One by one: s t r1 a w b e r2 r3 y, so 3. To be sure:
    [call "strawberry".count("r")] [result 3]
    #### 3

The reference finds the number twice, by hand and with the calculator. Example i of a split is a
pure function of the word list, the split and i; no word of val is asked about in train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from string import ascii_lowercase
from typing import Literal

from nanochat.data.shuffle import permutation
from nanochat.data.tinyworld.draw import Draw, Phrasings, Split, held_out
from nanochat.tasks.base import Example, ask, graded
from nanochat.tasks.files import SetFile, locate, read_lines
from nanochat.tasks.grading import MARKER, numbers_match, spells

WORDS = SetFile(
    "words_alpha",
    "https://raw.githubusercontent.com/dwyl/english-words/"
    "20f5cc9b3f0ccc8ce45d814c532b7c2031bba31c/words_alpha.txt",
)
SIZES: dict[Split, int] = {"train": 80_000, "val": 256}
MIN_LETTERS, MAX_LETTERS = 3, 20

_COUNT = Phrasings(
    train=(
        "How many {l} are in the word {w}?",
        "How many times does the letter {l} appear in {w}?",
        "How often is {l} in {w}?",
        "Count the letter {l} in {w}.",
        "how many {l}s are in {w}",
        "In the word {w}, how many letters are {l}?",
    ),
    val=(
        "How many {l} are in {w}?",
        "How many times is the letter {l} in the word {w}?",
        "Count how often {l} appears in {w}.",
    ),
)
_SPELL = Phrasings(
    train=("Spell the word {w}.", "Spell {w}.", "How is {w} spelled?", "How do you spell {w}?"),
    val=("Can you spell {w}?", "Please spell the word {w}."),
)


def task(folder: Path | None) -> SpellingTask:
    """Counting letters, one of the tasks of ChatCORE."""
    return SpellingTask("spelling_bee", folder, _counting)


def simple(folder: Path | None) -> SpellingTask:
    """Spelling alone, to learn from before counting."""
    return SpellingTask("simple_spelling", folder, _spelling)


@dataclass(frozen=True)
class SpellingTask:
    """Questions about words of a list; ``make`` draws one."""

    name: str
    folder: Path | None
    make: Callable[[Draw, tuple[str, ...]], Example]
    kind: Literal["generative"] = "generative"
    chance: float = 0.0
    _words: dict[Split, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        """As :meth:`nanochat.tasks.base.Task.examples`; fewer are the first of more."""
        words = self._words_of(split)
        return [
            self.make(Draw(0, split, f"task {self.name}", index), words)
            for index in permutation(SIZES[split], seed)[:n].tolist()
        ]

    def _words_of(self, split: Split) -> tuple[str, ...]:
        if split not in self._words:
            self._words[split] = tuple(
                word
                for word in read_lines(locate(WORDS, self.folder))
                if MIN_LETTERS <= len(word) <= MAX_LETTERS
                and set(word) <= set(ascii_lowercase)
                and held_out(f"spelling:{word}") == (split == "val")
            )
        return self._words[split]


def _counting(draw: Draw, words: tuple[str, ...]) -> Example:
    word = draw.pick(words)
    letter = draw.pick(word) if draw.chance(0.9) else draw.pick(ascii_lowercase)
    seen, steps = 0, []
    for other in word:
        seen += other == letter
        steps.append(f"{other}{seen}" if other == letter else other)
    by_hand = (
        f"{word} is spelled {'-'.join(word)}. One by one: {' '.join(steps)}, so {seen}. To be sure:"
    )
    content = [
        {"type": "text", "text": f"{by_hand}\n"},
        {"type": "python", "text": f'"{word}".count("{letter}")'},
        {"type": "python_output", "text": str(seen)},
        {"type": "text", "text": f"\n{MARKER} {seen}"},
    ]
    question = draw.phrase(_COUNT).format(l=letter, w=word)
    return graded(ask(question), content, numbers_match(Decimal(seen)))


def _spelling(draw: Draw, words: tuple[str, ...]) -> Example:
    word = draw.pick(words)
    spelled = "-".join(word)
    return Example(
        messages=ask(draw.phrase(_SPELL).format(w=word)),
        reference={"role": "assistant", "content": f"{word} is spelled {spelled}."},
        check=spells(spelled),
    )
