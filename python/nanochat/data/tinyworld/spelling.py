"""Words and their letters: spelling aloud, and counting letters with the tool.

Held out are words: val asks to spell, or to count letters in, words that train never asks that of,
neither in a chat nor in a document. Documents of train do state their letters, or nobody could know
them; and any word may be repeated on request. To count, the word is spelled into the tool: a token
such as `` barn`` does not show its letters, nor does the one for ``barn`` behind a quote.
"""

from __future__ import annotations

from functools import lru_cache

from nanochat.data.tinyworld.draw import Draw, Phrasings, Split, held_out
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.data.tinyworld.names import draw_name
from nanochat.data.tinyworld.tables import LETTERS, WORDS

_SPELL = Phrasings(
    train=(
        "How do you spell {w}?",
        "Spell {w}.",
        "Please spell the word {w}.",
        "Can you spell {w}?",
        "Spell the word {w}.",
        "How is {w} spelled?",
        "Tell me how to spell {w}.",
        'Spell "{w}".',
        "What are the letters of {w}?",
        "spell {w} for me",
    ),
    val=("Can you spell the word {w}?", "How do you spell the word {w}?", "Please spell {w}."),
)
_COUNT = Phrasings(
    train=(
        "How many times does the letter {l} appear in {w}?",
        "How many {l}'s are in {w}?",
        "How often is the letter {l} in {w}?",
        "Count the letter {l} in {w}.",
        "How many times is {l} in the word {w}?",
        "How many letters {l} does {w} have?",
        "How many {l} in {w}?",
        'How many "{l}" are in "{w}"?',
        "Count how often {l} appears in {w}.",
    ),
    val=(
        "How many times does {l} appear in the word {w}?",
        "How many {l}'s are in the word {w}?",
        "How often does the letter {l} appear in {w}?",
    ),
)
_STATEMENTS = (
    "The word {w} is spelled {x}.",
    "{w}: {x}",
    "To spell {w}, say {x}.",
    "{x} spells {w}.",
    'You write "{w}" like this: {x}.',
    "The letters of {w} are {x}.",
)


@lru_cache(maxsize=2)
def words(split: Split) -> tuple[str, ...]:
    """The words that questions of ``split`` are about."""
    return tuple(w for w in WORDS if held_out(f"word:{w}") == (split == "val"))


def spelled(word: str) -> str:
    return "-".join(word)


def spell(draw: Draw) -> Exchange:
    word = draw.pick(words(draw.split))
    return Exchange(
        ask=draw.phrase(_SPELL).format(w=word),
        say=f"The word {word} is spelled {spelled(word)}.",
        answer=spelled(word),
    )


def _letter_of(word: str, draw: Draw) -> str:
    """Mostly a letter of the word, sometimes any letter."""
    return draw.pick(word) if draw.chance(0.85) else draw.pick(LETTERS)


def count_letter(draw: Draw) -> Exchange:
    word = draw.pick(words(draw.split))
    letter = _letter_of(word, draw)
    times = word.count(letter)
    return Exchange(
        ask=draw.phrase(_COUNT).format(l=letter, w=word),
        say=f"The letter {letter} appears {times} {'time' if times == 1 else 'times'} in {word}.",
        code=_call(word, letter),
        output=str(times),
        answer=str(times),
    )


def state_spelling(draw: Draw) -> str:
    """A statement about any word, held out or not: the source of all knowledge of spelling."""
    word = draw.pick(WORDS)
    return draw.pick(_STATEMENTS).format(w=word, x=spelled(word))


def state_count(draw: Draw) -> str:
    """A statement about the tool on any word: the call and its result, on lines of their own."""
    word = draw.pick(WORDS)
    letter = _letter_of(word, draw)
    result = word.count(letter)
    return f"To count {letter} in {word}, write:\n{_call(word, letter)}\nThe result is {result}."


def _call(word: str, letter: str) -> str:
    return f'"{spelled(word)}".count("{letter}")'


def _made_up(draw: Draw) -> str:
    return draw_name(draw).text.lower()


_REPEAT = Phrasings(
    train=("Say {w}.", "Repeat {w}.", "Repeat after me: {w}.", "Can you say {w}?", "say {w}"),
    val=("Please say {w}.", "Can you repeat {w}?"),
)


def repeat(draw: Draw) -> Exchange:
    """One to three words to be said again: any words, held out or not, and made-up ones."""
    count = draw.between(1, 3)
    chosen = [draw.pick(WORDS) if draw.chance(0.7) else _made_up(draw) for _ in range(count)]
    text = " ".join(chosen)
    return Exchange(ask=draw.phrase(_REPEAT).format(w=text), say=f"Here you are: {text}.")
