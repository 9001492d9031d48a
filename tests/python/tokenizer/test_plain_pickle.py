"""A pickle is read for its data: what honest ones hold comes back, all else is refused unrun."""

from __future__ import annotations

import copyreg
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tokenizer.plain_pickle import read_state


class Thing:
    """Pickles as ``state``."""

    def __init__(self, state: object) -> None:
        self.state = state

    def __getstate__(self) -> object:
        return self.state


NAME = f"{Thing.__module__}.{Thing.__qualname__}"
SHARED = b"twice" * 2
STATE = {
    "name": "x",
    "ranks": {b"a": 0, b"\xff\x00": 255, b"c" * 300: 70_000, SHARED: 1},
    "empty": {},
    "t\u00e9xt": "\uc6b0" * 100,
}
MANY = {"ranks": {b"%d" % i: i for i in range(3000)}, "shared": {SHARED: 1}}  # memo above 255


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's importlib mode leaves this module out of sys.modules, where pickle looks."""
    import sys

    module = type(sys)(Thing.__module__)
    module.Thing = Thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, Thing.__module__, module)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps])  # type: ignore[attr-defined]
def test_state_comes_back(protocol: int, dumps: Any) -> None:
    assert read_state(dumps(Thing(STATE), protocol), NAME) == STATE
    many = {**MANY, "again": MANY["shared"], "key": {SHARED: 1}}
    assert read_state(dumps(Thing(many), protocol), NAME) == many
    assert read_state(dumps(Thing("a name"), protocol), NAME) == "a name"


def test_another_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"asks for 'pathlib\._?.*Path', not for .*Thing"):
        read_state(pickle.dumps(Path("/")), NAME)
    with pytest.raises(ValueError, match=r"must hold one .*Thing"):
        read_state(pickle.dumps(7), NAME)


