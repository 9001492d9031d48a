import pytest

from nanochat.data.tinyworld import tables, talk
from nanochat.data.tinyworld.draw import Draw, held_out


@pytest.mark.parametrize("intent", talk.INTENTS, ids=lambda intent: intent.name)
def test_held_out_wordings_are_not_in_train(intent: talk.Intent) -> None:
    every_train = {text.lower() for other in talk.INTENTS for text in other.asks.train}
    assert not every_train & {text.lower() for text in intent.asks.val}


def test_no_wording_belongs_to_two_intents() -> None:
    owner: dict[str, str] = {}
    for intent in talk.INTENTS:
        for text in (*intent.asks.train, *intent.asks.val):
            assert owner.setdefault(text.lower(), intent.name) == intent.name


def test_outside_questions_are_refused_and_split_by_topic() -> None:
    asked = {"train": "", "val": ""}
    for split in asked:
        for index in range(1500):
            exchange = talk.outside(Draw(1, split, "o", index))  # type: ignore[arg-type]
            assert exchange.say.startswith(talk.REFUSAL)
            asked[split] += exchange.ask + "\n"
    for topic in talk.TOPICS:
        # a held-out topic may still occur inside another one, so look for it at the end
        assert (f"Explain {topic}." in asked["train"]) <= (not held_out(f"outside:{topic}"))
        assert (f"Please explain {topic}." in asked["val"]) <= held_out(f"outside:{topic}")


def test_no_question_is_refused_that_the_tables_answer() -> None:
    known = {*tables.CAPITALS, *tables.OPPOSITES, *tables.KINDS}
    assert not known & {*talk.TOPICS, *talk.PLACES}


def test_a_name_that_was_said_is_remembered() -> None:
    told, asked = talk.meet(Draw(1, "val", "m", 0))
    assert told.answer in told.ask
    assert asked.say == f"Your name is {told.answer}."
