"""Short stories with a plot: somebody wants something, something is in the way, a friend helps.

A story is an opening, the sentences of one of the plots, and an ending. Every sentence has a few
wordings and every slot a list of fillers; each choice is uniform and independent of the others.
:class:`Draw` prices the choices, so their sum is the code length of the story under the grammar: a
perfect reader of the grammar needs at most so many bits, and exactly so many where no two ways of
choosing lead to the same text. Held out are the names of the characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nanochat.data.tinyworld.draw import Draw
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.data.tinyworld.facts import capitalized
from nanochat.data.tinyworld.names import Name, draw_name
from nanochat.data.tinyworld.plots import (
    ANIMALS,
    ENDINGS,
    HOMES,
    OPENINGS,
    PLOTS,
    TIMES,
    TRAITS,
    WEATHERS,
    WHEN,
    Plot,
    Query,
)


@dataclass(frozen=True)
class Story:
    """A story with the facts from which it was told. ``bits`` prices all choices of its text."""

    text: str
    bits: float
    plot: Plot
    slots: dict[str, str]

    @property
    def hero(self) -> str:
        return self.slots["A"]

    def ask(self, draw: Draw, query: Query) -> Exchange:
        answer = query.answer.format(**self.slots)
        rivals: set[str] = set()
        for slot in query.rivals:
            rivals |= {self.slots[slot]} if slot in ("A", "B") else set(self.plot.slots[slot])
        return Exchange(
            ask=draw.phrase(query.asks).format(**self.slots),
            say=query.say.format(**self.slots),
            answer=answer,
            rivals=frozenset(rivals - {answer}),
        )

    def ask_some(self, draw: Draw, k: int) -> list[Exchange]:
        return [self.ask(draw, query) for query in draw.sample(self.plot.queries, k)]


@cache
def _pronouns(is_girl: bool, prefix: str) -> dict[str, str]:
    words = ("she", "her", "her") if is_girl else ("he", "his", "him")
    slots = {prefix + slot: word for slot, word in zip(("he", "his", "him"), words, strict=True)}
    return slots | {prefix + "He": capitalized(words[0]), prefix + "His": capitalized(words[1])}


def tell(draw: Draw, *, hero: Name | None = None, animal: str | None = None) -> Story:
    """A story; ``hero`` or ``animal`` fixes who it is about, and what is fixed costs no bits."""
    before = draw.bits
    name = hero or draw_name(draw)
    friend = draw_name(draw, name)
    slots = {"A": name.text, "B": friend.text, "friend": friend.text}
    slots |= _pronouns(name.is_girl, "") | _pronouns(friend.is_girl, "b")
    slots["kind"] = "girl" if name.is_girl else "boy"
    if animal or draw.chance(0.5):
        slots["kind"] = animal or draw.pick(ANIMALS)
        other = draw.pick([kind for kind in ANIMALS if kind != slots["kind"]])
        slots["friend"] = f"{friend.text} the {other}"
    slots |= {"trait": draw.pick(TRAITS), "home": draw.pick(HOMES)}
    plot = draw.pick(PLOTS)
    template = " ".join(draw.pick(wordings) for wordings in (OPENINGS, *plot.sentences, ENDINGS))
    for slot, fillers in plot.slots.items():
        slots[slot] = draw.pick(fillers)
    if "{When}" in template:
        weather, time = draw.pick(WEATHERS), draw.pick(TIMES)
        slots["When"] = draw.pick(WHEN).format(weather=weather, time=time)
    text = template.format(**slots)
    return Story(text=text, bits=draw.bits - before, plot=plot, slots=slots)
