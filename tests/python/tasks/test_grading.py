from decimal import Decimal

import pytest

from nanochat.tasks import grading


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [("B", True), (" B\n", True), ("b", False), ("The answer is B", False), ("", False)],
)
def test_is_exactly(reply: str, is_right: bool) -> None:
    assert grading.is_exactly("B")(reply) is is_right


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [
        ("37 + 58 is 95.", True),
        ("37+58\n95\n37 + 58 is 95.", True),
        ("95 is 37 + 58.", False),
        ("It is 195.", False),
        ("It is -95.", False),
        ("none", False),
    ],
)
def test_ends_with_number(reply: str, is_right: bool) -> None:
    assert grading.ends_with_number("95")(reply) is is_right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("#### $1,234.50.", "1234.5"),
        ("####-7", "-7"),
        ("#### -$7", "-7"),
        ("#### +.5", "0.5"),
        ("#### 3 of 4", "3"),
        ("#### 1\n#### 2", "2"),
    ],
)
def test_number_behind_marker(text: str, number: str) -> None:
    assert grading.number_behind_marker(text) == Decimal(number)


@pytest.mark.parametrize("text", ["18", "18 ####", "#### none", "### 18", "", "#### \u0663"])
def test_no_number_behind_a_marker(text: str) -> None:
    assert grading.number_behind_marker(text) is None


def test_ends_with_a_negative_number() -> None:
    assert grading.ends_with_number("-21")("37 - 58 is -21.")
    assert not grading.ends_with_number("-21")("37 - 58 is 21.")


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [
        ("The word cat is spelled c-a-t.", True),
        ("c-a-r, no: c-a-t", True),
        ("c-a-t-s", False),
        ("c-a-t, no: c-a-r", False),
        ("cat", False),
    ],
)
def test_spells(reply: str, is_right: bool) -> None:
    assert grading.spells("c-a-t")(reply) is is_right


def test_says() -> None:
    check = grading.says("I do not know that.")
    assert check("i do not know that. Sorry!")
    assert not check("I do not know thatch.")


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [
        ("The capital of France is Paris.", True),
        ("PARIS", True),
        ("Parisian", False),
        ("It is Paris or Rome.", False),
        ("It is Rome.", False),
        ("The capital of Italy is Paris.", True),  # only rivals of the answer count
    ],
)
def test_names_only(reply: str, is_right: bool) -> None:
    question = "What is the capital of France?"
    assert grading.names_only("Paris", ["Rome", "Oslo"], question=question)(reply) is is_right


def test_names_only_forgives_what_the_question_named_and_parts_of_the_answer() -> None:
    check = grading.names_only("cold", ["hot"], question="What is the opposite of hot?")
    assert check("The opposite of hot is cold.")
    plural = grading.names_only("a polar bear", ["bear"], question="Who?")
    assert plural("It was a polar bear.")
    assert not plural("It was a polar bear and a bear.")
