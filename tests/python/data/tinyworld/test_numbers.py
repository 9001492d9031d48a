import re

import pytest

from nanochat.data.tinyworld import numbers
from nanochat.data.tinyworld.draw import Draw
from nanochat.engine.calculator import calculate


def _operands(code: str) -> tuple[int, int]:
    for operator in "+*-":
        if operator in code:
            a, b = code.split(operator)
            return int(a), int(b)
    raise AssertionError(code)


def test_the_tool_gives_the_stated_result() -> None:
    for index in range(500):
        exchange = numbers.arithmetic(Draw(2, "train", "a", index))
        assert calculate(exchange.code) == exchange.output
        assert exchange.say.endswith(f" is {exchange.output}.")


def test_pairs_of_operands_are_disjoint() -> None:
    train, val = (
        {
            tuple(sorted(_operands(numbers.arithmetic(Draw(3, split, "a", i)).code)))
            for i in range(3000)
        }
        for split in ("train", "val")
    )
    assert not train & val
    assert max(max(pair) for pair in train | val) <= numbers.MAX_OPERAND


def test_counts_are_disjoint_and_right() -> None:
    seen = []
    for split in ("train", "val"):
        exchanges = [numbers.counting(Draw(3, split, "c", i)) for i in range(1500)]
        seen.append({exchange.answer for exchange in exchanges})
        for exchange in exchanges:
            found = [int(n) for n in exchange.answer.split(", ")]
            assert found == list(range(found[0], found[-1] + 1))
            asked = [int(n) for n in re.findall(r"\d+", exchange.ask)]
            assert asked in ([found[0], found[-1]], [found[-1]])
            assert len(asked) == 2 or found[0] == 1
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    ("ask", "say"),
    [
        ("day after Sunday", "The day after Sunday is Monday."),
        ("month before January", "The month before January is December."),
        ("letter after y", "The letter after y is z."),
        ("number before 42", "The number before 42 is 41."),
    ],
)
def test_orders(ask: str, say: str) -> None:
    exchanges = (numbers.sequence(Draw(0, "train", "o", i)) for i in range(20_000))
    assert next(e for e in exchanges if ask in e.ask).say == say


def test_no_order_runs_over_its_end() -> None:
    for index in range(3000):
        exchange = numbers.sequence(Draw(4, "val", "o", index))
        assert "after z" not in exchange.ask
        assert "before a?" not in exchange.ask
        assert exchange.answer not in exchange.rivals


def test_sums_in_words() -> None:
    says = {numbers.word_sum(Draw(0, "train", "w", i)).say for i in range(3000)}
    assert {"Two plus three is five.", "Ten minus ten is zero.", "Ten plus ten is twenty."} <= says