class Call:
    """Unpickles by calling ``function``."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


MARK = "this file is made by the pickle that runs"


def global_(name: str) -> bytes:
    module, function = name.split(" ")
    return f"c{module}\n{function}\n".encode()


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def attacks(command: str, code: str) -> dict[str, bytes]:
    """Pickles that run ``command`` in a shell or ``code`` in Python, each in its own way."""
    thing = global_(NAME.replace(".Thing", " Thing"))
    system = global_("posix system")
    return {
        "REDUCE os.system": pickle.dumps(Call(os.system, command)),
        "REDUCE eval, protocol 0": pickle.dumps(Call(eval, code), 0),
        "REDUCE in the state": pickle.dumps(Thing({"name": Call(os.system, command)})),
        "NEWOBJ": b"\x80\x02" + system + text(command) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + system + text(command) + b"\x85}\x92.",
        "INST": b"(S'" + command.encode() + b"'\niposix\nsystem\n.",
        "OBJ": b"(" + system + text(command) + b"o.",
        "BUILD __setstate__": (
            b"\x80\x02" + thing + b")\x81}" + text("__setstate__") + system + b"sb"
            + text(command) + b"b."
        ),
        "BUILD of the class itself": (
            b"\x80\x02" + thing + b"}" + text("__reduce__") + system + b"sb)R."
        ),
        "REDUCE of the known class": (
            b"\x80\x02" + thing + text(command) + text("latin1") + b"\x86R."
        ),
        "REDUCE of the known function": (
            b"\x80\x02" + global_("_codecs encode") + text(command) + text("rot13") + b"\x86R."
        ),
        "STACK_GLOBAL": (
            b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R."
        ),
        "STACK_GLOBAL of dotted names": (
            b"\x80\x04" + text(NAME) + text("__init__.__globals__") + b"\x93."
        ),
        "EXT1": b"\x80\x02\x82\xf0" + text(command) + b"\x85R.",
        "PERSID": b"P" + command.encode() + b"\n.",
        "BINPERSID": b"\x80\x02" + text(command) + b"Q.",
    }  # fmt: skip


ATTACKS = sorted(attacks("", ""))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_nothing(name: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    data = attacks(f"touch {proof}", f"open({str(proof)!r}, 'w').close()")[name]
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        copyreg._extension_cache[0xF0] = os.system  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"asks for|opcode|calls|makes|sets"):
            read_state(data, NAME)
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["REDUCE os.system", "REDUCE eval, protocol 0", "INST", "OBJ"])
def test_the_attacks_are_real(name: str, tmp_path: Path) -> None:
    """pickle itself runs them; else the test above would prove nothing."""
    proof = tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').close()"
    pickle.loads(attacks(f"touch {proof}", code)[name])
    assert proof.exists()


def test_memory_is_bounded_by_the_file() -> None:
    thing = global_(NAME.replace(".Thing", " Thing"))
    huge = (1 << 40).to_bytes(8, "little")
    for data in (
        b"\x80\x05\x96" + huge + b"x.",  # BYTEARRAY8
        b"\x80\x04\x8e" + huge + b"x.",  # BINBYTES8
        b"\x80\x04\x8d" + huge + b"x.",  # BINUNICODE8
        b"\x80\x02\x8b\xff\xff\xff\x7fx.",  # LONG4
    ):
        with pytest.raises(ValueError, match=r"expected|not enough data"):
            read_state(data, NAME)
    far = b"\x80\x02" + thing + b")\x81r\xff\xff\xff\xff" + text("name") + b"b."  # LONG_BINPUT
    assert read_state(far, NAME) == "name"
    # One long text, turned into bytes again and again.
    start = global_("_codecs encode") + b"q\x00" + text("x" * 1000) + b"q\x01" + text("latin1")
    again = b"h\x00h\x01h\x02\x86R"
    bomb = b"\x80\x02" + start + b"q\x02" + again * 1000 + b"."
    with pytest.raises(ValueError, match="makes more bytes than it holds"):
        read_state(bomb, NAME)


def test_shapes_that_break_a_naive_stack() -> None:
    thing = global_(NAME.replace(".Thing", " Thing"))
    for body in (
        b"0.", b"b.", b"s.", b"u.", b"(u.", b"}(X\x01\x00\x00\x00au.", b"}(s.", b"}(K\x01s.",
        b"\x86.", b"\x93.", b"\x81.", b"R.", b"q\x00.", b"\x94.", b"h\x00.", b"(.",
        b"}K\x01K\x01s.", thing + b".", thing + b")\x81" + thing + b")\x81.", b"}}K\x01s.",
        thing + b")\x81(.", thing + b")\x81}b}b.", b"}((}s(u.",
        global_("_codecs encode") + b")\x81.", thing + b"K\x01K\x01\x86\x81.",
        thing + b")\x81}(X\x01\x00\x00\x00aK\x01sub.", thing + b")\x81}(bu.",  # across a mark
    ):  # fmt: skip
        with pytest.raises(ValueError):
            read_state(b"\x80\x04" + body, NAME)


def test_depth_is_no_matter() -> None:
    deep = b"}X\x01\x00\x00\x00a" * 20_000 + b"K\x01" + b"s" * 20_000
    thing = global_(NAME.replace(".Thing", " Thing"))
    assert isinstance(read_state(b"\x80\x04" + thing + b")\x81" + deep + b"b.", NAME), dict)
    for end in (deep + b"\x93.", deep + b"R.", b"K\x01" + deep + b"\x93."):
        with pytest.raises(ValueError):
            read_state(b"\x80\x04" + deep + end, NAME)


def test_a_cut_or_longer_file_is_refused() -> None:
    data = pickle.dumps(Thing(STATE))
    for end in range(len(data)):
        with pytest.raises(ValueError):
            read_state(data[:end], NAME)
    with pytest.raises(ValueError, match="3 bytes after its end"):
        read_state(data + b"abc", NAME)


# genops decodes the argument of STRING, which is refused, with a warning for odd escapes.
ODD_ESCAPES = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")


@ODD_ESCAPES
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_state(data, NAME)


@ODD_ESCAPES
def test_bytes_changed_at_random_never_do_anything_else() -> None:
    draw = random.Random(1)
    honest = [pickle.dumps(Thing(STATE), protocol) for protocol in (2, 3, 4, 5)]
    read = 0
    for _ in range(8_000):
        data = bytearray(draw.choice(honest))
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            state = read_state(bytes(data), NAME)
        except ValueError:
            continue
        read += 1
        assert isinstance(state, dict | str | bytes | int | tuple)
    assert read > 0  # some changes are inside a text and stay readable
