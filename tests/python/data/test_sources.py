"""Corpora of real files: fair blocks, a stable held-out split, one clear line for each bad file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nanochat.common.errors import UserError
from nanochat.data import Corpus, GeneratedSource, Source, files, items, sources, streams


def documents(name: str, n: int) -> list[str]:
    return [f"{name} {i}: " + "some words \u2028 and more\u00e4 " * (1 + i % 5) for i in range(n)]


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode()


def write(path: Path, texts: list[str]) -> Path:
    """Write documents in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=64)
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(lines(texts)))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines(texts), mtime=0))
    else:
        path.write_bytes(lines(texts))
    return path


def blocks(source: Source, epoch: int = 0) -> list[list[Any]]:
    found = []
    while (block := source.block(epoch, len(found))) is not None:
        found.append(block)
    return found


def both_splits(corpus: Corpus) -> list[str]:
    return [*items(corpus.source("train")), *items(corpus.source("val"))]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few kilobytes make many segments and cursors."""
    monkeypatch.setattr(files, "LINES_BYTES", 300)
    monkeypatch.setattr(files, "PIECE_BYTES", 300)
    monkeypatch.setattr(files, "ROWS_BYTES", 300)


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no compressed file in memory."""
    monkeypatch.setattr(sources, "_MEMORY_BYTES", 0)


