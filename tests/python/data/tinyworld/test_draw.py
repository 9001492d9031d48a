import math

import pytest

from nanochat.data.tinyworld.draw import Draw, Phrasings, either, held_out


def test_same_key_same_choices_and_any_other_key_others() -> None:
    def choices(
        seed: int = 1, split: str = "train", stream: str = "s", index: int = 0
    ) -> list[int]:
        draw = Draw(seed, split, stream, index)  # type: ignore[arg-type]
        return [draw.below(1000) for _ in range(8)]

    assert choices() == choices()
    for other in ({"seed": 2}, {"split": "val"}, {"stream": "t"}, {"index": 1}):
        assert choices() != choices(**other)  # type: ignore[arg-type]


def test_bits_are_the_code_length_of_the_choices() -> None:
    draw = Draw(0, "train", "bits", 0)
    draw.pick("abcd")
    assert draw.bits == pytest.approx(2)
    hit = draw.chance(0.25)
    assert draw.bits == pytest.approx(2 + (2 if hit else math.log2(4 / 3)))
    before = draw.bits
    chosen = draw.weighted(((0.75, "often"), (0.25, "seldom")))
    assert draw.bits - before == pytest.approx(2 if chosen == "seldom" else math.log2(4 / 3))
    before = draw.bits
    assert len(set(draw.sample("abcde", 2))) == 2
    assert draw.bits - before == pytest.approx(math.log2(5 * 4))


def test_choices_are_uniform() -> None:
    draw = Draw(0, "train", "uniform", 0)
    counts = [0] * 5
    for _ in range(5000):
        counts[draw.below(5)] += 1
    assert all(850 < count < 1150 for count in counts)
    assert {draw.between(3, 5) for _ in range(200)} == {3, 4, 5}


def test_a_split_has_its_own_wordings_and_things() -> None:
    phrasings = Phrasings(train=("a", "b"), val=("c",))
    train, val = Draw(0, "train", "p", 0), Draw(0, "val", "p", 0)
    assert {train.phrase(phrasings) for _ in range(50)} == {"a", "b"}
    assert val.phrase(phrasings) == "c"
    assert val.belongs("x") == held_out("x") != train.belongs("x")


def test_one_in_eight_is_held_out() -> None:
    assert 1100 < sum(held_out(f"thing {i}") for i in range(10_000)) < 1400


def test_either_joins_lines() -> None:
    assert either("one |\n   two\n words") == ("one", "two words")


@pytest.mark.parametrize(
    ("split", "index", "message"), [("test", 0, "split"), ("val", -1, "index")]
)
def test_a_bad_key_is_refused(split: str, index: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"tinyworld: {message} must be"):
        Draw(0, split, "s", index)  # type: ignore[arg-type]
