"""Tokenizer: ids, round trips, the file and what can be wrong with it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.common.errors import UserError
from nanochat.tokenizer import (
    GPT4_PATTERN,
    MIN_VOCAB_SIZE,
    SPECIAL_TOKENS,
    SPLIT_PATTERN,
    Tokenizer,
    train_bpe,
)

BYTES_ONLY = Tokenizer([bytes([i]) for i in range(256)])


def test_special_tokens_follow_the_merges_in_order(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 300
    assert list(tokenizer.special) == [
        "<|bos|>",
        "<|user_start|>",
        "<|user_end|>",
        "<|assistant_start|>",
        "<|assistant_end|>",
        "<|python_start|>",
        "<|python_end|>",
        "<|output_start|>",
        "<|output_end|>",
    ]
    assert list(tokenizer.special.values()) == list(range(291, 300))
    named = [getattr(tokenizer, name[2:-2]) for name in SPECIAL_TOKENS]
    assert named == list(range(291, 300))


def test_encode_by_hand() -> None:
    tokens = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"hell", b" w"]
    tokenizer = Tokenizer(tokens)
    assert tokenizer.encode("hello w") == [258, ord("o"), 259]
    assert tokenizer.encode("") == []
    assert tokenizer.vocab_size == 260 + 9


@given(st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text] * 3, num_threads=1) == [ids] * 3
    assert tokenizer.to_tiktoken().encode_ordinary(text) == ids
    assert sum(tokenizer.token_bytes()[ids]) == len(text.encode())


def test_batch_keeps_the_order_of_texts(tokenizer: Tokenizer) -> None:
    texts = [f"Hello {i} " * (i % 7) for i in range(500)]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts, num_threads=3) == expected
    assert tokenizer.encode_batch(texts) == expected
    assert tokenizer.encode_batch([]) == []
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        tokenizer.encode_batch(texts, num_threads=0)


def test_special_tokens_in_a_text_are_text(tokenizer: Tokenizer) -> None:
    text = "".join(SPECIAL_TOKENS)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text == tokenizer.decode(tokenizer.special.values())


def test_lone_surrogate_becomes_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("unit", [" ", "a", "1", "\n", "\u3000", "\ud800 "])
def test_a_million_characters_in_a_row_encode(tokenizer: Tokenizer, unit: str) -> None:
    """A million white space characters before a letter overflow the stack inside of tiktoken."""
    text = unit * 1_000_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\ud800", "\ufffd")


@pytest.mark.parametrize("token", [-1, 300, 1 << 70])
def test_unknown_id_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match=f"ids must be 0 to 299, got {token}"):
        tokenizer.decode([65, token])


def test_token_bytes_count_bytes_and_no_specials() -> None:
    sizes = Tokenizer([*(bytes([i]) for i in range(256)), "\u20ac".encode()]).token_bytes()
    assert sizes.dtype == np.int32
    assert sizes.tolist() == [1] * 256 + [3] + [0] * 9


def test_from_ranks_sorts_and_refuses_gaps() -> None:
    ranks = train_bpe(["hello hello"], 260)
    shuffled = list(ranks.items())
    random.Random(0).shuffle(shuffled)
    assert Tokenizer.from_ranks(dict(shuffled)).hash == Tokenizer.from_ranks(ranks).hash
    with pytest.raises(ValueError, match="ranks must be 0 to 256, each once"):
        Tokenizer.from_ranks({**{bytes([i]): i for i in range(256)}, b"ab": 257})
    with pytest.raises(ValueError, match="all 256 bytes must be tokens, 1 are missing"):
        Tokenizer([bytes([i]) for i in range(255)])
    with pytest.raises(ValueError, match="distinct"):
        Tokenizer([*(bytes([i]) for i in range(256)), b"a"])


@pytest.mark.parametrize("vocab_size", [0, 264])
def test_vocabulary_without_room_for_special_tokens_is_refused(vocab_size: int) -> None:
    message = rf"at least {MIN_VOCAB_SIZE} \(256 bytes and 9 special tokens\), got {vocab_size}"
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(["text"], vocab_size)
    assert Tokenizer.train(["text"], 265).vocab_size == 265


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    assert loaded.hash == tokenizer.hash
    assert loaded.special == tokenizer.special
    assert loaded.encode("Hello there") == tokenizer.encode("Hello there")
    file = json.loads(path.read_text("ascii"))
    assert file["pattern"] == SPLIT_PATTERN
    assert file["unicode"] == "16.0"
    assert file["special"] == list(SPECIAL_TOKENS)
    assert [t.encode("latin-1") for t in file["tokens"]][97] == b"a"
    assert file["sha256"] == tokenizer.hash
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


def test_hash_tells_vocabularies_apart(tokenizer: Tokenizer) -> None:
    assert re.fullmatch("[0-9a-f]{64}", tokenizer.hash)
    assert tokenizer.hash != BYTES_ONLY.hash
    assert Tokenizer(BYTES_ONLY._ordinary, GPT4_PATTERN).hash != BYTES_ONLY.hash


def test_damaged_file_is_never_taken_for_another(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        for damaged in (whole[:position], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                assert Tokenizer.load(path).hash == tokenizer.hash  # a space that is now a tab, say
            except UserError as error:
                refused += 1
                assert re.fullmatch(r"tokenizer: \S+ is damaged, edited or .* again", str(error))
    assert refused > 2 * len(whole) // 7 - 100


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"tokens": [1], "pattern": ""}',
        '{"tokens": ["\u0100"]}',
    ],
)
def test_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match="damaged, edited or of another version"):
        Tokenizer.load(path)


def test_edited_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    for key, value in [("unicode", "15.0"), ("format", "2"), ("special", []), ("extra", 1)]:
        file = json.loads(path.read_text())
        path.write_text(json.dumps({**file, key: value}))
        with pytest.raises(UserError, match="damaged, edited or of another version"):
            Tokenizer.load(path)
        tokenizer.save(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.json: No such file"):
        Tokenizer.load(tmp_path / "nowhere.json")
