"""Facts: each table with its wordings, asked openly or as multiple choice.

A :class:`Relation` knows how to state a fact, to ask for it and to answer. Held out are wordings:
every fact is in train, and val asks for it in words that train never uses for that relation, made
of words that train does use. Wrong choices come from the same relation, so that telling a capital
from a sound is not enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat.data.tinyworld import tables
from nanochat.data.tinyworld.draw import Draw, Phrasings
from nanochat.data.tinyworld.exchange import Exchange

LETTERS = ("A", "B", "C", "D")
INSTRUCTIONS = Phrasings(
    train=(
        "Answer with the choice and its letter.",
        "Reply with the choice and its letter.",
        "Give the choice and its letter.",
    ),
    val=("Answer with the choice and its letter.",),
)


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Relation:
    """A table and its wordings. Slots: {s} subject, {o} answer; {as}, {ao} with a or an; {S}, {O},
    {As}, {Ao} the same with a capital."""

    name: str
    table: dict[str, str]
    say: str
    states: tuple[str, ...]
    asks: Phrasings

    def fill(self, template: str, subject: str) -> str:
        answer = self.table[subject]
        slots = {"s": subject, "o": answer, "as": with_article(subject), "ao": with_article(answer)}
        slots |= {name[0].upper() + name[1:]: capitalized(slots[name]) for name in tuple(slots)}
        return template.format(**slots)

    def answers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.table.values()))

    def state(self, subject: str, draw: Draw) -> str:
        return self.fill(draw.pick((self.say, *self.states)), subject)

    def ask(self, subject: str, draw: Draw) -> Exchange:
        answer = self.table[subject]
        return Exchange(
            ask=self.question(subject, draw),
            say=self.fill(self.say, subject),
            answer=answer,
            rivals=frozenset(self.answers()) - {answer},
        )

    def question(self, subject: str, draw: Draw) -> str:
        return self.fill(draw.phrase(self.asks), subject)


RELATIONS = (
    Relation(
        "capital",
        tables.CAPITALS,
        "The capital of {s} is {o}.",
        (
            "{o} is the capital of {s}.",
            "{S} has a capital called {o}.",
            "The capital city of {s} is {o}.",
            "If you travel to {s}, visit the capital, {o}.",
        ),
        Phrasings(
            train=(
                "What is the capital of {s}?",
                "What is the capital city of {s}?",
                "Which city is the capital of {s}?",
                "Tell me the capital of {s}.",
                "Do you know the capital of {s}?",
                "Name the capital of {s}.",
                "{S} has which capital?",
                "capital of {s}",
                "What city is the capital of {s}?",
            ),
            val=(
                "Can you tell me the capital of {s}?",
                "Do you know the capital city of {s}?",
                "Name the capital city of {s}.",
            ),
        ),
    ),
    Relation(
        "country",
        {capital: country for country, capital in tables.CAPITALS.items()},
        "{s} is the capital of {o}.",
        ("The city of {s} is in {o}.", "You can find {s} in {o}."),
        Phrasings(
            train=(
                "{s} is the capital of which country?",
                "Which country has the capital {s}?",
                "What country has {s} as its capital?",
                "In which country is {s}?",
                "Which country is {s} in?",
            ),
            val=(
                "What country is {s} in?",
                "{s} is the capital of what country?",
                "In what country is {s}?",
            ),
        ),
    ),
    Relation(
        "continent",
        tables.CONTINENTS,
        "{S} is in {o}.",
        ("The country of {s} is in {o}.", "{S} is a country in {o}.", "In {o} there is {s}."),
        Phrasings(
            train=(
                "Which continent is {s} in?",
                "On which continent is {s}?",
                "What continent is {s} on?",
                "Tell me the continent of {s}.",
                "Where in the world is {s}?",
            ),
            val=("What continent is {s} in?", "On what continent is {s}?"),
        ),
    ),
    Relation(
        "opposite",
        tables.OPPOSITES,
        "The opposite of {s} is {o}.",
        ("{S} is the opposite of {o}.", "{S} and {o} are opposites."),
        Phrasings(
            train=(
                "What is the opposite of {s}?",
                "Tell me the opposite of {s}.",
                "Which word is the opposite of {s}?",
                "Give me the opposite of {s}.",
                "Do you know the opposite of {s}?",
                "The opposite of {s} is what?",
                "What word means the opposite of {s}?",
                "opposite of {s}",
            ),
            val=(
                "Can you tell me the opposite of {s}?",
                "What word is the opposite of {s}?",
                "Name the opposite of {s}.",
            ),
        ),
    ),
    Relation(
        "sound",
        tables.SOUNDS,
        "{As} says {o}.",
        ("Listen to the {s}: {o}, {o}!", "The {s} says {o}.", "{O} is what {as} says."),
        Phrasings(
            train=(
                "What does {as} say?",
                "What sound does {as} make?",
                "Which sound does {as} make?",
                "Tell me what {as} says.",
                "What does the {s} say?",
                "Do you know what {as} says?",
                "Tell me the sound that {as} makes.",
            ),
            val=(
                "What sound does the {s} make?",
                "Tell me what sound {as} makes.",
                "Can you tell me what {as} says?",
            ),
        ),
    ),
    Relation(
        "young",
        tables.YOUNG,
        "A baby {s} is called {ao}.",
        (
            "The young of {as} is {ao}.",
            "A young {s} is called {ao}.",
            "{Ao} is a young {s}.",
        ),
        Phrasings(
            train=(
                "What is a baby {s} called?",
                "What do you call a baby {s}?",
                "What is the name for a baby {s}?",
                "What is the young of {as}?",
                "Tell me the name for a baby {s}.",
                "What is a young {s} called?",
            ),
            val=(
                "What do you call a young {s}?",
                "Tell me what a baby {s} is called.",
                "What is the name for a young {s}?",
            ),
        ),
    ),
    Relation(
        "legs",
        tables.LEGS,
        "{As} has {o} legs.",
        ("There are {o} legs on {as}.", "The {s} has {o} legs."),
        Phrasings(
            train=(
                "How many legs does {as} have?",
                "How many legs are on {as}?",
                "Tell me how many legs {as} has.",
                "How many legs does the {s} have?",
                "{As} has how many legs?",
            ),
            val=("Can you tell me how many legs {as} has?", "How many legs has {as}?"),
        ),
    ),
    Relation(
        "home",
        tables.HOMES,
        "{As} lives in {ao}.",
        ("The {s} lives in its {o}.", "The home of {as} is {ao}."),
        Phrasings(
            train=(
                "Where does {as} live?",
                "What is the home of {as}?",
                "Where does the {s} live?",
                "Tell me where {as} lives.",
                "In what does {as} live?",
            ),
            val=("Can you tell me where {as} lives?", "What is the home of the {s}?"),
        ),
    ),
    Relation(
        "color",
        tables.COLORS,
        "The color of {s} is {o}.",
        ("{S} is {o}.", "Think of {s}: it is {o}.", "What is {o}? {S} is {o}."),
        Phrasings(
            train=(
                "What color is {s}?",
                "What is the color of {s}?",
                "Which color is {s}?",
                "Tell me the color of {s}.",
                "Which color does {s} have?",
                "What colour is {s}?",
            ),
            val=(
                "What color does {s} have?",
                "Can you tell me the color of {s}?",
                "Do you know the color of {s}?",
            ),
        ),
    ),
    Relation(
        "kind",
        tables.KINDS,
        "{S} is {ao}.",
        ("You can call {s} {ao}.", "Is {s} {ao}? Yes, {s} is {ao}."),
        Phrasings(
            train=(
                "What kind of thing is {s}?",
                "What is {s}?",
                "What sort of thing is {s}?",
                "Tell me what kind of thing {s} is.",
                "Tell me what {s} is.",
            ),
            val=("Tell me what sort of thing {s} is.", "Can you tell me what {s} is?"),
        ),
    ),
    Relation(
        "plural",
        tables.PLURALS,
        "The plural of {s} is {o}.",
        ("One {s}, two {o}.", "First there was one {s}, and then there were many {o}."),
        Phrasings(
            train=(
                "What is the plural of {s}?",
                "Tell me the plural of {s}.",
                "One {s}, two what?",
                "Give me the plural of {s}.",
                "What do you call more than one {s}?",
            ),
            val=("Can you tell me the plural of {s}?", "Do you know the plural of {s}?"),
        ),
    ),
    Relation(
        "amount",
        tables.AMOUNTS,
        "The number of {s} is {o}.",
        ("There are {o} {s}.", "Count the {s}: there are {o}."),
        Phrasings(
            train=(
                "How many {s}?",
                "How many {s} are there?",
                "What is the number of {s}?",
                "Tell me the number of {s}.",
                "Do you know how many {s} there are?",
            ),
            val=("Tell me how many {s} there are.", "Do you know the number of {s}?"),
        ),
    ),
    Relation(
        "use",
        tables.USES,
        "You need {o} to {s}.",
        ("To {s}, you need {o}.", "With {o} you can {s}."),
        Phrasings(
            train=(
                "What do you need to {s}?",
                "What do I need to {s}?",
                "With what can you {s}?",
                "I want to {s}. What do I need?",
                "How can I {s}?",
            ),
            val=("Tell me what I need to {s}.", "With what can I {s}?"),
        ),
    ),
    Relation(
        "job",
        tables.JOBS,
        "The one who {s} is {o}.",
        ("{O} {s}.", "Who {s}? {O} does."),
        Phrasings(
            train=(
                "Who {s}?",
                "Tell me who {s}.",
                "What do you call someone who {s}?",
                "What is the name for someone who {s}?",
            ),
            val=("Can you tell me who {s}?", "Do you know who {s}?"),
        ),
    ),
    Relation(
        "source",
        tables.SOURCES,
        "We get {s} from {o}.",
        ("{S} comes from {o}.", "From {o} we get {s}."),
        Phrasings(
            train=(
                "Where does {s} come from?",
                "What does {s} come from?",
                "Where do we get {s}?",
                "From what do we get {s}?",
            ),
            val=("Where do we get {s} from?", "Tell me where we get {s}."),
        ),
    ),
)

# In proportion to the size of their tables, so that each fact is asked about as often.
_BY_SIZE = tuple(r for r in RELATIONS for _ in range(math.ceil(len(r.table) / 10)))


def _any(draw: Draw) -> tuple[Relation, str]:
    relation = draw.pick(_BY_SIZE)
    return relation, draw.pick(tuple(relation.table))


def ask(draw: Draw) -> Exchange:
    """Any fact, asked openly."""
    relation, subject = _any(draw)
    return relation.ask(subject, draw)


# Multiple choice: a line ``- text=letter`` per choice under the question. The reply repeats the
# right one, text before letter, so that a small model can first recall and then look up. Asked for
# the letter alone it has to do both in one step, and stays at chance for millions of tokens.


def ask_choice(draw: Draw) -> Exchange:
    """Any fact, with its answer and three others of the same relation to choose from."""
    relation, subject = _any(draw)
    right = relation.table[subject]
    others = [text for text in relation.answers() if text not in (right, subject)]
    texts = draw.sample([right, *draw.sample(others, len(LETTERS) - 1)], len(LETTERS))
    choices = tuple(f"{text}={letter}" for text, letter in zip(texts, LETTERS, strict=True))
    question = relation.question(subject, draw)
    lines = [question, *(f"- {choice}" for choice in choices), draw.phrase(INSTRUCTIONS)]
    reply = choices[texts.index(right)]
    return Exchange(ask="\n".join(lines), say=reply, answer=reply, choices=choices)
