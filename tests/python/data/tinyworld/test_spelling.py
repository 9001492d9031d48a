import re

from nanochat.data.tinyworld import spelling
from nanochat.data.tinyworld.documents import document
from nanochat.data.tinyworld.draw import Draw
from nanochat.data.tinyworld.tables import WORDS
from nanochat.engine.calculator import calculate


def test_words_are_split() -> None:
    train, val = spelling.words("train"), spelling.words("val")
    assert not set(train) & set(val)
    assert set(train) | set(val) == set(WORDS)
    assert len(val) >= 20


def test_train_never_asks_about_a_held_out_word() -> None:
    held_out = set(spelling.words("val"))
    for index in range(2000):
        for make in (spelling.spell, spelling.count_letter):
            exchange = make(Draw(1, "train", "w", index))
            spelled = re.findall(r"[a-z]{3,}", exchange.say)[-1 if exchange.code else 1 :]
            assert not held_out & set(spelled)


def test_documents_state_the_letters_of_every_word() -> None:
    text = "\n".join(document(i, split="train", seed=1) for i in range(6000))
    missing = [word for word in WORDS if spelling.spelled(word) not in text]
    assert not missing


def test_the_tool_counts_as_stated() -> None:
    for index in range(300):
        exchange = spelling.count_letter(Draw(1, "val", "c", index))
        assert calculate(exchange.code) == exchange.output
    _, code, result = spelling.state_count(Draw(1, "train", "s", 0)).split("\n")
    assert result == f"The result is {calculate(code)}."


def test_the_tool_is_given_the_letters_of_the_word() -> None:
    exchange = spelling.count_letter(Draw(1, "val", "c", 0))
    word = exchange.say.split(" in ")[1].rstrip(".")
    assert exchange.code.startswith(f'"{"-".join(word)}".count("')
