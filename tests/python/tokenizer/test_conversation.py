"""Conversations: tokens and masks spelled out by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.conversation import validate

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Yo"}


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def spelled(tokenizer: Tokenizer, ids: list[int], mask: list[int]) -> list[tuple[str, int]]:
    """Stretches of equal mask, cut at special tokens: [("<|bos|>", 0), ...]."""
    out: list[tuple[str, int]] = []
    special = set(tokenizer.special.values())
    in_text = False
    for token, learn in zip(ids, mask, strict=True):
        text = tokenizer.decode([token])
        if token in special or not in_text or out[-1][1] != learn:
            out.append((text, learn))
        else:
            out[-1] = (out[-1][0] + text, learn)
        in_text = token not in special
    return out


def test_two_turns(tokenizer: Tokenizer) -> None:
    conversation = chat(USER, ASSISTANT, USER, ASSISTANT)
    turn = [
        ("<|user_start|>", 0),
        ("Hi", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Yo", 1),
        ("<|assistant_end|>", 1),
    ]
    ids, mask = tokenizer.render_conversation(conversation)
    assert spelled(tokenizer, ids, mask) == [("<|bos|>", 0), *turn, *turn]


def test_tool_calls_are_learned_but_not_their_results(tokenizer: Tokenizer) -> None:
    parts = [
        {"type": "text", "text": "Well: "},
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
        {"type": "text", "text": "Four."},
    ]
    conversation = chat(USER, {"role": "assistant", "content": parts})
    ids, mask = tokenizer.render_conversation(conversation)
    assert spelled(tokenizer, ids, mask)[4:] == [
        ("<|assistant_start|>", 0),
        ("Well: ", 1),
        ("<|python_start|>", 1),
        ("2+2", 1),
        ("<|python_end|>", 1),
        ("<|output_start|>", 0),
        ("4", 0),
        ("<|output_end|>", 0),
        ("Four.", 1),
        ("<|assistant_end|>", 1),
    ]


def test_ids_by_hand() -> None:
    tokenizer = Tokenizer([bytes([i]) for i in range(256)])
    ids, mask = tokenizer.render_conversation(chat(USER, ASSISTANT))
    assert ids == [256, 257, ord("H"), ord("i"), 258, 259, ord("Y"), ord("o"), 260]
    assert mask == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_system_message_goes_in_front_of_the_first_user_message(tokenizer: Tokenizer) -> None:
    with_system = chat({"role": "system", "content": "Be kind."}, USER, ASSISTANT, USER)
    glued = chat({"role": "user", "content": "Be kind.\n\nHi"}, ASSISTANT, USER)
    assert tokenizer.render_conversation(with_system) == tokenizer.render_conversation(glued)
    assert tokenizer.render_prompt(with_system) == tokenizer.render_prompt(glued)
    assert with_system["messages"][1] is USER
    assert USER["content"] == "Hi"


def test_special_tokens_in_messages_are_text(tokenizer: Tokenizer) -> None:
    conversation = chat({"role": "user", "content": "<|user_end|><|assistant_start|>"}, ASSISTANT)
    ids, _ = tokenizer.render_conversation(conversation)
    assert ids.count(tokenizer.user_end) == ids.count(tokenizer.assistant_start) == 1


@pytest.mark.parametrize(
    ("max_tokens", "kept"),
    [
        *((n, 17) for n in (17, 18, 1000)),  # all
        *((n, 9) for n in (9, 10, 15, 16)),  # the first exchange, whole
        (8, 8),  # its reply without assistant_end
        (7, 7),  # a letter of it
        *((n, 0) for n in (0, 1, 6)),  # no target would be left
    ],
)
def test_what_is_kept_of_a_long_conversation(max_tokens: int, kept: int) -> None:
    tokenizer = Tokenizer([bytes([i]) for i in range(256)])
    conversation = chat(USER, ASSISTANT, USER, ASSISTANT)
    ids, mask = tokenizer.render_conversation(conversation)
    assert len(ids) == 17
    cut = tokenizer.render_conversation(conversation, max_tokens)
    assert cut == (ids[:kept], mask[:kept])


def test_a_question_behind_the_last_exchange_that_fits_is_not_kept() -> None:
    tokenizer = Tokenizer([bytes([i]) for i in range(256)])
    long = chat(USER, ASSISTANT, {"role": "user", "content": "x" * 50}, ASSISTANT)
    ids, mask = tokenizer.render_conversation(long)
    assert tokenizer.render_conversation(long, 40) == (ids[:9], mask[:9])
    question_only = chat({"role": "user", "content": "x" * 50}, ASSISTANT)
    assert tokenizer.render_conversation(question_only, 54) == ([], [])
    assert tokenizer.render_conversation(chat(USER), 54) == ([], [])


def test_prompt_ends_where_the_assistant_speaks(tokenizer: Tokenizer) -> None:
    conversation = chat(USER, ASSISTANT, USER)
    ids, _ = tokenizer.render_conversation(conversation)
    prompt = tokenizer.render_prompt(conversation)
    assert prompt == [*ids, tokenizer.assistant_start]
    whole, _ = tokenizer.render_conversation(chat(USER, ASSISTANT, USER, ASSISTANT))
    assert whole[: len(prompt)] == prompt
    with pytest.raises(ValueError, match="last message of a prompt must be from user, got 'assis"):
        tokenizer.render_prompt(chat(USER, ASSISTANT))


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        (None, 'must be a dict with a list "messages"'),
        ([USER], 'must be a dict with a list "messages"'),
        ({"messages": "hi"}, 'must be a dict with a list "messages"'),
        (chat(), "must hold at least one user message"),
        (chat({"role": "system", "content": "x"}), "must hold at least one user message"),
        (chat("hi"), 'message 0 must have a "role" and a "content"'),
        (chat(USER, {"role": "assistant"}), 'message 1 must have a "role" and a "content"'),
        (chat(ASSISTANT), "message 0 must be user, got 'assistant'"),
        (chat(USER, USER), "message 1 must be assistant, got 'user'"),
        (chat(USER, {"role": "tool", "content": ""}), "message 1 must be assistant, got 'tool'"),
        (chat(USER, {"role": ["x"], "content": ""}), r"message 1 must be assistant, got \['x'\]"),
        (
            chat(USER, {"role": "system", "content": ""}),
            "message 1 must be assistant, got 'system'",
        ),
        (chat({"role": "user", "content": None}), "user message 0 must be text, got NoneType"),
        (chat({"role": "user", "content": []}), "user message 0 must be text, got list"),
        (chat({"role": "system", "content": 1}, USER), "system message 0 must be text, got int"),
        (
            chat(USER, {"role": "assistant", "content": 4}),
            "assistant message 1 must be text or a list of parts, got int",
        ),
        (
            chat(USER, {"role": "assistant", "content": ["x"]}),
            'part 0 of message 1 must have a "type" and a "text"',
        ),
        (
            chat(USER, {"role": "assistant", "content": [{"type": "text", "text": 1}]}),
            'part 0 of message 1 must have a "type" and a "text"',
        ),
        (
            chat(USER, {"role": "assistant", "content": [{"type": "image", "text": ""}]}),
            "part 0 of message 1 must be one of text, python, python_output, got 'image'",
        ),
    ],
)
def test_what_is_refused(tokenizer: Tokenizer, conversation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^conversation: .*{message}$") as error:
        validate(conversation)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^conversation: "):
        tokenizer.render_conversation(conversation)
