"""One row of a file to a conversation: the forms in which people keep them.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    {"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}

In the third, ``prompt`` and ``question`` are other names of instruction, ``context`` of input,
which may be missing, and ``response``, ``completion`` and ``answer`` of output; other fields are
left alone. Content is text or a list of parts; those of a user are text parts, which are joined. An
empty system message and questions that nobody answers at the end are taken off. What breaks the
rules of tokenizer/conversation.py, or holds an empty message, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ASKED = ("instruction", "prompt", "question")
GIVEN = ("input", "context")
ANSWERED = ("output", "response", "completion", "answer")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}

Conversation = dict[str, Any]


def conversation_of(row: object) -> Conversation:
    """The conversation that ``row`` holds, ``{"messages": [...]}``, with at least one reply.

    Raises: ValueError with the reason, in a few words.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"must be an object, got {type(row).__name__}")
    if "messages" in row:
        messages = [_message(m, "role", "content") for m in _list(row, "messages")]
    elif "conversations" in row:
        messages = [_message(m, "from", "value") for m in _list(row, "conversations")]
    else:
        messages = _instruction(row)
    if messages and messages[0]["role"] == "system" and _is_blank(messages[0]["content"]):
        messages = messages[1:]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise ValueError("no message of an assistant")
    for i, message in enumerate(messages):
        if _is_blank(message["content"]):
            raise ValueError(f"message {i} is empty")
    return {"messages": messages}


def _list(row: Mapping[str, Any], field: str) -> list[Any]:
    if not isinstance(row[field], list):
        raise ValueError(f"'{field}' must be a list, got {type(row[field]).__name__}")
    return list(row[field])


def _message(message: object, role_field: str, content_field: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not {role_field, content_field} <= message.keys():
        raise ValueError(f"a message must have '{role_field}' and '{content_field}'")
    role, content = message[role_field], message[content_field]
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role != "assistant" and isinstance(content, list):
        content = _joined(content, role)
    return {"role": role, "content": content}


def _joined(parts: list[Any], role: object) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    kinds = {part.get("type") for part in parts if isinstance(part, Mapping)}
    if len(texts) < len(parts) or kinds - {"text"} or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"parts of a {role} message must be text")
    return "".join(str(text) for text in texts)


def _instruction(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked, given, answered = (_text(row, names) for names in (ASKED, GIVEN, ANSWERED))
    if asked is None or answered is None:
        missing = ASKED if asked is None else ANSWERED
        raise ValueError(f"neither 'messages' nor '{missing[0]}' (or {', '.join(missing[1:])})")
    question = f"{asked}\n\n{given}" if given else asked
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answered}]


def _text(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Of the first field that is there, without blanks around it."""
    for name in names:
        value = row.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise ValueError(f"'{name}' must be text, got {type(value).__name__}")
            return value.strip()
    return None


def _is_blank(content: object) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, Mapping) and _is_blank(part.get("text")) for part in content)
    return isinstance(content, str) and not content.strip()
