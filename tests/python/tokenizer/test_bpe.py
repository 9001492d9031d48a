"""train_bpe: equal to rustbpe and to a plain reference, streaming, Arrow, errors, Ctrl-C."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rustbpe
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import _core
from nanochat.tokenizer import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    GPT4_PATTERN,
    SPLIT_PATTERN,
    train_bpe,
)


def rust_ranks(
    texts: Sequence[str], vocab_size: int, pattern: str = SPLIT_PATTERN
) -> dict[bytes, int]:
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def reference_ranks(texts: Sequence[str | bytes], vocab_size: int) -> dict[bytes, int]:
    """BPE as one would write it on a blackboard."""
    pieces: Counter[tuple[int, ...]] = Counter()
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        pieces.update(map(tuple, _core.bpe_pretokenize(data, SPLIT_PATTERN)))
    tokens = [bytes([i]) for i in range(256)]
    while len(tokens) < vocab_size:
        counts: Counter[tuple[int, int]] = Counter()
        for piece, count in pieces.items():
            for pair in itertools.pairwise(piece):
                counts[pair] += count
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        merged: Counter[tuple[int, ...]] = Counter()
        for piece, count in pieces.items():
            out: list[int] = []
            i = 0
            while i < len(piece):
                if piece[i : i + 2] == (left, right):
                    out.append(len(tokens))
                    i += 2
                else:
                    out.append(piece[i])
                    i += 1
            merged[tuple(out)] += count
        pieces = merged
        tokens.append(tokens[left] + tokens[right])
    return {token: rank for rank, token in enumerate(tokens)}


def prose(seed: int, num_documents: int) -> list[str]:
    """Text of several scripts with the word statistics of language: few frequent, many rare."""
    rng = random.Random(seed)
    scripts = [
        "etaoinshrdlu",
        "оеаинтсрвлкм",
        "αεηιοτσνρλ",
        "的一是不了人我在有他",
        "あいうえおかきくけこ",
        "אבגדהוזחטי",
    ]
    words = ["".join(rng.choices(rng.choice(scripts), k=rng.randrange(1, 9))) for _ in range(2000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    marks = [" ", " ", " ", " ", ", ", ".\n", "  ", " 12", "'s ", "! \U0001f600", "\n\n"]

    def document() -> str:
        chosen = rng.choices(words, weights, k=rng.randrange(0, 120))
        return "".join(word + rng.choice(marks) for word in chosen)

    return [document() for _ in range(num_documents)]


@pytest.mark.parametrize("vocab_size", [256, 257, 512, 4096, 30_000])
def test_ranks_equal_rustbpe(vocab_size: int) -> None:
    texts = prose(vocab_size, 400)
    expected = rust_ranks(texts, vocab_size)
    assert train_bpe(texts, vocab_size, num_threads=1) == expected
    random.Random(0).shuffle(texts)
    assert train_bpe(texts, vocab_size, num_threads=2) == expected
    assert list(expected.values()) == list(range(len(expected)))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["ab", "abc", "a ", "aA'sS\u017f ", "ab 1\n", "\u65e5\u672c\u8a9e a"]).flatmap(
        lambda alphabet: st.lists(st.text(alphabet, max_size=60), max_size=8)
    ),
    st.integers(256, 330),
    st.integers(1, 3),
)
def test_ties_fall_as_in_rustbpe(texts: list[str], vocab_size: int, num_threads: int) -> None:
    ranks = train_bpe(texts, vocab_size, num_threads=num_threads)
    assert ranks == rust_ranks(texts, vocab_size) == reference_ranks(texts, vocab_size)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30)), st.integers(256, 300))
def test_any_bytes_train(texts: list[bytes], vocab_size: int) -> None:
    assert train_bpe(texts, vocab_size, num_threads=2) == reference_ranks(texts, vocab_size)


def test_pieces_of_any_length_are_counted_apart() -> None:
    texts = ["a" * n + " " + "ab" * n for n in range(1, 70)] * 3  # 15, 16: inline and arena
    assert train_bpe(texts, 400, num_threads=2) == reference_ranks(texts, 400)


def test_counts_do_not_wrap_at_2_to_31() -> None:
    document = b"z" * ((1 << 24) + 1)  # one object, repeated: (z, z) is seen 2^31 times
    ranks = train_bpe([document] * 128 + [b"ab " * 100], 257, num_threads=2)
    assert list(ranks)[256:] == [b"zz"]


def test_documents_do_not_join_and_empty_ones_count_nothing() -> None:
    assert train_bpe(["a", "b", "", "a", "b"], 300) == train_bpe([], 300)
    assert len(train_bpe([], 300)) == 256


def test_vocabulary_is_smaller_when_no_pair_is_left() -> None:
    ranks = train_bpe(["hello world"], 300)
    assert ranks == train_bpe(["hello world"], 1 << 40)
    assert len(ranks) == 265
    assert b" world" in ranks


def test_vocabulary_of_frequent_pairs_then_of_rare_ones() -> None:
    """Most pairs are below the first floor of the merge loop, so it indexes the pairs again."""
    rng = random.Random(5)
    texts = ["the cat " * 100_000] + ["".join(rng.choices("abcdef", k=9)) for _ in range(300)]
    assert train_bpe(texts, 1500) == rust_ranks(texts, 1500)


@pytest.mark.parametrize("unit", ["a", "1", "ab", "\n", "\u4e2d"])
def test_a_million_characters_in_a_row(unit: str) -> None:
    text = unit * 1_000_000
    assert train_bpe([text], 300) == rust_ranks([text], 300)


def test_a_million_spaces_before_a_letter() -> None:
    """Overflows the stack of a backtracking regex."""
    text = " " * 1_000_000 + "x"
    assert train_bpe([text], 300) == reference_ranks([text], 300)


@pytest.mark.parametrize("vocab_size", [-1, 0, 255])
def test_vocabulary_below_the_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size must be at least 256 .*got {vocab_size}"):
        train_bpe(["text"], vocab_size)


@pytest.mark.parametrize("document", [None, 3, ["nested"]])
def test_document_of_another_type_is_named(document: object) -> None:
    with pytest.raises(TypeError, match=f"got {type(document).__name__} at index 2"):
        train_bpe(["a", b"b", document], 300)  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["one text", b"one text"])
def test_one_text_is_not_taken_for_documents(text: str | bytes) -> None:
    with pytest.raises(TypeError, match=r"iterable of texts.*pass \[text\]"):
        train_bpe(text, 300)  # type: ignore[arg-type]


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="document 1 has a lone surrogate"):
        train_bpe(["fine", "not \ud800 fine"], 300)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_first_of_many_lone_surrogates_is_named_whoever_finds_one_first(num_threads: int) -> None:
    fine, slow, quick = "word " * 100_000, "word " * 1_000_000 + "\ud800", "\ud800"
    with pytest.raises(ValueError, match="document 1 has a lone surrogate"):
        train_bpe([fine, slow, *[quick] * 1000], 300, num_threads=num_threads)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_failure_ends_the_reading_of_texts_without_end(num_threads: int) -> None:
    with pytest.raises(ValueError, match="document 0 has a lone surrogate"):
        train_bpe(itertools.repeat("\ud800" * 1000), 300, num_threads=num_threads)


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        train_bpe(["text"], 300, num_threads=0)


def test_exception_of_the_iterable_arrives_unchanged() -> None:
    error = RuntimeError("disk on fire")

    def documents() -> Iterator[str]:
        yield "one"
        raise error

    with pytest.raises(RuntimeError) as caught:
        train_bpe(documents(), 300)
    assert caught.value is error


def test_documents_are_streamed() -> None:
    alive = 0
    most_alive = 0

    class Document(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def documents() -> Iterator[bytes]:
        nonlocal alive, most_alive
        for _ in range(80):
            alive += 1
            most_alive = max(most_alive, alive)
            yield Document(bytes(1_000_000))

    train_bpe(documents(), 257)
    assert alive == 0
    assert most_alive < 20


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """A shell starts what runs in the background deaf to SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("phase", ["count", "merge"])
@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_ends_both_phases_soon(phase: str, num_threads: int) -> None:
    """The signal is sent from the progress callback, so that it arrives within the phase."""
    letters = bytes(ord("a") + i % 16 for i in range(256))
    text = random.Random(0).randbytes(6_000_000).translate(letters)
    sent = 0.0

    def interrupt(num_bytes: int, num_merges: int) -> None:
        nonlocal sent
        if not sent and (num_merges > 0) == (phase == "merge"):
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

    documents = [text] * 1000 if phase == "count" else [text]  # 6 GB, counted as one object
    with pytest.raises(KeyboardInterrupt):
        train_bpe(documents, 60_000, num_threads=num_threads, progress=interrupt)
    assert sent > 0
    assert time.perf_counter() - sent < 2  # about 0.03 s; either phase would take half a minute


