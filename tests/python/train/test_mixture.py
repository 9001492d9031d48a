"""Mixtures: exact rows, held-out rows apart, and everything that is left out is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nanochat.common.errors import UserError
from nanochat.data import Source, items
from nanochat.tokenizer import Tokenizer
from nanochat.train.mixture import (
    Ingredient,
    Mixture,
    make_mixture,
    parse,
    parse_fill,
    tinyworld_sources,
)

SEQ_LEN = 60


def row(i: int | str) -> dict[str, Any]:
    return {"instruction": f"question {i}", "output": f"answer {i}"}


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def mix(tokenizer: Tokenizer, *words: str, **options: Any) -> Mixture:
    options = {"seq_len": SEQ_LEN, "seed": 5, **options}
    return make_mixture([parse(word) for word in words], tokenizer, **options)


def texts(tokenizer: Tokenizer, source: Source, epoch: int = 0) -> list[str]:
    return [tokenizer.decode(row.ids.tolist()) for row in items(source, epoch)]


def exchange(question: str, answer: str) -> str:
    return f"<|user_start|>{question}<|user_end|><|assistant_start|>{answer}<|assistant_end|>"


@pytest.mark.parametrize(
    ("word", "ingredient"),
    [
        ("tinyworld", Ingredient("tinyworld")),
        ("gsm8k:4", Ingredient("gsm8k", times=4)),
        ("mmlu@20000", Ingredient("mmlu", rows=20_000)),
        ("~/a b/*.jsonl:2", Ingredient("~/a b/*.jsonl", times=2)),
        ("C:/me@home/a.jsonl", Ingredient("C:/me@home/a.jsonl")),
        ("a@3:2", Ingredient("a@3", times=2)),
    ],
)
def test_words(word: str, ingredient: Ingredient) -> None:
    assert parse(word) == ingredient


@pytest.mark.parametrize("word", ["", "a:0", "a@0", "a@000"])
def test_words_that_are_none(word: str) -> None:
    with pytest.raises(UserError, match="an ingredient must be WHAT, WHAT:TIMES or WHAT@ROWS"):
        parse(word)


def test_fill_is_key_and_value() -> None:
    assert parse_fill(["name=Ada", "sum=1+1=2", "a="]) == {"name": "Ada", "sum": "1+1=2", "a": ""}
    for word in "Ada", "=Ada", "my name=Ada":
        with pytest.raises(UserError, match=r"--fill must be KEY=VALUE, got "):
            parse_fill([word])


def test_rows_are_exact_and_held_out_ones_apart(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [row(i) for i in range(100)])
    b = write(tmp_path / "b.jsonl", [row(f"b{i}") for i in range(50)])
    c = write(tmp_path / "c.jsonl", [row(f"c{i}") for i in range(30)])
    mixture = mix(byte_tokenizer, a, f"{b}:3", f"{c}@12")
    assert [part.name for part in mixture.parts] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [part.held_out for part in mixture.parts] == [10, 5, 3]
    assert [part.rows for part in mixture.parts] == [90, 135, 12]
    assert [part.epochs for part in mixture.parts] == pytest.approx([1, 3, 12 / 27])
    val = texts(byte_tokenizer, mixture.val)
    assert len(val) == len(set(val)) == 18
    seen: Counter[str] = Counter()
    for epoch in range(3):
        train = texts(byte_tokenizer, mixture.train, epoch)
        assert len(train) == 237
        assert not {*train} & {*val}
        seen += Counter(train)
        assert sum("question b" in text for text in train) == 135
        assert sum("question c" in text for text in train) == 12
    of_b = {text: n for text, n in seen.items() if "question b" in text}
    assert len(of_b) == 45
    assert set(of_b.values()) == {9}


def test_tokens_are_those_of_the_first_epoch(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row("x" * (i % 9)) | {"id": i} for i in range(80)])
    mixture = mix(byte_tokenizer, f"{path}@31")
    (part,) = mixture.parts
    assert part.tokens == sum(len(row.ids) for row in items(mixture.train))
    (line,) = mixture.lines()
    assert line.split()[:3] == ["a.jsonl", "31", "rows"]
    assert "100.0 %" in line


def test_duplicates_are_on_one_side(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(i % 20) for i in range(200)])
    mixture = mix(byte_tokenizer, path)
    train, val = (texts(byte_tokenizer, source) for source in (mixture.train, mixture.val))
    assert not {*train} & {*val}
    assert len(train) + len(val) == 200


def test_long_conversations_are_cut_and_counted(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello you"}]
    rows = [
        {"messages": turn * 9},
        {"instruction": "Talk", "output": "word " * 40},
        {"instruction": "x" * 100, "output": "y"},
        {"messages": [{"role": "system", "content": "x" * 100}, *turn]},
        row("short"),
        row("short, too"),
    ]
    mixture = mix(byte_tokenizer, write(tmp_path / "a.jsonl", rows))
    (part,) = mixture.parts
    assert (part.cut, part.dropped, part.malformed) == (2, 2, 0)
    assert part.notes == (
        "2 of 6 rows cut to the context",
        "2 rows left out, their question alone fills the context",
    )
    found = texts(byte_tokenizer, mixture.train) + texts(byte_tokenizer, mixture.val)
    start_tokens = "<|user_start|><|user_end|><|assistant_start|>"
    assert sorted(found) == sorted(
        [
            exchange("Hi", "Hello you") * 4,
            exchange("Talk", "word " * 40)[: SEQ_LEN - 3 + len(start_tokens)],
            exchange("question short", "answer short"),
            exchange("question short, too", "answer short, too"),
        ]
    )  # fmt: skip


def test_bad_rows_are_told_with_the_first(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    wrong_order = {"messages": [{"role": r, "content": "x"} for r in ("assistant", "user") * 2]}
    path = write(tmp_path / "a.jsonl", [row(0), wrong_order, {"text": "x"}, row(1), row(2)])
    (part,) = mix(byte_tokenizer, path).parts
    assert part.malformed == 2
    assert part.notes == (
        f"2 of 5 rows left out, the first is {path}:2: conversation: roles must alternate from "
        "user on, message 0 must be user, got 'assistant'",
    )
    bad = write(tmp_path / "b.jsonl", [wrong_order] * 3)
    with pytest.raises(
        UserError, match=r"no usable row in .*b\.jsonl; 3 of 3 rows left out, the f"
    ):
        mix(byte_tokenizer, path, bad)
    with pytest.raises(UserError, match="must hold 2 different conversations"):
        mix(byte_tokenizer, write(tmp_path / "c.jsonl", [row(0)] * 5))


def test_special_tokens_in_rows_are_text(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(f"<|bos|>{i}") for i in range(4)])
    for item in items(mix(byte_tokenizer, path, seq_len=100).train):
        assert byte_tokenizer.bos not in item.ids
        assert item.ids.tolist().count(byte_tokenizer.assistant_end) == 1


def test_letters_that_no_vocabulary_saw(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [row(f"\u2028\U0001f600 \uc544\uce68 {i}") for i in range(4)]
    mixture = mix(byte_tokenizer, write(tmp_path / "a.jsonl", rows), seq_len=100)
    for text in texts(byte_tokenizer, mixture.train):
        assert text.count("\u2028\U0001f600 \uc544\uce68") == 2


def test_names_are_filled_in_or_missed(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"instruction": f"who{i}?", "output": "I am {{name}}."} for i in range(4)]
    path = write(tmp_path / "a.jsonl", rows)
    assert all(
        "I am Ada." in t
        for t in texts(byte_tokenizer, mix(byte_tokenizer, path, fill={"name": "Ada"}).train)
    )
    (part,) = mix(byte_tokenizer, path).parts
    assert part.notes == (f"{{{{name}}}} stays as it is, first in {path}:1; give --fill name=...",)


def test_choices_are_asked_as_the_tasks_ask(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "choices": ["no", "yes"], "answer": 1} for i in range(4)]
    mixture = mix(byte_tokenizer, write(tmp_path / "a.jsonl", rows), seq_len=200)
    for text in texts(byte_tokenizer, mixture.train):
        assert "- no=A\n- yes=B\n" in text
        assert text.endswith("<|assistant_start|>B<|assistant_end|>")


def test_tasks_by_name(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    solution = "1+2=<<1+2=3>>3\n#### 3"
    rows = [{"question": f"1+2, {i}?", "answer": solution} for i in range(40)]
    write(tmp_path / "gsm8k_train.jsonl", [*rows, {"question": "1+2?"}])
    mixture = mix(byte_tokenizer, "gsm8k:2", "tinyworld/facts@20", "tinyworld@30",
                  seq_len=400, sets=tmp_path)  # fmt: skip
    assert [part.rows for part in mixture.parts] == [72, 20, 30]
    assert mixture.parts[0].notes == ("1 of 41 rows left out",)
    found = Counter(
        "<|python_start|>1+2<|python_end|>" in text for text in texts(byte_tokenizer, mixture.train)
    )
    assert found[True] == 72
    item = next(
        item for item in items(mixture.train) if "1+2" in byte_tokenizer.decode(item.ids.tolist())
    )
    learnt = byte_tokenizer.decode(item.ids[item.mask].tolist())
    assert learnt == "1+2=<|python_start|>1+2<|python_end|>3\n#### 3<|assistant_end|>"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinyworld", "tinyworld@5"], "each ingredient must be named once, got 'tinyworld tiny"),
        (["tinyworld"], "tinyworld has no end, so it needs a number of rows: tinyworld@5000"),
        (["tinyworld/facts:2"], "tinyworld/facts has no end, so it needs a number"),
        (["chats"], "data: chats is no file or folder; tasks: must be one of arc_easy"),
        (
            ["tinyworld/poems@5"],
            r"poems is no file or folder; .*tinyworld/facts.*got tinyworld/poems",
        ),
        (["missing.jsonl"], r"no file matches missing\.jsonl"),
        ([], "each ingredient must be named once, got ''"),
    ],
)
def test_what_is_refused(byte_tokenizer: Tokenizer, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mix(byte_tokenizer, *words)


def test_tinyworld_alone_has_no_end(byte_tokenizer: Tokenizer) -> None:
    train, val = tinyworld_sources(byte_tokenizer, seq_len=SEQ_LEN, seed=1)
    block = train.block(0, 1000)
    assert block is not None
    assert all(len(item.ids) <= SEQ_LEN and len(item.mask) == len(item.ids) for item in block)
    assert any(item.mask.any() for item in block)
    first, held_back = train.block(0, 0), val.block(0, 0)
    assert first is not None
    assert held_back is not None
    texts_of = [{bytes(item.ids[item.mask].clip(0, 255)) for item in b} for b in (first, held_back)]
    assert texts_of[0] != texts_of[1]


def test_real_files(byte_tokenizer: Tokenizer, real_data: Path) -> None:
    chat = real_data / "chat"
    mixture = mix(
        byte_tokenizer,
        f"{chat}/llms_from_scratch_instructions.jsonl.zst@500",
        f"{chat}/identity_templates.jsonl.zst:2",
        f"{chat}/fastchat_identity.jsonl.zst",
        "mmlu",
        seq_len=1024,
        fill={"name": "Ada", "author": "Grace"},
        sets=real_data / "eval",
    )
    assert [part.rows for part in mixture.parts] == [500, 164, 480, 243]
    assert [part.dropped for part in mixture.parts] == [0, 0, 0, 22]  # a token is a byte here
    assert [part.malformed for part in mixture.parts] == [0, 0, 0, 0]
    found = "".join(texts(byte_tokenizer, mixture.train))
    assert "{{" not in found
    assert found.count("Ada") > 100
