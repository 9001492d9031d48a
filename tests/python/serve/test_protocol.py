"""The protocol without a socket: what is understood, what is refused and how, and that is all."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.engine import Completion, Sampling, Usage
from nanochat.serve.protocol import Chat, Limits, Protocol, Refused, Stop

USER = [{"role": "user", "content": "hi"}]
LIMITS = Limits(context=100, message_bytes=2000, messages=5, requests=2)
DEFAULTS = Sampling(temperature=0.8, top_k=50, max_tokens=64)


def _protocol(**options: Any) -> Protocol:
    return Protocol(LIMITS, defaults=DEFAULTS, **options)


def _chat(request_id: Any = "a", messages: Any = USER, **fields: Any) -> str:
    return json.dumps({"type": "chat", "id": request_id, "messages": messages, **fields})


def _completion(reason: Any = "stop") -> Completion:
    return Completion([1], [1], "x", [], reason, 7, Usage(3, 1, 1.23456, 0.0, 2))


def test_a_chat_with_everything() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "6*7?"},
        {
            "role": "assistant",
            "content": [
                {"type": "python", "text": "6*7"},
                {"type": "python_output", "text": "42"},
                {"type": "text", "text": "42."},
            ],
        },
        {"role": "user", "content": "\u00e9\U0001f600"},
    ]
    sampling = {"temperature": 0, "top_k": None, "top_p": 0.5, "min_p": 0.1,
                "repetition_penalty": 1.5, "max_tokens": 9, "seed": 3, "stop": ["\n"],
                "whatever": 1, "logprobs": 5, "stop_ids": [1]}  # fmt: skip
    event = _protocol().receive(_chat("r1", messages, sampling=sampling, future=[1]))
    expected = Sampling(
        temperature=0, top_k=None, top_p=0.5, min_p=0.1, repetition_penalty=1.5, max_tokens=9,
        seed=3, stop=("\n",),
    )  # fmt: skip
    assert event == Chat("r1", messages, expected)


def test_what_is_left_out_takes_the_defaults() -> None:
    assert _protocol().receive(_chat()) == Chat("a", USER, DEFAULTS)
    event = _protocol().receive(_chat(sampling={"seed": 1}))
    assert isinstance(event, Chat)
    assert event.sampling == Sampling(temperature=0.8, top_k=50, max_tokens=64, seed=1)


def test_stop_is_accepted_whether_it_runs_or_not() -> None:
    protocol = _protocol()
    assert protocol.receive('{"type": "stop", "id": "a"}') == Stop("a")
    protocol.receive(_chat())
    assert protocol.receive('{"type": "stop", "id": "a"}') == Stop("a")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"{}", "frames must be text, got a binary one"),
        ("", "message is not JSON"),
        ("{", "message is not JSON"),
        ('{"type": "chat"} x', "message is not JSON"),
        ("[" * 1500, "nested too deeply"),
        ("9" * 1999, "message must be an object, got int"),
        ("[]", "message must be an object, got list"),
        ("{}", "type must be chat or stop, got None"),
        ('{"type": "shout"}', "type must be chat or stop, got 'shout'"),
        ('{"type": ["chat"]}', "type must be chat or stop"),
        ('{"type": "chat"}', "id must be text of 1 to 64 characters, got None"),
        (_chat(1), "id must be text of 1 to 64 characters, got 1"),
        (_chat(""), "id must be text"),
        (_chat("x" * 65), "id must be text"),
        (_chat(messages=None), "messages must be a list, got NoneType"),
        (_chat(messages={}), "messages must be a list, got dict"),
        (_chat(messages=[]), "at least one user message"),
        (_chat(messages=["hi"]), "message 0 must have a"),
        (_chat(messages=[{"role": "user"}]), "message 0 must have a"),
        (_chat(messages=[{"role": "user", "content": 1}]), "must be text, got int"),
        (_chat(messages=[{"role": "robot", "content": "hi"}]), "must be user, got 'robot'"),
        (_chat(messages=[{"role": [], "content": "hi"}]), "must be user, got []"),
        (_chat(messages=USER * 2), "roles must alternate"),
        (_chat(messages=[*USER, {"role": "assistant", "content": "a"}]), "last message must be"),
        (
            _chat(messages=[*USER, {"role": "assistant", "content": [{"type": "x"}]}, *USER]),
            "part 0 of message 1",
        ),
        (_chat(sampling=[]), "sampling must be an object, got list"),
        (_chat(sampling={"temperature": "hot"}), "temperature must be 0 to 5, got 'hot'"),
        (_chat(sampling={"temperature": -1}), "temperature must be 0 to 5, got -1"),
        (_chat(sampling={"temperature": float("nan")}), "temperature must be 0 to 5, got nan"),
        (_chat(sampling={"temperature": float("inf")}), "temperature must be 0 to 5, got inf"),
        (_chat(sampling={"temperature": True}), "temperature must be 0 to 5, got True"),
        (_chat(sampling={"top_k": 0}), "top_k must be at least 1 or none, got 0"),
        (_chat(sampling={"top_k": 1.5}), "top_k must be at least 1 or none, got 1.5"),
        (_chat(sampling={"top_p": 0}), "top_p must be above 0 and at most 1, got 0"),
        (_chat(sampling={"min_p": -0.1}), "min_p must be 0 to 1, got -0.1"),
        (_chat(sampling={"min_p": None}), "min_p must be 0 to 1, got None"),
        (_chat(sampling={"min_p": 10**400}), "min_p must be 0 to 1, got 1000"),
        (_chat(sampling={"repetition_penalty": 0}), "must be 0.1 to 10, got 0"),
        (_chat(sampling={"repetition_penalty": "2"}), "must be 0.1 to 10, got '2'"),
        (_chat(sampling={"temperature": 10**400}), "temperature must be 0 to 5, got 1000"),
        (_chat(sampling={"max_tokens": 0}), "max_tokens must be at least 1, got 0"),
        (_chat(sampling={"seed": 2**53}), "seed must be 0 to 2**53 - 1, got 9007199254740992"),
        (_chat(sampling={"stop": "x"}), "stop must be at most 8 texts of 1 to 64 characters"),
        (_chat(sampling={"stop": [""]}), "stop must be at most 8 texts of 1 to 64 characters"),
        (_chat(sampling={"stop": ["x"] * 9}), "stop must be at most 8 texts"),
    ],
)
def test_bad_requests_say_what_is_wrong(frame: str | bytes, message: str) -> None:
    protocol = _protocol()
    event = protocol.receive(frame)
    assert isinstance(event, Refused)
    assert event.code == "bad_request"
    assert message in event.message
    assert isinstance(protocol.receive(_chat()), Chat)  # the socket lives on


def test_limits() -> None:
    protocol = _protocol()
    long = [{"role": "user", "content": "x" * 2000}]
    event = protocol.receive(_chat(messages=long))
    assert isinstance(event, Refused)
    assert (event.id, event.code) == (None, "too_long")
    assert "may have 2000 bytes, got" in event.message
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 3
    event = protocol.receive(_chat(messages=turns[:-1] + USER))
    assert event == Refused("a", "too_long", "a conversation may have 5 messages, got 6")
    assert isinstance(protocol.receive(_chat("a")), Chat)
    assert isinstance(protocol.receive(_chat("b")), Chat)
    event = protocol.receive(_chat("c"))
    assert isinstance(event, Refused)
    assert (event.id, event.code) == ("c", "busy")
    protocol.done("a", _completion())
    assert isinstance(protocol.receive(_chat("c")), Chat)


def test_an_id_runs_once_at_a_time() -> None:
    protocol = _protocol()
    protocol.receive(_chat("a"))
    event = protocol.receive(_chat("a"))
    # Without an id, so that nobody takes the request that runs for the one refused.
    assert event == Refused(None, "bad_request", "id 'a' is already running")
    protocol.error("a", "internal", "broken")
    assert isinstance(protocol.receive(_chat("a")), Chat)


def test_tokens() -> None:
    protocol = _protocol(token="s\u00e9same")
    for shown in ({}, {"token": "wrong"}, {"token": 1}, {"token": "\ud800"}):
        event = protocol.receive(_chat(**shown))
        assert isinstance(event, Refused)
        assert (event.id, event.code) == ("a", "unauthorized")
    assert isinstance(protocol.receive(_chat("a", token="s\u00e9same")), Chat)
    assert isinstance(protocol.receive(_chat("b")), Chat)  # said once is enough
    assert isinstance(_protocol(token="x", is_authorized=True).receive(_chat()), Chat)


def test_what_the_server_says() -> None:
    protocol = _protocol()
    said = [
        protocol.hello({"name": "m"}),
        protocol.start("a", prompt_tokens=3, cached_tokens=2, dropped_messages=1, seed=7),
        protocol.delta("a", "\u00e9"),
        protocol.error(None, "bad_request", "what?"),
        protocol.tool("a", code="6*7", output="42"),
        protocol.done("a", _completion()),
        protocol.start("a", prompt_tokens=3, cached_tokens=2, dropped_messages=1, seed=7),
    ]
    assert [json.loads(frame) for frame in said] == [
        {
            "type": "hello", "seq": 0, "protocol": 1, "model": {"name": "m"},
            "limits": {"context": 100, "message_bytes": 2000, "messages": 5, "requests": 2},
            "defaults": {"temperature": 0.8, "top_k": 50, "top_p": 1.0, "min_p": 0.0,
                         "repetition_penalty": 1.0, "max_tokens": 64, "seed": None, "stop": []},
        },
        {
            "type": "start", "id": "a", "seq": 0, "prompt_tokens": 3, "cached_tokens": 2,
            "dropped_messages": 1, "seed": 7,
        },
        {"type": "delta", "id": "a", "seq": 1, "text": "\u00e9"},
        {"type": "error", "seq": 1, "code": "bad_request", "message": "what?"},
        {"type": "tool", "id": "a", "seq": 2, "name": "calculator", "input": "6*7", "output": "42"},
        {
            "type": "done", "id": "a", "seq": 3, "reason": "stop", "seed": 7,
            "usage": {"prompt_tokens": 3, "cached_tokens": 2, "completion_tokens": 1,
                      "ttft_ms": 1.235, "tokens_per_second": 0.0},
        },
        {
            "type": "start", "id": "a", "seq": 0, "prompt_tokens": 3, "cached_tokens": 2,
            "dropped_messages": 1, "seed": 7,
        },
    ]  # fmt: skip


def test_error_messages_do_not_echo_without_end() -> None:
    protocol = _protocol()
    event = protocol.receive(json.dumps({"type": "y" * 1500}))
    assert isinstance(event, Refused)
    frame = protocol.error(event.id, event.code, event.message)
    assert len(json.loads(frame)["message"]) == 300


# Fuzz: nothing raises, refusals can be sent, and the number of running requests stays in bounds.

_JUNK: list[Any] = [
    None, True, 0, -1, 1.5, 1e999, 10**400, "", "a", "user", "assistant", "system", "\ud800", "\0",
    [], {}, [[]], [None], {"": {}}, {"role": "user"}, {"type": "text", "text": "x"}, "x" * 400,
]  # fmt: skip

_SEEDS: list[Any] = [
    {"type": "stop", "id": "a"},
    {"type": "chat", "id": "a", "messages": USER, "token": "t"},
    {
        "type": "chat", "id": "b", "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [{"type": "python", "text": "1"}]},
            {"role": "user", "content": "v"},
        ],
        "sampling": {"temperature": 1, "top_k": 5, "top_p": 0.5, "min_p": 0.1,
                     "repetition_penalty": 2, "max_tokens": 4, "seed": 1, "stop": ["x"]},
    },
]  # fmt: skip


def _mutate(rng: random.Random, value: Any) -> Any:
    """``value`` with one node somewhere replaced by junk, dropped or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key if kind < 0.9 else rng.choice("xyz"): _mutate(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        i = rng.randrange(len(value))
        new = [] if rng.random() < 0.2 else [_mutate(rng, value[i])]
        return value[:i] + new + value[i + rng.randrange(2) :]
    return rng.choice(_JUNK)


def _hostile_frame(rng: random.Random) -> str | bytes:
    value = rng.choice(_SEEDS)
    for _ in range(rng.randrange(4)):
        value = _mutate(rng, value)
    frame = json.dumps(value)
    for _ in range(rng.choice([0, 0, 0, 1, 3])):  # cut, insert or change a character
        i = rng.randrange(len(frame) + 1)
        frame = (
            frame[:i] + rng.choice(["", "{", '"', "\ud800", "]"]) + frame[i + rng.randrange(3) :]
        )
    return frame.encode("utf-8", "replace") if rng.random() < 0.02 else frame


def _receive_all(frames: Iterable[str | bytes], protocol: Protocol) -> Counter[str]:
    """Events by kind; a random running request ends when there are too many."""
    kinds: Counter[str] = Counter()
    running: list[str] = []
    for frame in frames:
        event = protocol.receive(frame)
        kinds[type(event).__name__] += 1
        if isinstance(event, Refused):
            assert event.id not in running
            protocol.error(event.id, event.code, event.message).encode("ascii")
            if event.code == "busy":
                protocol.done(running.pop(0), _completion())
        elif isinstance(event, Chat):
            running.append(event.id)
            assert len(running) <= LIMITS.requests
            protocol.start(event.id, prompt_tokens=1, cached_tokens=0, dropped_messages=0, seed=1)
    for request_id in running:
        protocol.done(request_id, _completion())
    assert isinstance(protocol.receive(_chat("z", token="t")), Chat)  # and still at your service
    return kinds


@pytest.mark.parametrize("token", [None, "t"])
def test_ten_thousand_hostile_frames(token: str | None) -> None:
    rng = random.Random(5)
    frames = (_hostile_frame(rng) for _ in range(10_000))
    kinds = _receive_all(frames, _protocol(token=token))
    assert min(kinds["Chat"], kinds["Stop"], kinds["Refused"]) > 100  # all doors were tried


@given(st.lists(st.binary(max_size=30) | st.text(max_size=30)))
def test_any_text_and_any_bytes(frames: list[str | bytes]) -> None:
    assert _receive_all(frames, _protocol()).keys() <= {"Refused"}
