"""Chats: one to four turns about the things of the world, with tool calls where they help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nanochat.data.tinyworld import facts, numbers, spelling, stories, talk
from nanochat.data.tinyworld.draw import Draw, Phrasings, Split, either
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.data.tinyworld.facts import with_article
from nanochat.data.tinyworld.names import draw_name
from nanochat.data.tinyworld.plots import ANIMALS

SINGLE: tuple[tuple[float, Callable[[Draw], Exchange]], ...] = (
    (0.16, facts.ask),
    (0.10, facts.ask_choice),
    (0.03, spelling.repeat),
    (0.01, numbers.recite),
    (0.12, numbers.arithmetic),
    (0.07, spelling.spell),
    (0.12, spelling.count_letter),
    (0.06, numbers.sequence),
    (0.03, numbers.word_sum),
    (0.02, numbers.counting),
    (0.12, talk.small_talk),
    (0.16, talk.outside),
)
_SLOPPY = frozenset(
    {facts.ask, numbers.arithmetic, spelling.spell, numbers.sequence, talk.small_talk, talk.outside}
)

_STORY = Phrasings(
    train=either(
        """Tell me a story. | Please tell me a story. | Can you tell me a story? | a story please |
        I would like to hear a story. | Do you know a story? | tell me a story | story | Read me
        a story. | Write a story."""
    ),
    val=either("Can you please tell me a story? | I would like a story, please."),
)
_STORY_ABOUT = Phrasings(
    train=either(
        """Tell me a story about {x}. | Please tell me a story about {x}. | A story about {x},
        please! | Can you tell me a story about {x}? | I would like to hear a story about {x}. |
        Do you know a story about {x}? | tell me a story about {x} | Write a story about {x}."""
    ),
    val=either("Can you please tell me a story about {x}? | I would like a story about {x}."),
)
_ANOTHER = Phrasings(
    train=either(
        """Another one, please! | Tell me another story. | One more! | another story | Again!"""
    ),
    val=either("One more story, please! | Tell me another one."),
)


def _sloppy(exchange: Exchange) -> Exchange:
    """The same question as typed in a hurry: no capitals, no mark at the end."""
    return replace(exchange, ask=exchange.ask.lower().rstrip("?.!"))


def single(draw: Draw) -> Exchange:
    make = draw.weighted(SINGLE)
    exchange = make(draw)
    return _sloppy(exchange) if make in _SLOPPY and draw.chance(0.2) else exchange


def _story_told(draw: Draw) -> list[Exchange]:
    """The user asks for a story, and perhaps about it or for another one."""
    about = draw.below(3)
    if about == 0:
        story, ask = stories.tell(draw), draw.phrase(_STORY)
    elif about == 1:
        hero = draw_name(draw)
        story, ask = stories.tell(draw, hero=hero), draw.phrase(_STORY_ABOUT).format(x=hero.text)
    else:
        animal = draw.pick(ANIMALS)
        story = stories.tell(draw, animal=animal)
        ask = draw.phrase(_STORY_ABOUT).format(x=with_article(animal))
    turns = [Exchange(ask=ask, say=story.text)]
    follow = draw.below(4)
    if follow == 0:
        turns.append(Exchange(ask=draw.phrase(_ANOTHER), say=stories.tell(draw).text))
    elif follow == 1:
        turns += story.ask_some(draw, 2)
    elif follow == 2:
        turns.append(talk.intent(draw, draw.pick(either("thanks | praise"))))
    return turns


def story_question(draw: Draw) -> Exchange:
    """A story in the question, and something to be found in it."""
    return _story_read(draw, questions=1)[0]


def _story_read(draw: Draw, *, questions: int = 3) -> list[Exchange]:
    story = stories.tell(draw)
    first, *rest = story.ask_some(draw, questions)
    return [replace(first, ask=f"{story.text}\n{first.ask}"), *rest]


def _one(draw: Draw) -> list[Exchange]:
    return [single(draw)]


def _several(draw: Draw) -> list[Exchange]:
    """A greeting perhaps, two or three things, a goodbye perhaps."""
    turns = [talk.intent(draw, "greeting")] if draw.chance(0.3) else []
    turns += [single(draw) for _ in range(draw.between(2, 3))]
    if draw.chance(0.3):
        turns.append(talk.intent(draw, draw.pick(either("thanks | goodbye"))))
    return turns


def _named(draw: Draw) -> list[Exchange]:
    """The user says a name and asks for it later; or asks for it without having said it."""
    if draw.chance(0.25):
        return [talk.nameless(draw)]
    told, asked = talk.meet(draw)
    return [told, *([single(draw)] if draw.chance(0.5) else []), asked]


MIXTURE: tuple[tuple[float, Callable[[Draw], list[Exchange]]], ...] = (
    (0.32, _one),
    (0.28, _several),
    (0.12, _story_told),
    (0.22, _story_read),
    (0.06, _named),
)


def conversation(index: int, *, split: Split, seed: int) -> dict[str, Any]:
    """The chat number ``index``, ``{"messages": [...]}``: a pure function of its arguments."""
    draw = Draw(seed, split, "conversation", index)
    turns = draw.weighted(MIXTURE)(draw)
    return {"messages": [message for turn in turns for message in turn.as_messages()]}
