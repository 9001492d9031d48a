import string

import pytest

from nanochat.data.tinyworld import facts
from nanochat.data.tinyworld.draw import Draw

RELATIONS = pytest.mark.parametrize("relation", facts.RELATIONS, ids=lambda r: r.name)


@RELATIONS
def test_every_fact_fills_every_wording(relation: facts.Relation) -> None:
    for template in (relation.say, *relation.states, *relation.asks.train, *relation.asks.val):
        slots = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        assert slots & {"s", "S", "as", "As"}, template
        for subject in relation.table:
            assert "{" not in relation.fill(template, subject)
    for template in (relation.say, *relation.states):
        assert any(slot in template for slot in ("{o}", "{O}", "{ao}", "{Ao}")), template


@RELATIONS
def test_held_out_wordings_are_not_in_train(relation: facts.Relation) -> None:
    assert not set(relation.asks.train) & set(relation.asks.val)


@RELATIONS
def test_held_out_wordings_use_words_of_train(relation: facts.Relation) -> None:
    def words(*texts: str) -> set[str]:
        return set(" ".join(texts).lower().replace("?", " ").replace(".", " ").split())

    known = words(*(t for r in facts.RELATIONS for t in r.asks.train))
    assert words(*relation.asks.val) <= known


def _listed(ask: str) -> dict[str, str]:
    """The choices of a question by letter."""
    lines = [line for line in ask.split("\n") if line.startswith("- ")]
    return dict(reversed(line.removeprefix("- ").split("=")) for line in lines)


def test_multiple_choice_offers_the_answer_once_under_its_letter() -> None:
    says = {
        r.question(s, Draw(0, "val", "q", i)): r.table[s]
        for r in facts.RELATIONS
        for s in r.table
        for i in range(9)
    }
    for index in range(500):
        exchange = facts.ask_choice(Draw(0, "val", "mc", index))
        choices = _listed(exchange.ask)
        assert list(choices) == ["A", "B", "C", "D"]
        assert len(set(choices.values())) == 4
        question, *_, instruction = exchange.ask.split("\n")
        assert exchange.say == f"{says[question]}={exchange.say[-1]}"
        assert choices[exchange.say[-1]] == says[question]
        assert exchange.answer == exchange.say
        assert exchange.say in exchange.choices
        assert "letter" in instruction


def test_the_right_letter_is_equally_often_each() -> None:
    letters = [facts.ask_choice(Draw(0, "train", "mc", i)).answer[-1] for i in range(2000)]
    assert all(420 < letters.count(letter) < 580 for letter in "ABCD")


def test_articles() -> None:
    assert facts.with_article("owl") == "an owl"
    assert facts.with_article("fox") == "a fox"
