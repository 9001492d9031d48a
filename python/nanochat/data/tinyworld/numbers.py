"""Numbers: arithmetic with the calculator, small sums in words, counting and what comes next.

Held out are pairs: the operands of a sum (in either order) and the ends of a count, by checksum;
and the wordings of the questions about order, since the orders themselves must all be learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.data.tinyworld.draw import Draw, Phrasings
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.data.tinyworld.tables import DAYS, LETTERS, MONTHS, NUMBER_WORDS

MAX_OPERAND = 999
MAX_COUNT = 100
MAX_WORD_OPERAND = 10

_ARITHMETIC = Phrasings(
    train=(
        "What is {e}?",
        "Compute {e}.",
        "Calculate {e}.",
        "How much is {e}?",
        "Tell me what {e} is.",
        "Please work out {e}.",
        "{e}",
        "{e} = ?",
        "{e}?",
        "Can you calculate {e}?",
        "What do you get for {e}?",
        "What's {e}?",
    ),
    val=("Can you tell me what {e} is?", "Please compute {e}.", "How much do you get for {e}?"),
)
_SPOKEN = {"+": "plus", "-": "minus", "*": "times"}
_OPERATORS = tuple(_SPOKEN)


def _operand(draw: Draw) -> int:
    """1, 2 or 3 digits with equal probability."""
    low, high = draw.pick(((0, 9), (10, 99), (100, MAX_OPERAND)))
    return draw.between(low, high)


def pair_key(a: int, b: int) -> str:
    return f"pair:{min(a, b)},{max(a, b)}"


def arithmetic(draw: Draw) -> Exchange:
    """A sum, difference or product of two numbers up to 999, done by the tool."""
    while True:
        a, b = _operand(draw), _operand(draw)
        if draw.belongs(pair_key(a, b)):
            break
    operator = draw.pick(_OPERATORS)
    if operator == "-" and b > a and draw.chance(0.75):  # the others have a negative result
        a, b = b, a
    code = f"{a}{operator}{b}"
    output = str({"+": a + b, "-": a - b, "*": a * b}[operator])
    written = draw.pick((f"{a} {operator} {b}", f"{a} {_SPOKEN[operator]} {b}", code))
    return Exchange(
        ask=draw.phrase(_ARITHMETIC).format(e=written),
        say=f"{a} {operator} {b} is {output}.",
        code=code,
        output=output,
        answer=output,
    )


_WORD_SUM = Phrasings(
    train=("What is {e}?", "How much is {e}?", "{e}?", "Tell me what {e} is."),
    val=("Can you tell me what {e} is?", "How much do you get for {e}?"),
)


def word_sum(draw: Draw) -> Exchange:
    """A small sum in words, from memory. Every pair is in train; val differs in wording."""
    a, b = draw.between(0, MAX_WORD_OPERAND), draw.between(0, MAX_WORD_OPERAND)
    if draw.chance(0.6):
        words, result = f"{NUMBER_WORDS[a]} plus {NUMBER_WORDS[b]}", a + b
    else:
        a, b = max(a, b), min(a, b)
        words, result = f"{NUMBER_WORDS[a]} minus {NUMBER_WORDS[b]}", a - b
    answer = NUMBER_WORDS[result]
    return Exchange(
        ask=draw.phrase(_WORD_SUM).format(e=words),
        say=f"{words[0].upper()}{words[1:]} is {answer}.",
        answer=answer,
    )


_COUNT = Phrasings(
    train=(
        "Count from {a} to {b}.",
        "Please count from {a} to {b}.",
        "Can you count from {a} to {b}?",
        "Start at {a} and count to {b}.",
        "count from {a} to {b}",
    ),
    val=("Can you please count from {a} to {b}?", "Please start at {a} and count to {b}."),
)


_COUNT_TO = Phrasings(
    train=(
        "Count to {b}.",
        "Please count to {b}.",
        "Can you count to {b}?",
        "count to {b}",
        "Count up to {b}.",
    ),
    val=("Can you please count to {b}?", "Please count up to {b}."),
)


def counting(draw: Draw) -> Exchange:
    """Count up between two numbers at most 12 apart, or from 1."""
    while True:
        a = draw.between(0, MAX_COUNT - 3) if draw.chance(0.7) else 1
        b = min(a + draw.between(3, 12), MAX_COUNT)
        if draw.belongs(f"count:{a},{b}"):
            break
    phrasings = _COUNT_TO if a == 1 and draw.chance(0.7) else _COUNT
    numbers = ", ".join(str(n) for n in range(a, b + 1))
    return Exchange(
        ask=draw.phrase(phrasings).format(a=a, b=b), say=f"Here we go: {numbers}.", answer=numbers
    )


@dataclass(frozen=True)
class Order:
    """A sequence in which things come after one another, and what one of them is called."""

    noun: str
    items: tuple[str, ...]
    is_cycle: bool


ORDERS = (
    Order("day", DAYS, is_cycle=True),
    Order("month", MONTHS, is_cycle=True),
    Order("letter", tuple(LETTERS), is_cycle=False),
    Order("number", tuple(str(n) for n in range(MAX_COUNT)), is_cycle=False),
)
_NEXT = Phrasings(
    train=(
        "What {n} comes {w} {s}?",
        "Which {n} comes {w} {s}?",
        "What is the {n} {w} {s}?",
        "Tell me the {n} {w} {s}.",
        "Which {n} is {w} {s}?",
        "What comes {w} {s}?",
    ),
    val=(
        "Which is the {n} {w} {s}?",
        "Tell me which {n} comes {w} {s}.",
        "Can you tell me the {n} {w} {s}?",
    ),
)


_RECITE = Phrasings(
    train=(
        "What are the {n}s of {p}?",
        "Name the {n}s of {p}.",
        "Tell me the {n}s of {p}.",
        "List the {n}s of {p}.",
        "the {n}s of {p}",
    ),
    val=("Can you name the {n}s of {p}?", "Do you know the {n}s of {p}?"),
)
_WHOLES = {"day": "the week", "month": "the year", "letter": "the alphabet"}


def recite(draw: Draw) -> Exchange:
    """All days, months or letters in order."""
    order = draw.pick([order for order in ORDERS if order.noun in _WHOLES])
    whole = _WHOLES[order.noun]
    items = ", ".join(order.items)
    return Exchange(
        ask=draw.phrase(_RECITE).format(n=order.noun, p=whole),
        say=f"The {order.noun}s of {whole} are {items}.",
        answer=items,
    )


def sequence(draw: Draw) -> Exchange:
    """What comes before or after a day, month, letter or number."""
    order = draw.weighted(((0.2, ORDERS[0]), (0.2, ORDERS[1]), (0.2, ORDERS[2]), (0.4, ORDERS[3])))
    is_after = draw.chance(0.5)
    last = len(order.items) - 1
    if order.is_cycle:
        i = draw.between(0, last)
    else:  # nothing comes before the first or after the last
        i = draw.between(0, last - 1) if is_after else draw.between(1, last)
    subject = order.items[i]
    answer = order.items[(i + (1 if is_after else -1)) % len(order.items)]
    where = "after" if is_after else "before"
    return Exchange(
        ask=draw.phrase(_NEXT).format(n=order.noun, w=where, s=subject),
        say=f"The {order.noun} {where} {subject} is {answer}.",
        answer=answer,
        rivals=frozenset(order.items) - {answer},
    )
