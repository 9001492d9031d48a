"""Random choices that are pure functions of a key, and that know what they cost.

Every text of tinyworld is made by one :class:`Draw`, seeded by (seed, split, stream, index). Its
choices are uniform unless they say otherwise, and it adds up ``-log2 p`` of each: that sum is the
length of the shortest code for the choices, which is where the entropy bound of the stories comes
from. Only ``random.Random.random`` is used, the one method whose sequence Python promises to keep.

What is held out is decided by :func:`held_out`, a fixed checksum of the thing itself, so the rule
does not depend on seed, index or the order of a table.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "val"]

HELD_OUT_ONE_IN = 8


def held_out(key: str) -> bool:
    """Whether the thing named ``key`` belongs to the val split."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Phrasings:
    """Ways to ask one thing: those of the train split, and those that only val uses."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def either(text: str) -> tuple[str, ...]:
    """Wordings or fillers from one text, ``one | another``; line breaks are spaces."""
    return tuple(" ".join(item.split()) for item in text.split("|"))


class Draw:
    """A stream of choices. ``bits`` is the sum of ``-log2 p`` over the choices made so far."""

    def __init__(self, seed: int, split: Split, stream: str, index: int) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"tinyworld: split must be 'train' or 'val', got {split!r}")
        if index < 0:
            raise ValueError(f"tinyworld: index must be at least 0, got {index}")
        self.split: Split = split
        self.bits = 0.0
        self._random = random.Random(f"{seed}/{split}/{stream}/{index}").random

    def below(self, n: int) -> int:
        """A uniform integer in [0, n)."""
        self.bits += math.log2(n)
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """A uniform integer in [low, high]."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def chance(self, p: float) -> bool:
        """True with probability ``p``, which lies strictly between 0 and 1."""
        hit = self._random() < p
        self.bits -= math.log2(p if hit else 1.0 - p)
        return hit

    def weighted(self, items: Sequence[tuple[float, T]]) -> T:
        """One of the items, each with its probability; the probabilities add up to 1."""
        at = self._random()
        for p, item in items:
            at -= p
            if at < 0:
                self.bits -= math.log2(p)
                return item
        raise AssertionError(f"tinyworld: probabilities leave {at} over")

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """``k`` different items in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(k)]

    def phrase(self, phrasings: Phrasings) -> str:
        """A wording that belongs to the split of this draw."""
        return self.pick(phrasings.train if self.split == "train" else phrasings.val)

    def belongs(self, key: str) -> bool:
        """Whether the thing named ``key`` may be used in the split of this draw."""
        return held_out(key) == (self.split == "val")
