"""Sanity of the facts: nothing answered twice, nothing that contradicts itself."""

import pytest

from nanochat.data.tinyworld import tables


def test_a_subject_cannot_be_answered_twice() -> None:
    with pytest.raises(AssertionError, match="dog is answered twice"):
        tables._pairs("dog:woof, cat:meow, dog:bark")


def test_opposites_are_mutual_and_unique() -> None:
    assert all(tables.OPPOSITES[b] == a for a, b in tables.OPPOSITES.items())
    assert len(tables.OPPOSITES) == 130  # 65 pairs; a word in two pairs would make it fewer


def test_every_country_has_its_own_capital_and_a_continent() -> None:
    assert len(set(tables.CAPITALS.values())) == len(tables.CAPITALS) >= 50
    assert tables.CAPITALS.keys() - tables.CONTINENTS.keys() == {"Russia", "Turkey"}
    assert set(tables.CONTINENTS.values()) == {
        "Europe", "Asia", "Africa", "North America", "South America", "Oceania",
    }  # fmt: skip


def test_tables_agree_with_each_other() -> None:
    for country in ("France", "Japan", "Kenya"):
        assert tables.KINDS[country] == "country"
        assert country in tables.CAPITALS
    for city in ("Paris", "London", "Tokyo"):
        assert tables.KINDS[city] == "city"
        assert city in tables.CAPITALS.values()
    assert all(len(tables.NUMBER_WORDS) > n for n in (2 * 10,))
    assert set(tables.LEGS.values()) == {"no", "two", "four", "six", "eight", "ten"}


def test_words_are_plain_and_different() -> None:
    assert len(set(tables.WORDS)) == len(tables.WORDS) >= 200
    assert all(word.isascii() and word.islower() and word.isalpha() for word in tables.WORDS)
    assert "strawberry" in tables.WORDS
