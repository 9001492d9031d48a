"""What a task is: examples, each a prompt with a rule that tells right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nanochat.data.tinyworld.draw import Split

Message = dict[str, Any]
Kind = Literal["multiple_choice", "generative"]


@dataclass(frozen=True)
class Example:
    """One prompt.

    Attributes:
        messages: The conversation so far; the last message is the user's.
        reference: An assistant message that is right, tool calls included.
        check: Whether the text of a reply is right. The text may hold tool calls and results too.
        choices: For multiple choice, the replies to choose from.
    """

    messages: tuple[Message, ...]
    reference: Message
    check: Callable[[str], bool]
    choices: tuple[str, ...] = ()

    @property
    def answer(self) -> int:
        """Index of the right choice; only for multiple choice."""
        return self.choices.index(self.reference["content"])

    @property
    def prompt(self) -> dict[str, Any]:
        """The conversation to complete, as the tokenizer renders it."""
        return {"messages": list(self.messages)}


class Task(Protocol):
    """A set of examples. ``chance`` is the accuracy of guessing."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def chance(self) -> float: ...

    def examples(self, split: Split, *, n: int, seed: int) -> list[Example]:
        """``n`` examples with different prompts, or as many as the split has."""
        ...