def test_progress_counts_bytes_then_merges_and_may_raise() -> None:
    seen: list[tuple[int, int]] = []
    texts = prose(3, 50)
    ranks = train_bpe(texts, 400, progress=lambda *done: seen.append(done))
    assert seen[-1] == (sum(len(text.encode()) for text in texts), len(ranks) - 256)
    error = RuntimeError("enough")

    def fail(num_bytes: int, num_merges: int) -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        train_bpe(texts, 400, progress=fail)
    assert caught.value is error


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
)
def test_arrow_arrays_are_documents(type_: pa.DataType) -> None:
    texts = prose(4, 60)
    expected = train_bpe(texts, 500)
    column = pa.array([text.encode() for text in texts], pa.binary()).cast(type_)
    chunked = pa.chunked_array([column[:7], column[7:7], column[7:]])
    batches = [pa.record_batch({"text": column[i : i + 11]}) for i in range(0, 60, 11)]
    assert train_bpe(column, 500) == expected
    assert train_bpe(chunked, 500, num_threads=2) == expected
    assert train_bpe(batches, 500, num_threads=1) == expected
    assert train_bpe(pa.Table.from_batches(batches), 500) == expected
    assert train_bpe([*texts[:5], column[5:50], *texts[50:]], 500) == expected


def test_parquet_column_is_read_without_str(tmp_path: Path) -> None:
    texts = prose(5, 60)
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", row_group_size=9)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert train_bpe(file.iter_batches(columns=["text"]), 500) == train_bpe(texts, 500)


