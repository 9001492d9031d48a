"""One question and its answer: the unit of which documents, chats and tasks are made.

The same exchange is written as plain text in the pretraining documents and as turns in the
conversations, so that pretraining already teaches what chat training then only has to re-address.
In plain text the speaker stands on a line of its own: the first word of a line then has the same
token (no leading space) as the first word after a special token in the chat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """What the user asks and what the assistant says.

    Attributes:
        code, output: Call of the calculator before the answer, and its result; empty if none.
        answer: The part of ``say`` that makes it right; empty if the exchange is small talk.
        rivals: Wrong answers of the same sort; naming one of them makes a reply wrong.
        choices: For multiple choice, the replies to choose from; ``answer`` is one of them.
    """

    ask: str
    say: str
    code: str = ""
    output: str = ""
    answer: str = ""
    rivals: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()

    def as_text(self) -> str:
        tool = f"Tool:\n{self.code}\nResult:\n{self.output}\n" if self.code else ""
        return f"User:\n{self.ask}\n{tool}Bot:\n{self.say}"

    def as_messages(self) -> list[Message]:
        content: str | list[Message] = self.say
        if self.code:
            content = [
                {"type": "python", "text": self.code},
                {"type": "python_output", "text": self.output},
                {"type": "text", "text": self.say},
            ]
        return [
            {"role": "user", "content": self.ask},
            {"role": "assistant", "content": content},
        ]
