"""A conversation is a plain dict; here is what it may hold, and how it becomes tokens.

    {"messages": [{"role": "system", "content": "Be brief."},          optional, first
                  {"role": "user", "content": "2+2?"},
                  {"role": "assistant", "content": [{"type": "python", "text": "2+2"},
                                                    {"type": "python_output", "text": "4"},
                                                    {"type": "text", "text": "It is 4."}]}]}

    tokens  bos  user_start Be brief.\\n\\n2+2? user_end  assistant_start
    mask     0       0             0              0            0
    tokens  python_start 2+2 python_end  output_start 4 output_end  It is 4. assistant_end
    mask         1        1      1            0       0      0          1          1

The mask is 1 where the model is to learn: what the assistant says, but not what the tool answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanochat.tokenizer.tokenizer import Tokenizer

Conversation = Mapping[str, Any]

_PART_TYPES = ("text", "python", "python_output")


def validate(conversation: Conversation) -> None:
    """Check shape, roles and parts. Raises: ValueError that names the message, in one line."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, list):
        raise ValueError('conversation: must be a dict with a list "messages"')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f'conversation: message {i} must have a "role" and a "content"')
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not turns:
        raise ValueError("conversation: must hold at least one user message")
    first = len(messages) - len(turns)
    if first == 1:
        _validate_text(messages[0]["content"], 0, "system")
    for i, message in enumerate(turns, start=first):
        expected = "user" if (i - first) % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise ValueError(
                f"conversation: roles must alternate from user on, message {i} must be"
                f" {expected}, got {message['role']!r}"
            )
        if expected == "assistant" and isinstance(message["content"], list):
            _validate_parts(message["content"], i)
        else:
            _validate_text(message["content"], i, expected)


def _validate_text(content: object, i: int, role: str) -> None:
    if not isinstance(content, str):
        allowed = "text or a list of parts" if role == "assistant" else "text"
        raise ValueError(
            f"conversation: content of {role} message {i} must be {allowed},"
            f" got {type(content).__name__}"
        )


def _validate_parts(parts: list[object], i: int) -> None:
    for j, part in enumerate(parts):
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise ValueError(
                f'conversation: part {j} of message {i} must have a "type" and a "text"'
            )
        if part.get("type") not in _PART_TYPES:
            raise ValueError(
                f"conversation: part {j} of message {i} must be one of {', '.join(_PART_TYPES)},"
                f" got {part.get('type')!r}"
            )


def render(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Tokens of the whole conversation and the mask of those to learn."""
    validate(conversation)
    ids: list[int] = [tokenizer.bos]
    mask: list[int] = [0]

    def add(start: int | None, text: str, end: int | None, learn: int) -> None:
        for piece in ([start], tokenizer.encode(text), [end]):
            new = [token for token in piece if token is not None]
            ids.extend(new)
            mask.extend([learn] * len(new))

    for message in _with_system_glued(conversation):
        if message["role"] == "user":
            add(tokenizer.user_start, message["content"], tokenizer.user_end, 0)
            continue
        add(tokenizer.assistant_start, "", None, 0)
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                add(None, part["text"], None, 1)
            elif part["type"] == "python":
                add(tokenizer.python_start, part["text"], tokenizer.python_end, 1)
            else:
                add(tokenizer.output_start, part["text"], tokenizer.output_end, 0)
        add(None, "", tokenizer.assistant_end, 1)
    return ids, mask


def render_prompt(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Tokens up to the point where the assistant is to speak; the last message must be a user's."""
    ids, _ = render(tokenizer, conversation)
    role = conversation["messages"][-1]["role"]
    if role != "user":
        raise ValueError(
            f"conversation: the last message of a prompt must be from user, got {role!r}"
        )
    return [*ids, tokenizer.assistant_start]


def fit(
    tokenizer: Tokenizer, ids: list[int], mask: list[int], max_tokens: int
) -> tuple[list[int], list[int]]:
    """What of a rendered conversation is kept in ``max_tokens``: its first exchanges, whole.

    If not even one fits, the end of its reply is cut off, and with it assistant_end, so that
    nobody learns to stop there. Nothing is kept if no target would be left.
    """
    if len(ids) <= max_tokens:
        return (ids, mask) if any(mask) else ([], [])
    ends = (i for i in range(max_tokens, 0, -1) if ids[i - 1] == tokenizer.assistant_end)
    size = next(ends, max_tokens)
    return (ids[:size], mask[:size]) if any(mask[:size]) else ([], [])


def _with_system_glued(conversation: Conversation) -> list[Mapping[str, Any]]:
    """The turns; a system message goes in front of the first user message, a blank line between."""
    messages: list[Mapping[str, Any]] = conversation["messages"]
    if messages[0]["role"] != "system":
        return messages
    system, user, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]
