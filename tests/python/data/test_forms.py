"""Rows in the forms that people keep, and what is refused in a few words."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.data.forms import conversation_of

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HI, "id": 7},
        {"messages": [says("system", " "), *HI]},
        {"messages": [*HI, says("user", "And?")]},
        {"messages": [says("user", [{"type": "text", "text": t} for t in "Hi"]), HI[1]]},
        {"messages": [{**HI[0], "name": "x"}, HI[1]]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
        {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Yo"}]},
        {"instruction": "Hi", "output": "Yo", "category": "talk"},
        {"instruction": " Hi\n", "input": "", "output": "Yo"},
        {"instruction": "Hi", "context": None, "response": "Yo\n"},
        {"prompt": "Hi", "completion": " Yo"},
        {"question": "Hi", "answer": "Yo"},
    ],
)  # fmt: skip
def test_forms_of_one_exchange(row: dict[str, Any]) -> None:
    assert conversation_of(row) == {"messages": HI}


def test_what_is_given_stands_behind_the_instruction() -> None:
    for field in "input", "context":
        row = {"instruction": "Translate.", field: "Bonjour", "output": "Hello"}
        assert conversation_of(row)["messages"][0]["content"] == "Translate.\n\nBonjour"


def test_system_messages_and_tool_calls_stay() -> None:
    parts = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    messages = [says("system", "Be brief."), says("user", "1+1?"), says("assistant", parts)]
    assert conversation_of({"messages": messages}) == {"messages": messages}
    row = {"conversations": [{"from": m["role"], "value": m["content"]} for m in messages]}
    assert conversation_of(row) == {"messages": messages}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "must be an object, got list"),
        (None, "must be an object, got NoneType"),
        ({}, r"neither 'messages' nor 'instruction' \(or prompt, question\)"),
        ({"text": "a document"}, "neither 'messages' nor 'instruction'"),
        ({"instruction": "Hi"}, r"nor 'output' \(or response, completion, answer\)"),
        ({"instruction": 3, "output": "Yo"}, "'instruction' must be text, got int"),
        ({"instruction": "Hi", "input": ["x"], "output": "Yo"}, "'input' must be text, got list"),
        ({"instruction": "Hi", "output": " "}, "message 1 is empty"),
        ({"instruction": "", "output": "Yo"}, "message 0 is empty"),
        ({"messages": "Hi"}, "'messages' must be a list, got str"),
        ({"messages": None}, "'messages' must be a list, got NoneType"),
        ({"messages": []}, "no message of an assistant"),
        ({"messages": [says("system", "Be brief.")]}, "no message of an assistant"),
        ({"messages": [HI[0]]}, "no message of an assistant"),
        ({"messages": ["Hi", "Yo"]}, "a message must have 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, "a message must have 'role' and 'content'"),
        ({"messages": [HI[0], says("assistant", "")]}, "message 1 is empty"),
        ({"messages": [HI[0], says("assistant", [])]}, "message 1 is empty"),
        ({"messages": [says("user", "\n"), HI[1]]}, "message 0 is empty"),
        (
            {"messages": [says("user", [{"type": "image", "url": "x"}]), HI[1]]},
            "parts of a user message must be text",
        ),
        ({"messages": [says("user", ["Hi"]), HI[1]]}, "parts of a user message must be text"),
        ({"conversations": [{"role": "user"}]}, "a message must have 'from' and 'value'"),
    ],
)
def test_what_is_refused(row: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        conversation_of(row)
