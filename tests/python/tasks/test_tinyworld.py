import random

import pytest

from nanochat.data.tinyworld.draw import Split
from nanochat.tasks import TASKS, Example
from nanochat.tasks.tinyworld import TinyworldTask
from nanochat.tokenizer.conversation import validate

EACH_TASK = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
N = 150


def _text(example: Example) -> str:
    content = example.reference["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


@EACH_TASK
@pytest.mark.parametrize("split", ["train", "val"])
def test_an_oracle_is_always_right(task: TinyworldTask, split: Split) -> None:
    examples = task.examples(split, n=N, seed=1)
    assert len(examples) >= min(N, 70)
    for example in examples:
        assert example.check(_text(example)), _text(example)
        validate({"messages": [*example.messages, example.reference]})


@EACH_TASK
def test_prompts_differ_and_the_splits_share_none(task: TinyworldTask) -> None:
    train, val = (
        [e.messages[-1]["content"] for e in task.examples(split, n=N, seed=1)]
        for split in ("train", "val")
    )
    assert len(set(train)) == len(train)
    assert not set(train) & set(val)


@EACH_TASK
def test_guessing_reaches_chance(task: TinyworldTask) -> None:
    """Guess a letter, or give the right answer to another question of the task."""
    examples = task.examples("val", n=400, seed=2)
    rng = random.Random(0)
    if task.kind == "multiple_choice":
        guesses = [rng.choice(example.choices) for example in examples]
    else:
        guesses = [_text(rng.choice(examples)) for _ in examples]
    accuracy = sum(e.check(g) for e, g in zip(examples, guesses, strict=True)) / len(examples)
    assert accuracy == pytest.approx(task.chance, abs=0.08)
    assert not any(example.check("") for example in examples)


@EACH_TASK
def test_examples_are_reproducible(task: TinyworldTask) -> None:
    first, second = (task.examples("val", n=20, seed=3) for _ in range(2))
    assert [e.messages for e in first] == [e.messages for e in second]
    assert [e.messages for e in first] != [e.messages for e in task.examples("val", n=20, seed=4)]


def test_multiple_choice_knows_its_answer() -> None:
    for example in TASKS[0].examples("val", n=20, seed=1):
        assert example.choices[example.answer] == example.reference["content"]


def test_a_small_split_gives_what_it_has() -> None:
    spelling = next(task for task in TASKS if task.name == "spelling")
    assert len(spelling.examples("val", n=10_000 // 50, seed=1)) < 10_000 // 50