FORMATS = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
@pytest.mark.parametrize("name", FORMATS)
def test_each_epoch_holds_each_document_once(
    tmp_path: Path, name: str, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MEMORY_BYTES", memory_bytes)
    texts = documents("a", 500)
    corpus = Corpus(write(tmp_path / name, texts))
    train, val = corpus.source("train", block_bytes=4000), corpus.source("val")
    held_out = list(items(val))
    assert len(held_out) == 20
    orders = []
    for epoch in range(3):
        got = [item for block in blocks(train, epoch) for item in block]
        assert Counter(got) == Counter(texts) - Counter(held_out)
        orders.append(got)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
@pytest.mark.parametrize("name", FORMATS)
def test_blocks_are_random_access(
    tmp_path: Path, name: str, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MEMORY_BYTES", memory_bytes)
    corpus = Corpus(write(tmp_path / name, documents("a", 300)))
    in_order = [blocks(corpus.source("train", block_bytes=3000), epoch) for epoch in range(2)]
    source = corpus.source("train", block_bytes=3000)
    for epoch, index in [(1, 3), (0, 2), (0, 0), (1, 0), (0, 4), (0, 4)]:
        assert source.block(epoch, index) == in_order[epoch][index]
    assert source.block(0, len(in_order[0])) is None
    source.close()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_every_block_mixes_the_files_by_size(
    tmp_path: Path, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_MEMORY_BYTES", memory_bytes)
    write(tmp_path / "books.jsonl", documents("books", 1200))
    write(tmp_path / "sub" / "wiki.jsonl.zst", documents("wiki", 600))
    write(tmp_path / "sub" / "deeper" / "news.parquet", documents("news", 600))
    found = blocks(Corpus(tmp_path).source("train", block_bytes=30_000))
    assert len(found) >= 5
    for block in found[:-1]:
        share = Counter(text.split()[0] for text in block)
        assert share["books"] == pytest.approx(len(block) / 2, rel=0.15)
        assert share["wiki"] == pytest.approx(len(block) / 4, rel=0.25)


@pytest.mark.usefixtures("small_segments")
def test_many_small_files_are_spread(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:03}.txt").write_text(f"{i} " + "word " * 40)
    got = [int(t.split()[0]) for b in blocks(Corpus(tmp_path).source("train")) for t in b]
    assert len(got) == 90
    assert got != sorted(got)
    early, late = sum(i < 50 for i in got[:45]), sum(i < 50 for i in got[45:])
    assert min(early, late) > 10


@pytest.mark.usefixtures("small_segments", "streamed")
def test_more_streams_than_cursors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_WAVE", 2)
    monkeypatch.setattr(streams, "MAX_CURSORS", 4)
    opened: list[Path] = []
    skip = streams.RangeReader._skip
    monkeypatch.setattr(
        streams.RangeReader,
        "_skip",
        lambda self, path, start: opened.append(path) or skip(path, start),
    )
    texts: list[str] = []
    for i in range(10):
        texts += documents(f"f{i}", 30)
        write(tmp_path / f"{i}.jsonl.zst", texts[-30:])
    corpus = Corpus(tmp_path)
    opened.clear()
    source = corpus.source("train", block_bytes=2000)
    found = blocks(source)
    assert (
        len(opened) <= 2 * 10
    )  # each is opened where the epoch begins in it, and once at its start
    assert len(source._reader.ranges._cursors) <= 4
    assert Counter(t for b in found for t in b) + Counter(items(corpus.source("val"))) == Counter(
        texts
    )
    assert max(len({t.split()[0] for t in b}) for b in found) <= 4  # two waves may meet in a block


def test_text_file_is_cut_at_paragraph_ends(tmp_path: Path) -> None:
    paragraphs = [f"{i} " + "word \u00e4\u00f6 " * (i % 90 + 10) for i in range(400)]
    text = "\n\n".join(paragraphs)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    corpus = Corpus(tmp_path / "a.txt")
    pieces = both_splits(corpus)
    assert all(len(piece.encode()) <= files.PIECE_BYTES for piece in pieces)
    pieces.sort(key=lambda piece: int(piece.split()[0]))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    assert len(list(items(corpus.source("val")))) == 1


def test_text_without_any_place_to_cut(tmp_path: Path) -> None:
    text = "\u4e16\u754c" * 30_000
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(text.encode()))
    pieces = both_splits(Corpus(tmp_path))
    assert sum(map(len, pieces)) == len(text)
    assert set("".join(pieces)) == {"\u4e16", "\u754c"}


def test_byte_order_mark_blank_lines_and_missing_last_newline(tmp_path: Path) -> None:
    rows = [b'{"text": "one"}', b"", b'{"text": "  "}', b'{"text": "two\\u2028"}', b'{"text": "x"}']
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    assert sorted(both_splits(Corpus(tmp_path))) == ["one", "two\u2028", "x"]


def test_zst_of_several_frames(tmp_path: Path) -> None:
    texts = documents("a", 40)
    frames = [zstandard.compress(lines(texts[:15])), zstandard.compress(lines(texts[15:]))]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert Counter(both_splits(Corpus(tmp_path))) == Counter(texts)


def test_line_longer_than_a_segment(tmp_path: Path) -> None:
    texts = ["a " * 100_000, "b", "c " * 50_000]
    for name in ("a.jsonl", "b.jsonl.gz"):
        write(tmp_path / name, texts)
        assert sorted(both_splits(Corpus(tmp_path / name))) == sorted(texts)


def test_split_is_by_text_alone(tmp_path: Path) -> None:
    texts = documents("a", 600)
    one = Corpus(write(tmp_path / "one" / "z.parquet", texts))
    write(tmp_path / "two" / "a.jsonl.zst", texts[300:][::-1])
    write(tmp_path / "two" / "b.jsonl", texts[:300])
    two = Corpus(tmp_path / "two")
    held_out = set(items(one.source("val", seed=1)))
    assert held_out == set(items(two.source("val", seed=2)))
    assert held_out.isdisjoint(items(two.source("train")))


def test_split_of_a_grown_corpus_keeps_its_training_side(tmp_path: Path) -> None:
    """A document that was trained on never becomes a validation document."""
    texts = documents("a", 6000)
    small = Corpus(write(tmp_path / "small.jsonl", texts[:1000]))
    large = Corpus(write(tmp_path / "large.jsonl", texts))
    held_out = set(items(large.source("val")))
    assert 10 <= len(held_out) <= 60  # 1 in 200
    assert held_out.isdisjoint(items(small.source("train")))


@pytest.mark.parametrize(("n", "num_val"), [(1, 0), (2, 1), (9, 1), (50, 5), (1000, 20)])
def test_small_corpus_holds_out_a_few(tmp_path: Path, n: int, num_val: int) -> None:
    corpus = Corpus(write(tmp_path / "a.jsonl", documents("a", n)))
    assert len(list(items(corpus.source("val")))) == num_val
    assert len(list(items(corpus.source("train")))) == n - num_val


def test_glob_and_unsupported_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ["one", "two"])
    write(tmp_path / "b.jsonl.gz", ["three"])
    write(tmp_path / ".hidden.jsonl", ["four"])
    (tmp_path / "README.md").write_text("not a corpus")
    assert sorted(both_splits(Corpus(tmp_path / "*.jsonl*"))) == ["one", "three", "two"]
    assert sorted(both_splits(Corpus(tmp_path))) == ["one", "three", "two"]


def corrupt(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def parquet_bytes(tmp_path: Path, texts: list[Any], column: str = "text") -> bytes:
    pq.write_table(pa.table({column: texts}), tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def test_bad_files_give_one_line_naming_the_file(tmp_path: Path) -> None:
    texts = documents("a", 3000)
    zst, gz = zstandard.compress(lines(texts)), gzip.compress(lines(texts))
    parquet = parquet_bytes(tmp_path, texts)
    large = lines(documents("a", 5000))  # too many to be read for the split
    latin1 = lines(texts) + '{"text": "caf\u00e9"}'.encode("latin-1")
    cases: list[tuple[str, bytes, str]] = [
        ("cut.jsonl.zst", zst[:-100], "truncated"),
        ("flipped.jsonl.zst", zst[:2000] + bytes(200) + zst[2200:], "cannot be read|UTF-8"),
        ("not.jsonl.zst", b"plain text, not zstd", "cannot be read"),
        ("cut.jsonl.gz", gz[:-2000], "truncated"),
        ("flipped.jsonl.gz", gz[:2000] + bytes(200) + gz[2200:], "cannot be read|UTF-8"),
        ("garbage.jsonl.gz", gz[:10] + b"\xff" * 100, "cannot be read"),
        ("not.jsonl.gz", b"plain text, not gzip", "cannot be read"),
        ("cut.parquet", parquet[:-500], "truncated or damaged"),
        ("not.parquet", b"plain text", "truncated or damaged"),
        ("column.parquet", parquet_bytes(tmp_path, texts, "body"), "no column 'text'.*body"),
        (
            "number.parquet",
            parquet_bytes(tmp_path, [1, 2]),
            "row 1: 'text' must be a string, got int",
        ),
        ("latin1.jsonl", latin1, f"not UTF-8 at byte {len(latin1) - 3}"),
        ("large.jsonl", large + b"\xe9", f"not UTF-8 at byte {len(large)}"),
        ("latin1.txt", b"ok\n" * 20_000 + b"caf\xe9", "not UTF-8 at byte 60003"),
        ("json.jsonl", lines(texts) + b'{"text": \n', r"json\.jsonl:3001: not valid JSON"),
        ("digits.jsonl", b'{"text": ' + b"1" * 5000 + b"}\n", r"digits\.jsonl:1: not valid JSON"),
        ("nested.jsonl", b"[" * 200_000, r"nested\.jsonl:1: not valid JSON"),
        ("field.jsonl", lines(texts[:1]) + b'{"body": "x"}\n', r"field\.jsonl:2: no field 'text'"),
        ("list.jsonl", b"[1]\n", r"list\.jsonl:1: no field 'text'"),
        ("type.jsonl", b'{"text": 5}\n', r"type\.jsonl:1: 'text' must be a string, got int"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', r"half\.jsonl:1: .*alone is no character"),
        ("empty.txt", b"", "no document"),
        ("blank.jsonl", b'\n{"text": " "}\n\n', "no document"),
    ]
    for name, data, message in cases:
        path = corrupt(tmp_path / name, data)
        with pytest.raises(UserError, match=message) as caught:
            Corpus(path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("small_segments")
def test_damage_behind_the_footer_of_parquet_is_told_when_read(tmp_path: Path) -> None:
    data = bytearray(parquet_bytes(tmp_path, documents("a", 6000)))
    data[1000:9000] = bytes(8000)
    corpus = Corpus(corrupt(tmp_path / "a.parquet", bytes(data)))
    with pytest.raises(UserError, match=r"a\.parquet is not a readable parquet file"):
        both_splits(corpus)


@pytest.mark.usefixtures("small_segments", "streamed")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_file_that_shrinks_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, documents("a", 100))
    source = Corpus(path).source("train")
    write(path, documents("a", 50))
    with pytest.raises(UserError, match="became shorter"):
        blocks(source)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches .*missing"):
        Corpus(tmp_path / "missing")
    with pytest.raises(UserError, match="no supported file for text in"):
        Corpus(tmp_path)
    (tmp_path / "a.txt").write_text("no conversation")


def test_items_of_a_generated_source() -> None:
    source = GeneratedSource(str, items_per_block=3)
    assert list(islice(items(source), 7)) == [str(i) for i in range(7)]
    assert source.block(1, 0) is None
