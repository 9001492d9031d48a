from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.engine import calculate
from nanochat.tasks import spelling_bee
from nanochat.tasks.base import Example

LETTERS = "abcdefghij"
WORDS = [f"{a}{b}{c}{a}" for a in LETTERS for b in LETTERS for c in "xyz"]  # 300


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    odd = ["ab", "Upper", "it's", "x" * 21, "caf\u00e9"]
    text = "\r\n".join(word for pair in zip(WORDS, odd * 60, strict=True) for word in pair)
    (tmp_path / "words_alpha.txt").write_text(text, encoding="utf-8")
    return tmp_path


def question(example: Example) -> str:
    return str(example.messages[-1]["content"])


def test_the_reference_counts_by_hand_and_with_the_calculator(
    folder: Path, oracle: Callable[..., list[str]]
) -> None:
    examples = spelling_bee.task(folder).examples("val", n=200, seed=0)
    assert oracle(examples) == ["right"] * 200
    for example in examples:
        by_hand, call, output, final = example.reference["content"]
        assert calculate(call["text"]) == output["text"]
        assert final["text"] == f"\n#### {output['text']}"
        word = by_hand["text"].split()[0]
        assert f"{word} is spelled {'-'.join(word)}." in by_hand["text"]
        assert f", so {output['text']}." in by_hand["text"]
        assert word in question(example)
        assert example.verdict(f"#### {int(output['text']) + 1}") == "wrong"
        assert example.verdict("No idea.") == "unanswered"


def test_spelling_alone(folder: Path, oracle: Callable[..., list[str]]) -> None:
    examples = spelling_bee.simple(folder).examples("val", n=50, seed=0)
    assert oracle(examples) == ["right"] * 50
    assert not any(example.check("a-b-c") for example in examples)


@pytest.mark.parametrize("make", [spelling_bee.task, spelling_bee.simple])
def test_examples_depend_on_split_and_index_alone(
    folder: Path, make: Callable[[Path], spelling_bee.SpellingTask]
) -> None:
    def ask(n: int, seed: int) -> list[str]:
        return [question(example) for example in make(folder).examples("val", n=n, seed=seed)]

    whole = ask(10_000, 1)
    assert len(whole) == spelling_bee.SIZES["val"]
    assert ask(10, 1) == whole[:10]
    assert ask(10_000, 2) != whole
    assert sorted(ask(10_000, 2)) == sorted(whole)


def test_the_splits_share_no_word_and_odd_ones_are_left_out(folder: Path) -> None:
    words = {
        split: {
            example.reference["content"][0]["text"].split()[0]
            for example in spelling_bee.task(folder).examples(split, n=2000, seed=0)
        }
        for split in ("train", "val")
    }
    assert words["train"] | words["val"] <= set(WORDS)
    assert not words["train"] & words["val"]
    assert min(map(len, words.values())) > 20


def test_the_real_words(real_data: Path, oracle: Callable[..., list[str]]) -> None:
    task = spelling_bee.task(real_data / "chat")
    assert oracle(task.examples("val", n=10_000, seed=0)) == ["right"] * 256
    assert oracle(task.examples("train", n=500, seed=0)) == ["right"] * 500
