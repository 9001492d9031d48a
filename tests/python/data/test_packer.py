"""Promises of the packer: nothing lost, nothing doubled, next to no padding, BOS in front."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.packer import IGNORE, Rows, pack
from nanochat.data.rendering import TokenBatch

BOS = 0


def texts(lengths: Sequence[int]) -> TokenBatch:
    """Documents of the given numbers of tokens; every token of the block is unique."""
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    return TokenBatch(np.arange(1, offsets[-1] + 1, dtype=np.uint32), offsets, mask=None)


def conversations(*documents: tuple[list[int], list[int]]) -> TokenBatch:
    """Documents of (ids, mask)."""
    return TokenBatch(
        np.array([i for ids, _ in documents for i in ids], np.int32),
        np.cumsum([0, *(len(ids) for ids, _ in documents)], dtype=np.int64),
        np.array([i for _, mask in documents for i in mask], np.bool_),
    )


def pieces(row: np.ndarray) -> list[list[int]]:
    """Tokens behind each BOS of a row, padding dropped."""
    cuts = np.flatnonzero(row == BOS)
    found = [row[a + 1 : b].tolist() for a, b in zip(cuts, [*cuts[1:], len(row)], strict=True)]
    return [piece for piece in found if piece]


def check_complete(rows: Rows, documents: TokenBatch, seq_len: int) -> None:
    assert rows.ids.shape == (len(rows), seq_len + 1)
    assert rows.targets.shape == (len(rows), seq_len)
    assert (rows.ids[:, 0] == BOS).all()
    wanted = Counter(documents.ids.tolist())
    assert Counter(rows.ids[rows.ids != BOS].tolist()) == wanted
    # Each token of a document is a target exactly once, of the token that stands before it or BOS.
    assert Counter(rows.targets[rows.targets > BOS].tolist()) == wanted
    learnt = rows.targets != IGNORE
    assert (rows.targets[learnt] == rows.ids[:, 1:][learnt]).all()
    before = rows.ids[:, :-1][rows.targets > BOS]
    assert ((before == BOS) | (before == rows.targets[rows.targets > BOS] - 1)).all()
    assert rows.num_documents.sum() == np.count_nonzero(np.diff(documents.offsets))
    padding = (rows.ids[:, ::-1] != BOS).argmax(axis=1) if len(rows) else np.zeros(0)
    assert (rows.num_padding == padding).all()


@given(
    lengths=st.lists(st.integers(0, 200), max_size=60),
    seq_len=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
def test_every_token_is_a_target_once(lengths: list[int], seq_len: int, seed: int) -> None:
    documents = texts(lengths)
    rows = pack(documents, bos=BOS, seq_len=seq_len, key=(seed, 1, 2))
    check_complete(rows, documents, seq_len)


@given(lengths=st.lists(st.integers(1, 300), max_size=60), seq_len=st.integers(1, 70))
def test_padding_is_bounded_for_any_lengths(lengths: list[int], seq_len: int) -> None:
    rows = pack(texts(lengths), bos=BOS, seq_len=seq_len, key=(0,))
    tokens = len(rows) * (seq_len + 1)
    worst_gap = max(1, (seq_len + 1) // 32)
    assert rows.num_padding.sum() <= max(0.01 * tokens, worst_gap * len(rows)) + seq_len


@pytest.mark.parametrize("seq_len", [256, 2048])
@pytest.mark.parametrize("shape", ["log-normal", "0.6 of a row", "a little more than a row"])
def test_waste(seq_len: int, shape: str) -> None:
    rng = np.random.default_rng(0)
    lengths = {
        "log-normal": np.clip(rng.lognormal(6.0, 1.2, 1500).astype(int), 1, 50_000),
        "0.6 of a row": np.full(800, int(0.6 * seq_len)),
        "a little more than a row": rng.integers(seq_len + 1, seq_len + 9, 300),
    }[shape]
    documents = texts(lengths)
    rows = pack(documents, bos=BOS, seq_len=seq_len, key=(0,))
    assert rows.num_padding.sum() / rows.ids.size <= 0.011
    num_pieces = sum(len(pieces(row)) for row in rows.ids)
    forced = sum(-(-int(n) // seq_len) for n in lengths)
    assert num_pieces - forced <= len(rows)  # a gap costs one cut


def test_cut_ends_its_row() -> None:
    """BOS is a target only behind the true end of a document."""
    documents = texts([70] * 40)
    rows = pack(documents, bos=BOS, seq_len=99, key=(3,))
    check_complete(rows, documents, 99)
    assert (rows.ids == BOS).sum() > 40  # some were cut
    last = rows.ids[:, :-1][rows.targets == BOS]
    assert len(last) > 0
    assert (last % 70 == 0).all()


def test_long_document_continues_in_chunks_that_begin_with_bos() -> None:
    rows = pack(texts([25]), bos=BOS, seq_len=10, key=(0,))
    assert sorted(pieces(row)[0] for row in rows.ids) == [
        list(range(1, 11)),
        list(range(11, 21)),
        list(range(21, 26)),
    ]
    assert rows.num_documents.sum() == 1


def test_same_key_same_rows_and_order_depends_on_key() -> None:
    documents = texts([13] * 100)
    a, b, c = (pack(documents, bos=BOS, seq_len=32, key=key) for key in [(1, 2), (1, 2), (1, 3)])
    assert (a.ids == b.ids).all()
    assert not (a.ids == c.ids).all()


def test_rows_are_shuffled() -> None:
    rows = pack(texts([10] * 50), bos=BOS, seq_len=10, key=(0,))
    first = rows.ids[:, 1].tolist()
    assert first != sorted(first)
    assert first[::-1] != sorted(first)


def test_conversations_are_masked_and_never_cut_to_fit() -> None:
    documents = [(list(range(10 * i + 1, 10 * i + 7)), [0, 0, 0, 1, 1, 0]) for i in range(20)]
    rows = pack(conversations(*documents), bos=BOS, seq_len=9, key=(0,))
    assert len(rows) == 20  # 7 tokens in rows of 10: no second one fits, none is cut
    assert sorted(rows.targets[rows.targets != IGNORE].tolist()) == sorted(
        10 * i + k for i in range(20) for k in (4, 5)
    )


def test_bos_behind_a_conversation_is_no_target() -> None:
    document = ([1, 2, 3], [0, 1, 1])
    rows = pack(conversations(document, document), bos=BOS, seq_len=7, key=(0,))
    assert rows.ids.tolist() == [[BOS, 1, 2, 3] * 2]
    assert rows.targets.tolist() == [[IGNORE, 2, 3, IGNORE, IGNORE, 2, 3]]


def test_conversation_longer_than_a_row_loses_its_end() -> None:
    ids = list(range(1, 31))
    kept = (ids, [0] * 4 + [1] * 26)
    no_target_left = (ids, [0] * 24 + [1] * 6)
    rows = pack(conversations(kept, no_target_left), bos=BOS, seq_len=20, key=(0,))
    assert rows.ids.tolist() == [list(range(21))]
    assert rows.targets.tolist() == [[IGNORE] * 4 + list(range(5, 21))]


def test_bos_behind_a_text_is_a_target_but_not_behind_its_padding() -> None:
    rows = pack(texts([2, 1]), bos=BOS, seq_len=7, key=(0,))
    (row,), (targets,) = rows.ids.tolist(), rows.targets.tolist()
    assert targets[:4] == row[1:5]
    assert targets[4:] == [IGNORE] * 3


def test_nothing_gives_no_rows() -> None:
    for documents in texts([]), texts([0, 0]), conversations(), conversations(([5, 6], [0, 0])):
        rows = pack(documents, bos=BOS, seq_len=8, key=(0,))
        assert rows.ids.shape == (0, 9)
        assert rows.targets.shape == (0, 8)


def test_rows_are_those_of_every_version() -> None:
    """A checkpoint names rows by number, so what a key gives is part of its format."""
    rows = pack(texts([6, 6, 6, 12, 1]), bos=BOS, seq_len=9, key=(1, 2, 3))
    assert rows.ids.tolist() == [
        [BOS, *range(13, 19), BOS, 31, BOS],
        [BOS, *range(19, 28)],
        [BOS, *range(7, 13), BOS, 28, 29],  # cut, to fill the row
        [BOS, *range(1, 7), BOS, 30, BOS],
    ]
    masked = conversations(([1, 2], [0, 1]), ([3], [1]), ([4, 5, 6], [1, 0, 1]), ([7, 8], [1, 1]))
    assert pack(masked, bos=BOS, seq_len=6, key=(4,)).targets.tolist() == [
        [3, IGNORE, 7, 8, IGNORE, IGNORE],
        [IGNORE, 2, IGNORE, 4, IGNORE, 6],
    ]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_ids_may_have_the_tokenizer_s_type(dtype: type) -> None:
    documents = texts([9, 4, 30])
    a = pack(documents, bos=BOS, seq_len=12, key=(0,))
    b = pack(documents._replace(ids=documents.ids.astype(dtype)), bos=BOS, seq_len=12, key=(0,))
    assert (a.ids == b.ids).all()
    assert b.ids.dtype == b.targets.dtype == np.int32


def array(values: list[int], dtype: type = np.int64) -> np.ndarray:
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.ones(2, np.bool_)}, "mask must have 3 entries, got 2"),
        (
            {"mask": array([1, 1, 1])},
            "mask must be a contiguous 1-D array of bool, got 1-D of int64",
        ),
        ({"offsets": array([])}, "offsets must begin with 0"),
        ({"offsets": array([1, 3])}, "offsets must begin with 0.*, got 1"),
        ({"offsets": array([0, 2, 1, 3])}, "offsets must ascend, got 1 behind 2 at index 2"),
        ({"offsets": array([0, 2])}, "offsets must end with the number of ids, 3, got 2"),
        ({"offsets": array([0, 3], np.int32)}, "offsets must be .* int64, got 1-D of int32"),
        ({"ids": array([1, 2, 3])}, "ids must be uint16, uint32 or int32, got int64"),
        ({"ids": np.arange(6, dtype=np.int32)[::2]}, "ids must be a contiguous 1-D"),
        ({"ids": array([1, 2, -3], np.int32)}, "ids must be 0 to 2147483647, got -3 at index 2"),
        ({"ids": array([1, 1 << 31, 3], np.uint32)}, "ids must be .*, got 2147483648 at index 1"),
        ({"seq_len": 0}, "seq_len must be 1 to 2147483646, got 0"),
        ({"bos": -1}, "bos must be an id, got -1"),
    ],
)
def test_a_caller_s_mistake_is_told(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"bos": BOS, "seq_len": 8, "key": (0,)}
    options.update({name: changes[name] for name in changes.keys() & options.keys()})
    arrays = {name: changes[name] for name in changes.keys() - options.keys()}
    with pytest.raises(ValueError, match=message):
        pack(texts([1, 2])._replace(**arrays), **options)


@pytest.mark.parametrize(
    ("lengths", "seq_len"),
    [([20_000_000], 2048), ([1] * 1_000_000, 2048), ([1228] * 20_000, 2048), ([700_000], 1)],
    ids=["one giant document", "many documents of a token", "all of 0.6 T", "T = 1"],
)
def test_no_shape_of_documents_is_slow(lengths: list[int], seq_len: int) -> None:
    """About 0.1 s each; what is quadratic in rows or documents would take minutes."""
    documents = texts(lengths)
    start = time.process_time()
    rows = pack(documents, bos=BOS, seq_len=seq_len, key=(0,))
    assert time.process_time() - start < 10
    assert np.count_nonzero(rows.ids != BOS) == sum(lengths)