def test_arrow_that_is_not_text_is_refused() -> None:
    with pytest.raises(TypeError, match="must not be null, got one at index 3"):
        train_bpe([pa.array(["a"]), pa.array(["b", "c", None])], 300)
    with pytest.raises(TypeError, match="must hold strings or bytes, got format 'l'"):
        train_bpe(pa.array([1, 2]), 300)
    with pytest.raises(TypeError, match="must have one column, the text, got 2"):
        train_bpe(pa.table({"a": ["x"], "b": ["y"]}), 300)


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN, CL100K_PATTERN])
def test_other_patterns_train(pattern: str) -> None:
    texts = [*prose(6, 100), "1234 12345678 " * 9, "it'S \n \n x\n"]
    assert train_bpe(texts, 600, pattern) == rust_ranks(texts, 600, pattern)


@pytest.mark.filterwarnings("ignore:nanochat. the split pattern")
def test_pieces_of_another_pattern_are_not_split_again() -> None:
    assert b"it's" in train_bpe(["it's it's it's"], 300, r"\S+|\s+")


def test_pattern_without_a_scanner_is_split_by_the_regex_package() -> None:
    texts = prose(7, 100)
    pattern = r"\w+|\W"
    with pytest.warns(UserWarning, match=r"no native scanner.*: '\\\\w\+"):
        ranks = train_bpe(texts, 400, pattern)
    assert ranks == rust_ranks(texts, 400, pattern)
    assert train_bpe([b"\xff\xfe", *texts], 400, pattern)[b"\xff"] == 255  # warned once


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        ("a*", "must not match the empty text"),
        (r"b|a\b|(?=a)", "must match all of a text, got nothing at character 1 of 'aa'"),
        ("b", "must match all of a text, got nothing at character 1 of 'aa'"),
    ],
)
@pytest.mark.filterwarnings("ignore:nanochat. the split pattern")
def test_pattern_that_would_lose_text_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_bpe(["baa"], 300, pattern)
