"""Pretraining documents: stories, statements, and questions with answers in plain text.

``MIXTURE`` says how often each kind of document comes; what is hard to learn comes more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nanochat.data.tinyworld import facts, numbers, spelling, stories, talk
from nanochat.data.tinyworld.draw import Draw, Split
from nanochat.data.tinyworld.exchange import Exchange


def _join(exchanges: list[Exchange]) -> str:
    return "\n".join(exchange.as_text() for exchange in exchanges)


def _story(draw: Draw) -> str:
    return stories.tell(draw).text


def _story_questions(draw: Draw) -> str:
    story = stories.tell(draw)
    return story.text + "\n" + _join(story.ask_some(draw, 3))


def _statements(draw: Draw) -> str:
    return " ".join(
        relation.state(draw.pick(tuple(relation.table)), draw)
        for relation in draw.sample(facts.RELATIONS, 6)
    )


def _several(make: Callable[[Draw], Exchange], k: int) -> Callable[[Draw], str]:
    return lambda draw: _join([make(draw) for _ in range(k)])


def _spelled_words(draw: Draw) -> str:
    return "\n".join(spelling.state_spelling(draw) for _ in range(8))


def _counted_letters(draw: Draw) -> str:
    return "\n".join(spelling.state_count(draw) for _ in range(5))


def _talk(draw: Draw) -> str:
    turns = [talk.small_talk(draw), talk.small_talk(draw), talk.outside(draw), *talk.meet(draw)]
    return _join(turns)


MIXTURE: tuple[tuple[float, Callable[[Draw], str]], ...] = (
    (0.14, _story),
    (0.20, _story_questions),
    (0.07, _statements),
    (0.11, _several(facts.ask, 4)),
    (0.08, _several(facts.ask_choice, 2)),
    (0.05, _spelled_words),
    (0.06, _counted_letters),
    (0.02, _several(spelling.spell, 4)),
    (0.04, _several(spelling.count_letter, 3)),
    (0.03, _several(spelling.repeat, 5)),
    (0.02, _several(numbers.arithmetic, 3)),
    (0.02, _several(numbers.word_sum, 4)),
    (0.03, _several(numbers.counting, 2)),
    (0.06, _several(numbers.sequence, 4)),
    (0.01, _several(numbers.recite, 1)),
    (0.06, _talk),
)
# Documents that begin with a story: what a reader has to be told before the first word of one.
STORY_SHARE = sum(share for share, make in MIXTURE if make in (_story, _story_questions))


def document(index: int, *, split: Split, seed: int) -> str:
    """The pretraining document number ``index``: a pure function of its arguments."""
    draw = Draw(seed, split, "document", index)
    return draw.weighted(MIXTURE)(draw)


def story_bits(index: int, *, split: Split, seed: int) -> tuple[str, float]:
    """Story number ``index`` and the bits that a perfect reader needs to predict it.

    The bits are ``-log2 p`` of the choices by which the story was made, plus those of the document
    being one that begins with a story. Summed over many stories and divided by their bytes, that
    is the ideal code length under the grammar: the bits per byte that a model can approach and, on
    average, not beat, but for the rare texts to which two ways of choosing lead.
    """
    draw = Draw(seed, split, "story", index)
    story = stories.tell(draw)
    return story.text, story.bits - math.log2(STORY_SHARE)
