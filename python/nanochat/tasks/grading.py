"""Rules that tell a right reply from a wrong one.

Each rule finds the final answer in a reply and compares it; the words around it do not matter. The
rules are strict: a reply that names the right answer and a wrong one beside it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal

from nanochat.tasks.base import Verdict

Check = Callable[[str], bool]

MARKER = "####"  # stands before the final answer
_NUMBER = re.compile(r"-?\d+")
_AMOUNT = re.compile(r"[-+]?\$?\s?((?:\d[\d,]*)?\.?\d+)", re.ASCII)
_SPELLED = re.compile(r"\b\w(?:-\w)+\b")


def is_exactly(answer: str) -> Check:
    """The reply is ``answer`` and nothing else."""
    return lambda reply: reply.strip() == answer


def ends_with_number(answer: str) -> Check:
    """The last number of the reply is ``answer``."""
    return lambda reply: _NUMBER.findall(reply)[-1:] == [answer]


def number_behind_marker(text: str) -> Decimal | None:
    """The number that follows the last ####; $ and commas between digits are left out.

    ``#### $1,234.50.`` is 1234.5. None if there is no marker, or no number behind it.
    """
    _, marker, tail = text.rpartition(MARKER)
    found = _AMOUNT.search(tail) if marker else None
    if found is None:
        return None
    number = Decimal(found[1].replace(",", ""))
    return -number if found[0].startswith("-") else number


def numbers_match(answer: Decimal) -> Callable[[str], Verdict]:
    """Grades the number behind the reply's last ####: 18 is 18.0, and none is unanswered."""

    def grade(reply: str) -> Verdict:
        number = number_behind_marker(reply)
        if number is None:
            return "unanswered"
        return "right" if number == answer else "wrong"

    return grade


def spells(answer: str) -> Check:
    """The last run of letters joined by hyphens is ``answer``."""
    return lambda reply: _SPELLED.findall(reply)[-1:] == [answer]


def says(phrase: str) -> Check:
    """The reply contains ``phrase`` as whole words, in any case."""
    return lambda reply: _contains(reply, phrase)


def names_only(answer: str, rivals: Iterable[str], *, question: str) -> Check:
    """The reply names ``answer`` and none of ``rivals``, except those that the question named.

    Whole words count, in any case. What is part of ``answer`` is not held against it.
    """
    wrong = [rival for rival in rivals if not _contains(question, rival)]

    def check(reply: str) -> bool:
        if not _contains(reply, answer):
            return False
        rest = _whole(answer).sub(" ", reply)
        return not any(_contains(rest, rival) for rival in wrong)

    return check


def _contains(text: str, phrase: str) -> bool:
    return _whole(phrase).search(text) is not None


def _whole(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
