"""Promises of the packer: nothing lost, nothing doubled, next to no padding, BOS in front."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.packer import IGNORE, Rows, pack
from nanochat.data.rendering import Rendered

BOS = 0


def texts(lengths: list[int]) -> list[Rendered]:
    """Documents of the given numbers of tokens behind BOS; every token of the block is unique."""
    ends = np.cumsum([0, *lengths])
    return [([BOS, *range(a + 1, b + 1)], None) for a, b in pairwise(ends.tolist())]


def pieces(row: np.ndarray) -> list[list[int]]:
    """Tokens behind each BOS of a row, padding dropped."""
    cuts = np.flatnonzero(row == BOS)
    found = [row[a + 1 : b].tolist() for a, b in zip(cuts, [*cuts[1:], len(row)], strict=True)]
    return [piece for piece in found if piece]


def check_complete(rows: Rows, documents: list[Rendered], seq_len: int) -> None:
    assert rows.ids.shape == (len(rows), seq_len + 1)
    assert rows.targets.shape == (len(rows), seq_len)
    assert (rows.ids[:, 0] == BOS).all()
    wanted = Counter(token for ids, _ in documents for token in ids[1:])
    assert Counter(rows.ids[rows.ids != BOS].tolist()) == wanted
    # Each token of a document is a target exactly once, of the token that stands before it or BOS.
    assert Counter(rows.targets[rows.targets > BOS].tolist()) == wanted
    learnt = rows.targets != IGNORE
    assert (rows.targets[learnt] == rows.ids[:, 1:][learnt]).all()
    before = rows.ids[:, :-1][rows.targets > BOS]
    assert ((before == BOS) | (before == rows.targets[rows.targets > BOS] - 1)).all()
    assert rows.num_documents.sum() == sum(len(ids) > 1 for ids, _ in documents)
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
    documents = texts(lengths.tolist())
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
    documents: list[Rendered] = [
        ([BOS, *range(10 * i + 1, 10 * i + 7)], [0, 0, 0, 0, 1, 1, 0]) for i in range(20)
    ]
    rows = pack(documents, bos=BOS, seq_len=9, key=(0,))
    assert len(rows) == 20  # 7 tokens in rows of 10: no second one fits, none is cut
    assert sorted(rows.targets[rows.targets != IGNORE].tolist()) == sorted(
        10 * i + k for i in range(20) for k in (4, 5)
    )


def test_bos_behind_a_conversation_is_no_target() -> None:
    document: Rendered = ([BOS, 1, 2, 3], [0, 0, 1, 1])
    rows = pack([document, document], bos=BOS, seq_len=7, key=(0,))
    assert rows.ids.tolist() == [[BOS, 1, 2, 3] * 2]
    assert rows.targets.tolist() == [[IGNORE, 2, 3, IGNORE, IGNORE, 2, 3]]


def test_conversation_longer_than_a_row_loses_its_end() -> None:
    ids = list(range(BOS, 31))
    kept: Rendered = (ids, [0] * 5 + [1] * 26)
    no_target_left: Rendered = (ids, [0] * 25 + [1] * 6)
    rows = pack([kept, no_target_left], bos=BOS, seq_len=20, key=(0,))
    assert rows.ids.tolist() == [list(range(21))]
    assert rows.targets.tolist() == [[IGNORE] * 4 + list(range(5, 21))]


def test_bos_behind_a_text_is_a_target_but_not_behind_its_padding() -> None:
    rows = pack([([BOS, 1, 2], None), ([BOS, 3], None)], bos=BOS, seq_len=7, key=(0,))
    (row,), (targets,) = rows.ids.tolist(), rows.targets.tolist()
    assert targets[:4] == row[1:5]
    assert targets[4:] == [IGNORE] * 3


def test_nothing_gives_no_rows() -> None:
    rows = pack([], bos=BOS, seq_len=8, key=(0,))
    assert len(rows) == 0
    assert rows.ids.shape == (0, 9)
    assert len(pack([([BOS], None)], bos=BOS, seq_len=8, key=(0,))) == 0


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (([5, 6], None), "must begin with BOS"),
        (([], None), "must begin with BOS"),
        (([BOS, 1, 2], [0, 1]), "mask must have 3 entries, got 2"),
    ],
)
def test_a_caller_s_mistake_is_told(document: Rendered, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack([document], bos=BOS, seq_len=8, key=(0,))
