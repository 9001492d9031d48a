"""The model's calculator: arithmetic, ``"text".count("x")`` and ``len("text")``, nothing else.

Two whitelists stand in a row. Tokens: numbers, quoted strings without backslash, operators,
parentheses, ``len`` and ``.count``; commas between groups of three digits are dropped. Nodes of the
syntax tree: what those tokens are meant to form. There is no eval, no name look-up, no clock and no
signal; the limits below bound the work to well under a millisecond.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

MAX_CHARS = 500
MAX_DEPTH = 40  # nested parentheses or signs
MAX_BITS = 512  # of an integer result: about 150 digits
MAX_ERROR_CHARS = 60

_TOKEN = re.compile(
    r"""
    (?P<space> \s+ )
  | (?P<string> "[^"\\\r\n]*" | '[^'\\\r\n]*' )
  | (?P<number> (?: (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ ) (?:\.\d*)? | \.\d+ ) (?:[eE][+-]?\d+)? )
  | (?P<name> \.count\b | len\b )
  | (?P<operator> \*\* | // | [-+*/%(),] )
    """,
    re.VERBOSE | re.ASCII,
)

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class CalculatorError(ValueError):
    """The expression is not one of ours, or has no value; the message is short, for the model."""


def calculate(expression: str) -> str:
    """Value of ``expression`` as text: integers (also 6 / 2) without a point, others to 10 digits.

    Raises: CalculatorError for anything outside the grammar, a limit, a division by zero.
    """
    if len(expression) > MAX_CHARS:
        raise CalculatorError(f"longer than {MAX_CHARS} characters")
    source = _normalize(expression)
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise CalculatorError("not an expression") from None
    try:
        return _format(_number(tree.body, MAX_DEPTH))
    except ZeroDivisionError:
        raise CalculatorError("division by zero") from None
    except OverflowError:
        raise CalculatorError("number too large") from None


def calculate_or_explain(expression: str) -> str:
    """What the model is shown: the value, or ``error: <why>``."""
    try:
        return calculate(expression)
    except CalculatorError as error:
        return f"error: {error}"[:MAX_ERROR_CHARS]


def _normalize(expression: str) -> str:
    """The tokens joined by spaces, so that two of them never fuse into something else."""
    parts = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise CalculatorError(f"cannot read {expression[position : position + 10]!r}")
        position = match.end()
        if match.lastgroup == "number":
            parts.append(match.group().replace(",", ""))
        elif match.lastgroup != "space":
            parts.append(match.group())
    return " ".join(parts)


def _number(node: ast.expr, depth: int) -> float:
    if depth == 0:
        raise CalculatorError("nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as value):
            result: float = value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            result = -_number(operand, depth - 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            result = _number(operand, depth - 1)
        case ast.BinOp(left=left, op=op, right=right):
            result = _binary(op, _number(left, depth - 1), _number(right, depth - 1))
        case ast.Call(func=ast.Attribute(value=text, attr="count"), args=[part], keywords=[]):
            result = _string(text).count(_string(part))
        case ast.Call(func=ast.Name(id="len"), args=[text], keywords=[]):
            result = len(_string(text))
        case _:
            raise CalculatorError("not an expression")
    if isinstance(result, int):
        if result.bit_length() > MAX_BITS:
            raise CalculatorError("number too large")
    elif not math.isfinite(result):
        raise CalculatorError("number too large")
    return result


def _binary(op: ast.operator, left: float, right: float) -> float:
    if isinstance(op, ast.Pow):
        return _power(left, right)
    return _BINARY[type(op)](left, right)


def _power(base: float, exponent: float) -> float:
    """Checked before it is computed: the cost of an integer power is the size of its result."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if (abs(base).bit_length() - 1) * exponent > MAX_BITS:  # a lower bound on log2
            raise CalculatorError("number too large")
        return int(base**exponent)
    if base < 0 and exponent != int(exponent):
        raise CalculatorError("root of a negative number")
    return float(base**exponent)


def _string(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
    raise CalculatorError("count and len want quoted text")


def _format(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.10g}"
