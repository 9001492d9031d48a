"""Tokenizer: ids, round trips, the file and what can be wrong with it."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
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


def test_ids_in_arrays(tokenizer: Tokenizer) -> None:
    texts = ["Hello there, world. " * 40, "", "\u4f60\u597d", "caf\xe9 \U0001f600"] * 200
    expected = [tokenizer.encode(text) for text in texts]
    column = pa.chunked_array([pa.array(texts[:100]), pa.array(texts[100:])])
    for num_threads, source in [(1, texts), (3, iter(texts)), (2, column)]:
        ids, offsets = tokenizer.encode_to_numpy(source, num_threads=num_threads)
        assert ids.dtype == tokenizer.dtype == np.uint16
        assert offsets.dtype == np.int64
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected
    ids, offsets = tokenizer.encode_to_numpy([])
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_ids_beyond_16_bits() -> None:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    most = Tokenizer([*(bytes([i]) for i in range(256)), *pairs[: (1 << 16) - MIN_VOCAB_SIZE]])
    wide = Tokenizer([*(bytes([i]) for i in range(256)), *pairs])
    text = "\u4e2d \uffee a" * 3
    assert (most.vocab_size, most.dtype, wide.dtype) == (1 << 16, np.uint16, np.uint32)
    for tokenizer in (most, wide):
        assert tokenizer.encode_to_numpy([text])[0].dtype == tokenizer.dtype
        assert tokenizer.encode(text) == tokenizer.to_tiktoken().encode_ordinary(text)
    assert wide.encode(b"\xff\xff") == [256 + (1 << 16) - 1]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_come_back(tokenizer: Tokenizer, data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
    assert tokenizer.encode_batch([data, data[1:]]) == [
        tokenizer.encode(data),
        tokenizer.encode(data[1:]),
    ]


@settings(max_examples=300)
@given(st.data())
def test_vocabulary_of_any_tokens_encodes_as_tiktoken(data: st.DataObject) -> None:
    """Not only vocabularies that a training gives: pairs join whenever their bytes are a token."""
    text = st.text("ab \u4e2d", min_size=1, max_size=12)
    more = data.draw(st.lists(text.map(str.encode), unique=True, max_size=30))
    single = [bytes([i]) for i in range(256)]
    tokens = data.draw(st.permutations([t for t in more if len(t) > 1] + single))
    tokenizer = Tokenizer(tokens)
    sample = data.draw(st.text("ab \u4e2d1", max_size=300))
    assert tokenizer.encode(sample) == tokenizer.to_tiktoken().encode_ordinary(sample)


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33, 46, 47, 63, 64, 65, 66, 200, 5000])
def test_pieces_of_any_length_encode_as_tiktoken(length: int) -> None:
    rng = random.Random(length)
    words = ["".join(rng.choices("abc", k=length)) for _ in range(20)]
    tokenizer = Tokenizer.train([" ".join(words)], 400)
    for text in [*words, "a" * length, " " + "ab" * length]:
        for _ in range(2):  # the second time from the cache
            assert tokenizer.encode(text) == tokenizer.to_tiktoken().encode_ordinary(text)


def test_a_long_word_takes_linear_time(tokenizer: Tokenizer) -> None:
    """About 0.5 s for 4 MB; quadratic work would take days."""
    rng = random.Random(0)
    for text in ["l" * 4_000_000, "".join(rng.choices("helo", k=4_000_000))]:
        started = time.perf_counter()
        ids, _ = tokenizer.encode_to_numpy([text], num_threads=1)
        assert time.perf_counter() - started < 30
        assert tokenizer.decode(ids.tolist()) == text


def test_another_pattern_encodes_through_the_regex_package() -> None:
    with pytest.warns(UserWarning, match="no native scanner"):
        tokenizer = Tokenizer([*(bytes([i]) for i in range(256)), b"ab", b" a"], r"[a-z]+|[^a-z]")
    texts = ["ab ab", "", "x\ud800ab", "caf\xe9 ab"]
    encoding = tokenizer.to_tiktoken()
    assert tokenizer.encode_batch(texts) == [encoding.encode_ordinary(text) for text in texts]
    assert tokenizer.encode("ab ab") == [256, 32, 256]
    assert tokenizer.decode_bytes(tokenizer.encode(b"ab\xff\xe4 ab")) == b"ab\xff\xe4 ab"


@pytest.mark.parametrize("text", [None, 1, ["a"], pa.array(["a"])])
def test_text_of_another_type_is_refused(tokenizer: Tokenizer, text: object) -> None:
    with pytest.raises(TypeError, match="text must be str or bytes, got"):
        tokenizer.encode(text)  # type: ignore[arg-type]


def test_batch_with_another_type_names_it(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match="got int at index 1"):
        tokenizer.encode_batch(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"iterable of texts, got one str; pass \[text\]"):
        tokenizer.encode_batch("text")


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
