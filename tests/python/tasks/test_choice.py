from typing import Any

import pytest

from nanochat.tasks.choice import choice_example, lettered

TEXTS = ["glass", "honey", "wax"]
MMLU = {"subject": "bees", "question": "What do bees make?", "choices": TEXTS, "answer": 1}
CORE = {"query": "Question: What do bees make?", "choices": TEXTS, "gold": 1}
ARC = {
    "question": "What do bees make?",
    "choices": {"text": TEXTS, "label": ["1", "2", "3"]},
    "answerKey": "2",
}


def test_how_a_question_is_put() -> None:
    example = lettered("What do bees make?", ("glass", "honey"), 1)
    assert example.messages == (
        {
            "role": "user",
            "content": "Multiple Choice question: What do bees make?\n"
            "- glass=A\n"
            "- honey=B\n"
            "\n"
            "Respond only with the letter of the correct answer.",
        },
    )
    assert example.choices == ("A", "B")
    assert example.reference == {"role": "assistant", "content": "B"}
    assert example.answer == 1
    assert [example.verdict(reply) for reply in ("B", "A", "honey", "")] == [
        "right", "wrong", "wrong", "wrong",
    ]  # fmt: skip


@pytest.mark.parametrize("row", [MMLU, CORE, ARC])
def test_three_forms_of_one_question(row: dict[str, Any]) -> None:
    example = choice_example(row)
    assert example.messages == lettered("What do bees make?", TEXTS, 1).messages
    assert example.answer == 1
    assert example.group == row.get("subject", "")


@pytest.mark.parametrize(
    "row",
    [
        {},
        MMLU | {"question": None},
        MMLU | {"question": "  "},
        MMLU | {"choices": "glass"},
        MMLU | {"choices": ["glass", 2]},
        MMLU | {"choices": ["glass"]},
        MMLU | {"choices": [str(i) for i in range(27)]},
        MMLU | {"answer": 3},
        MMLU | {"answer": -1},
        MMLU | {"answer": True},
        MMLU | {"answer": "B"},
        MMLU | {"answer": 1.0},
        {key: value for key, value in MMLU.items() if key != "answer"},
        CORE | {"gold": None},
        ARC | {"answerKey": "4"},  # a letter that no choice has
        ARC | {"answerKey": 1},
        ARC | {"answerKey": ["2"]},
        ARC | {"choices": {"text": TEXTS, "label": None}},
        ARC | {"choices": {"text": TEXTS[:1], "label": ["1", "2"]}},
        ARC | {"choices": {}},
    ],
)
def test_other_rows_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="row: "):
        choice_example(row)
