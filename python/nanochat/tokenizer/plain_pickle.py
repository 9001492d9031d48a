"""The state inside a pickle, read without unpickling.

``pickle.Unpickler`` with a strict ``find_class`` is not enough: REDUCE and BUILD still call what it
returned, EXT codes are looked up in a cache before ``find_class`` is asked, and a few bytes of
LONG_BINPUT or BYTEARRAY8 make it allocate gigabytes. So this is an interpreter of its own over
``pickletools.genops``, which only cuts the file into opcodes and arguments: it knows no operation
that imports or calls, a class is its name, and all it can build are dicts, str, bytes and int.
Each opcode costs constant memory beyond its argument, hence the whole is bounded by the file.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass

# Protocols below 3 have no bytes: they are written as a call of this function on Latin-1 text.
_ENCODE = "_codecs.encode"


@dataclass(frozen=True)
class _Global:
    """The name of a class or function; nothing is looked up."""

    name: str


@dataclass
class _Object:
    """An instance of the one known class, before BUILD (no state) or after."""

    state: object = None


def read_state(data: bytes, class_name: str) -> object:
    """State of the one instance of ``class_name`` that ``data`` is a pickle (protocol 2 to 5) of.

    Returns: What its ``__getstate__`` gave: dict (keys str or bytes), str, bytes or int, nested.
    Raises: ValueError if the file is damaged or asks for anything else.
    """
    machine = _Machine(class_name, budget=len(data))
    end = -1
    for opcode, argument, position in pickletools.genops(data):
        machine.step(opcode.name, argument)
        end = position or 0
    if end != len(data) - 1:
        raise ValueError(f"{len(data) - 1 - end} bytes after its end")
    if machine.marks or len(machine.stack) != 1 or not isinstance(machine.stack[0], _Object):
        raise ValueError(f"it must hold one {class_name}")
    return machine.stack[0].state


class _Machine:
    """Stack, marks and memo of the pickle language, and the 26 opcodes that plain state needs."""

    def __init__(self, class_name: str, budget: int) -> None:
        self.class_name = class_name
        self.stack: list[object] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}
        self._budget = budget  # bytes that _ENCODE may still make: honest files hold them as text

    def step(self, opcode: str, argument: object) -> None:
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case (
                "BININT" | "BININT1" | "BININT2" | "SHORT_BINBYTES" | "BINBYTES"
                | "SHORT_BINUNICODE" | "BINUNICODE"
            ):  # fmt: skip
                self.stack.append(argument)
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE2":
                second, first = self._pop(), self._pop()
                self.stack.append((first, second))
            case "MARK":
                self.marks.append(len(self.stack))
            case "SETITEM":
                self._set_items(len(self.stack) - 2)
            case "SETITEMS":
                self._set_items(self.marks.pop() if self.marks else -1)
            case "BINPUT" | "LONG_BINPUT" if isinstance(argument, int):
                self.memo[argument] = self._top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self._top()
            case "BINGET" | "LONG_BINGET" if argument in self.memo:
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self._push_global(str(argument).replace(" ", "."))
            case "STACK_GLOBAL":
                name, module = self._pop(), self._pop()
                self._push_global(f"{module}.{name}" if type(module) is type(name) is str else "?")
            case "NEWOBJ":
                self._new(self._pop(), self._pop())
            case "BUILD":
                state, target = self._pop(), self._top()
                if not isinstance(target, _Object) or target.state is not None:
                    raise ValueError("it sets the state of something else than a new object")
                target.state = state
            case "REDUCE":
                self._encode(self._pop(), self._pop())
            case _:
                raise ValueError(f"its opcode {opcode} is none that plain state needs")

    def _top(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes from an empty stack")
        return self.stack[-1]

    def _pop(self) -> object:
        self._top()
        return self.stack.pop()

    def _set_items(self, start: int) -> None:
        """The dict below ``start`` takes the keys and values above it."""
        is_there = start > (self.marks[-1] if self.marks else 0)
        target = self.stack[start - 1] if is_there else None
        items = self.stack[max(start, 0) :]
        if not isinstance(target, dict):
            raise ValueError("it sets items of something else than a dict")
        del self.stack[start:]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise ValueError(f"a key must be str or bytes, got {type(key).__name__}")
            target[key] = value

    def _push_global(self, name: str) -> None:
        if name not in (self.class_name, _ENCODE):
            raise ValueError(f"it asks for {name[:80]!r}, not for {self.class_name}")
        self.stack.append(_Global(name))

    def _new(self, arguments: object, cls: object) -> None:
        if cls != _Global(self.class_name) or arguments != ():
            raise ValueError(f"it makes something else than a {self.class_name}")
        self.stack.append(_Object())

    def _encode(self, arguments: object, function: object) -> None:
        match function, arguments:
            case _Global(name), (str(text), "latin1") if name == _ENCODE:
                self._budget -= len(text)  # one text, encoded over and over, would be a bomb
                if self._budget < 0:
                    raise ValueError("it makes more bytes than it holds")
                self.stack.append(text.encode("latin-1"))
            case _:
                raise ValueError("it calls a function")
