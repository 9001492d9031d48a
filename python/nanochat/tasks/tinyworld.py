"""The tasks of tinyworld. On the val split they ask what training never asked: the rule for each
stands at the head of the module of ``nanochat.data.tinyworld`` that makes its questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nanochat.data.tinyworld import facts, numbers, spelling, talk
from nanochat.data.tinyworld.conversations import story_question
from nanochat.data.tinyworld.draw import Draw, Split
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.tasks import grading
from nanochat.tasks.base import Example, Kind

MAX_DRAWS_PER_EXAMPLE = 50  # after so many draws the split is taken to have no new prompt


@dataclass(frozen=True)
class TinyworldTask:
    """A maker of questions with the rule for their answers."""

    name: str
    make: Callable[[Draw], Exchange]
    check: Callable[[Exchange], grading.Check]
    kind: Kind = "generative"
    chance: float = 0.0

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        """As :meth:`nanochat.tasks.base.Task.examples`; a pure function of its arguments."""
        found: dict[str, Example] = {}
        for index in range(n * MAX_DRAWS_PER_EXAMPLE):
            if len(found) == n:
                break
            exchange = self.make(Draw(seed, split, f"task {self.name}", index))
            if exchange.ask not in found:
                found[exchange.ask] = self._example(exchange)
        return list(found.values())

    def _example(self, exchange: Exchange) -> Example:
        question, reference = exchange.as_messages()
        return Example(
            messages=(question,),
            reference=reference,
            check=self.check(exchange),
            choices=exchange.choices,
        )


def _names_only(exchange: Exchange) -> grading.Check:
    return grading.names_only(exchange.answer, exchange.rivals, question=exchange.ask)


def _names_only_of_story(exchange: Exchange) -> grading.Check:
    """The story names everything; only its last line is the question."""
    question = exchange.ask.rsplit("\n", 1)[-1]
    return grading.names_only(exchange.answer, exchange.rivals, question=question)


def _inside_or_outside(draw: Draw) -> Exchange:
    return talk.outside(draw) if draw.chance(0.5) else facts.ask(draw)


def _refuses_outside(exchange: Exchange) -> grading.Check:
    """What is outside the world is refused, and nothing else is."""
    refuses = grading.says(talk.REFUSAL)
    if exchange.answer == talk.REFUSAL:
        return refuses
    return lambda reply: bool(reply.strip()) and not refuses(reply)


TASKS: tuple[TinyworldTask, ...] = (
    TinyworldTask(
        "facts_mc",
        facts.ask_choice,
        lambda exchange: grading.is_exactly(exchange.answer),
        kind="multiple_choice",
        chance=1 / len(facts.LETTERS),
    ),
    TinyworldTask("facts", facts.ask, _names_only),
    TinyworldTask("order", numbers.sequence, _names_only),
    TinyworldTask("story_qa", story_question, _names_only_of_story),
    TinyworldTask(
        "arithmetic",
        numbers.arithmetic,
        lambda exchange: grading.ends_with_number(exchange.answer),
    ),
    TinyworldTask("spelling", spelling.spell, lambda exchange: grading.spells(exchange.answer)),
    TinyworldTask(
        "letter_count",
        spelling.count_letter,
        lambda exchange: grading.ends_with_number(exchange.answer),
        chance=0.5,  # most letters appear once
    ),
    TinyworldTask("honesty", _inside_or_outside, _refuses_outside, chance=0.5),
)
