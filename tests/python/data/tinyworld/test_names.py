import math

from nanochat.data.tinyworld import names
from nanochat.data.tinyworld.draw import Draw


def test_splits_share_no_name() -> None:
    train = {name.text for name in names.names("train")}
    val = {name.text for name in names.names("val")}
    assert not train & val
    assert len(train) > 1500
    assert len(val) > 150


def test_a_name_stands_once_and_for_one_gender() -> None:
    every = [name.text for split in ("train", "val") for name in names.names(split)]  # type: ignore[arg-type]
    assert len(every) == len(set(every))
    assert all(text.isascii() and text.istitle() for text in every)


def test_drawn_names_belong_to_the_split_and_differ() -> None:
    for split in ("train", "val"):
        allowed = {name.text for name in names.names(split)}  # type: ignore[arg-type]
        for index in range(300):
            draw = Draw(1, split, "names", index)  # type: ignore[arg-type]
            first = names.draw_name(draw)
            second = names.draw_name(draw, first)
            assert first != second
            assert {first.text, second.text} <= allowed


def test_a_name_is_priced_as_in_the_whole_grammar() -> None:
    draw = Draw(1, "val", "price", 0)
    names.draw_name(draw)
    made_up = len(names.names("train")) + len(names.names("val")) - len(names.GIRLS + names.BOYS)
    assert math.isclose(draw.bits, 1 + math.log2(made_up))
