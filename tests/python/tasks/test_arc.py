from collections.abc import Callable
from pathlib import Path

from nanochat.tasks import arc

TEXTS = ["glass", "honey", "wax"]


def test_each_of_the_two_from_the_files_there_are(
    write_set: Callable[..., Path], oracle: Callable[..., list[str]]
) -> None:
    core = {"query": "Question: What do bees make?", "choices": TEXTS, "gold": 1}
    write_set("core/world_knowledge/arc_easy", [core, {"query": "nothing else"}])
    train = {"question": "Who?", "choices": TEXTS, "answer": 2}
    folder = write_set(
        "arc_train",
        [train | {"subset": "ARC-Easy"}, train | {"subset": "ARC-Challenge", "answer": 0}],
    )
    easy, challenge = arc.easy(folder), arc.challenge(folder)
    val = easy.examples("val", n=9, seed=0)
    assert "Multiple Choice question: What do bees make?\n" in val[0].messages[0]["content"]
    assert easy.load("val").num_malformed == 1
    assert [e.answer for e in easy.examples("train", n=9, seed=0)] == [2]
    assert [e.answer for e in challenge.examples("train", n=9, seed=0)] == [0]
    assert oracle(val) == ["right"]


def test_the_published_files_under_their_own_names(write_set: Callable[..., Path]) -> None:
    row = {
        "question": "Who?",
        "choices": {"text": TEXTS, "label": ["A", "B", "C"]},
        "answerKey": "C",
    }
    write_set("arc_challenge_test", [row])
    folder = write_set("arc_challenge_train", [row])
    for split in ("val", "train"):
        assert [e.answer for e in arc.challenge(folder).examples(split, n=9, seed=0)] == [2]


def test_the_real_sets(real_data: Path, oracle: Callable[..., list[str]]) -> None:
    for task, num_train, num_val in (
        (arc.easy(real_data / "eval"), 2251, 2376),
        (arc.challenge(real_data / "eval"), 1119, 1172),
    ):
        for split, num_examples in (("train", num_train), ("val", num_val)):
            examples = task.examples(split, n=10_000, seed=0)
            assert oracle(examples) == ["right"] * num_examples
            assert task.load(split).num_malformed == 0
