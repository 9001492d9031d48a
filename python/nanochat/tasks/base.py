"""What a task is: examples, each a prompt with a rule that tells right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nanochat.data.tinyworld.draw import Split

Message = dict[str, Any]
Kind = Literal["multiple_choice", "generative"]
Verdict = Literal["right", "wrong", "unanswered", "timeout"]  # unanswered: nothing to grade


@dataclass(frozen=True)
class Example:
    """One prompt.

    Attributes:
        messages: The conversation so far; the last message is the user's.
        reference: An assistant message that is right, tool calls included.
        check: Whether the text of a reply is right. The text may hold tool calls and results too.
        choices: For multiple choice, the replies to choose from.
        group: What to break a score down by, the subject for example.
        grade: A check that also knows why a reply is not right. It may take seconds and wait for
            other processes, so it is called from threads.
    """

    messages: tuple[Message, ...]
    reference: Message
    check: Callable[[str], bool]
    choices: tuple[str, ...] = ()
    group: str = ""
    grade: Callable[[str], Verdict] | None = None

    @property
    def answer(self) -> int:
        """Index of the right choice; only for multiple choice."""
        return self.choices.index(self.reference["content"])

    @property
    def prompt(self) -> dict[str, Any]:
        """The conversation to complete, as the tokenizer renders it."""
        return {"messages": list(self.messages)}

    @property
    def conversation(self) -> dict[str, Any]:
        """The conversation with the reference as its last message, to learn from."""
        return {"messages": [*self.messages, self.reference]}

    def verdict(self, reply: str) -> Verdict:
        """What the text of a reply is worth, by ``grade`` if there is one, else by ``check``."""
        if self.grade is not None:
            return self.grade(reply)
        return "right" if self.check(reply) else "wrong"


class Task(Protocol):
    """A set of examples. ``chance`` is the accuracy of guessing."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def chance(self) -> float: ...

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        """``n`` examples drawn by ``seed``, or as many as the split has."""
        ...


def ask(text: str) -> tuple[Message, ...]:
    """A conversation of one question."""
    return ({"role": "user", "content": text},)


def graded(
    messages: tuple[Message, ...],
    content: str | list[dict[str, str]],
    grade: Callable[[str], Verdict],
) -> Example:
    """An example that ``grade`` decides; ``content`` is the reference's."""
    reference = {"role": "assistant", "content": content}
    return Example(messages, reference, lambda reply: grade(reply) == "right", grade=grade)
