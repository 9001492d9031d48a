"""train_bpe: equal to rustbpe and to a plain reference, streaming, errors, Ctrl-C."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import rustbpe
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import _core
from nanochat.tokenizer import SPLIT_PATTERN, train_bpe


def rust_ranks(texts: Sequence[str], vocab_size: int) -> dict[bytes, int]:
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=SPLIT_PATTERN)
    return {bytes(token): rank for token, rank in tokenizer.get_mergeable_ranks()}


def reference_ranks(texts: Sequence[str | bytes], vocab_size: int) -> dict[bytes, int]:
    """BPE as one would write it on a blackboard."""
    pieces: Counter[tuple[int, ...]] = Counter()
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        pieces.update(map(tuple, _core.bpe_pretokenize(data)))
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
    with pytest.raises(TypeError, match=r"iterable of documents.*pass \[text\]"):
        train_bpe(text, 300)  # type: ignore[arg-type]


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="document 1 has a lone surrogate"):
        train_bpe(["fine", "not \ud800 fine"], 300)


def test_other_patterns_and_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="pattern must be SPLIT_PATTERN"):
        train_bpe(["text"], 300, pattern=r"\w+")
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


def test_ctrl_c_ends_the_merge_loop() -> None:
    """Five signals, each sent after the one before was handled: at most three can be handled
    before the merge loop (in the iterable, after the last batch, after counting)."""
    num_signals = 5
    num_handled = 0
    ready = threading.Event()
    is_over = False

    def count_then_interrupt(_signal: int, _frame: object) -> None:
        nonlocal num_handled
        num_handled += 1
        ready.set()
        if num_handled == num_signals:
            raise KeyboardInterrupt

    def send() -> None:
        for _ in range(num_signals):
            ready.wait()
            ready.clear()
            if is_over:
                return
            os.kill(os.getpid(), signal.SIGINT)

    def documents() -> Iterator[bytes]:
        letters = bytes(ord("a") + i % 16 for i in range(256))
        yield random.Random(0).randbytes(6_000_000).translate(letters)
        ready.set()

    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGINT, count_then_interrupt)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            train_bpe(documents(), 60_000, num_threads=1)
    finally:
        is_over = True
        ready.set()
        sender.join()
        signal.signal(signal.SIGINT, before)
