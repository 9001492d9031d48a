"""Texts for benchmarks: read from files, made up, handed to a child."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanochat.testing import texts
from nanochat.testing.texts import KINDS, Texts


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_text_is_the_same_each_time_and_as_long_as_asked(kind: str) -> None:
    documents = texts.generate(kind, 20_000)
    assert documents == texts.generate(kind, 20_000)
    sizes = [len(text.encode()) for text in documents]
    assert sum(sizes) >= 20_000 > sum(sizes[:-1])
    if kind not in ("one word", "spaces"):
        assert len(set(documents)) == len(documents) > 1


def test_new_words_keep_coming() -> None:
    num_distinct = [
        len(
            {
                word
                for text in texts.generate("english", size)
                for word in re.findall("[a-z]+", text)
            }
        )
        for size in (500_000, 1_000_000)
    ]
    assert num_distinct[1] > 1.4 * num_distinct[0]


def test_mixed_text_has_all_kinds_of_letters() -> None:
    mixed = "".join(texts.generate("mixed", 200_000))
    for kind, letter in {"russian": "\u043e", "hindi": "\u093e", "arabic": "\u0627"}.items():
        assert letter in mixed, kind
    assert "self." in mixed


def test_files_are_cut_and_shuffled(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "{i} {"x" * 11_000}"}}\n' for i in range(20))
    )
    documents = texts.read([tmp_path])
    assert len(documents) == 40 and max(map(len, documents)) == texts.MAX_CHARS
    numbers = [int(text.split()[0]) for text in documents if text[0] != "x"]
    assert sorted(numbers) == list(range(20)) != numbers
    assert documents == texts.read([tmp_path / "a.jsonl"])


def test_a_child_gets_the_prefix(tmp_path: Path) -> None:
    documents = ["one\n", "\u00e4\u2028", "\x00", "four"]
    saved = Texts.save(documents, tmp_path / "texts.jsonl")
    assert (saved.load(), saved.num_bytes) == (documents, 14)
    prefix = saved.prefix(5)
    assert (prefix.load(), prefix.num_bytes) == (documents[:2], 9)
    assert saved.prefix(100) == saved
