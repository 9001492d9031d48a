from collections.abc import Callable
from pathlib import Path

from nanochat.tasks import mmlu


def test_both_splits_by_subject(
    write_set: Callable[..., Path], oracle: Callable[..., list[str]]
) -> None:
    row = {"subject": "law", "question": "Who?", "choices": ["a", "b", "c", "d"], "answer": 3}
    write_set("mmlu_dev", [row | {"subject": "art"}, "{torn", row | {"answer": 4}])
    folder = write_set("mmlu_test", [row])
    task = mmlu.task(folder)
    train, val = (task.examples(split, n=9, seed=0) for split in ("train", "val"))
    assert ([e.group for e in train], [e.group for e in val]) == (["art"], ["law"])
    assert task.load("train").num_malformed == 2
    assert oracle(train + val) == ["right"] * 2


def test_the_real_set(real_data: Path, oracle: Callable[..., list[str]]) -> None:
    task = mmlu.task(real_data / "eval")
    examples = task.examples("val", n=100_000, seed=0)
    assert oracle(examples) == ["right"] * 9765
    assert len({e.group for e in examples}) == 38
    assert task.load("val").num_malformed == 0
    assert len({e.group for e in task.examples("train", n=1000, seed=0)}) == 57
