"""Files of conversations: bad rows are counted, bad files are errors."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nanochat.common.errors import UserError
from nanochat.data import chats
from nanochat.data.chats import Tally, read_chats
from nanochat.data.forms import conversation_of


def row(i: int | str) -> dict[str, Any]:
    return {"instruction": f"question {i}", "output": f"answer {i}\u2028 on one line"}


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


def read(path: Path | str, **options: Any) -> tuple[list[Any], Tally]:
    tally = Tally()
    found = read_chats(path, tally, convert=conversation_of, **options)
    return [conversation["messages"] for _, conversation in found], tally


def asked(messages: list[dict[str, Any]]) -> str:
    return str(messages[0]["content"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_format(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "LINES_BYTES", 200)  # many pieces
    rows = [row(i) for i in range(30)]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(jsonl(rows)))
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.compress(jsonl(rows)))
    else:
        path.write_bytes(b"\xef\xbb\xbf" + jsonl(rows).rstrip(b"\n"))  # as some editors write it
    (tmp_path / "notes.txt").write_text("ignored")
    for where in path, tmp_path, str(tmp_path / "*"):
        found, tally = read(where)
        assert [asked(messages) for messages in found] == [f"question {i}" for i in range(30)]
        assert (tally.num_rows, tally.num_malformed) == (30, 0)


def test_bad_rows_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    bad = [
        b"not json",
        b'{"instruction": "cut in the mid',
        b"[1, 2]",
        b"17",
        b'{"messages": [{"role": "user", "content": "Hi"}]}',
        '{"instruction": "caf\u00e9", "output": "x"}'.encode("latin-1"),
        b'{"instruction": "half a \\ud800", "output": "x"}',
        b"[" * 100_000,
        b'{"instruction": "Hi", "output": ' + b"9" * 5000 + b"}",
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([jsonl([row(0)]), *bad, b" ", jsonl([row(1)])]))
    found, tally = read(path)
    assert [asked(messages) for messages in found] == ["question 0", "question 1"]
    assert (tally.num_rows, tally.num_malformed) == (2 + len(bad), len(bad))
    assert tally.first_malformed == f"{path}:3: not valid JSON (Expecting value at column 1)"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"instruction": "caf\u00e9"}'.encode("latin-1"), "not UTF-8 at byte 20 of the line"),
        (b'{"instruction": "\\udc00", "output": "x"}', "alone is no character; remove it"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_reasons(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line)
    found, tally = read(tmp_path)
    assert found == []
    assert tally.first_malformed.startswith(f"{tmp_path}/a.jsonl:1: ")
    assert reason in tally.first_malformed


def test_nulls_of_parquet_are_malformed_rows(tmp_path: Path) -> None:
    rows = [row(0), {"instruction": None, "output": "x"}, row(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found, tally = read(tmp_path)
    assert len(found) == 2
    assert tally.first_malformed.startswith(f"{tmp_path}/a.parquet: row 2: neither")


def test_a_gigantic_row_is_a_row_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([row(0), row("x" * 5_000_000), row(2)]))
    found, tally = read(tmp_path)
    assert len(asked(found[1])) > 5_000_000
    assert (tally.num_rows, tally.num_malformed) == (3, 0)


def test_equal_rows_have_equal_digests(tmp_path: Path) -> None:
    a, b = row(0), dict(reversed(row(0).items()))
    (tmp_path / "a.jsonl").write_bytes(jsonl([a, b, row(1)]))
    first, second, third = (d for d, _ in read_chats(tmp_path, Tally(), convert=conversation_of))
    assert first == second != third


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl.gz", ".parquet"])
def test_truncated_files_are_errors(tmp_path: Path, suffix: str) -> None:
    rows = [row(i) for i in range(3000)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pack = zstandard.compress if suffix.endswith(".zst") else gzip.compress
        path.write_bytes(pack(jsonl(rows)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=rf"a{suffix} is .*truncated.*; copy it again"):
        read(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches .*missing"):
        read(tmp_path / "missing")
    (tmp_path / "a.txt").write_text("no conversation")
    with pytest.raises(UserError, match=r"no supported file for conversations in .*\.jsonl or"):
        read(tmp_path)


def test_placeholders_are_filled(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Who are you?", "output": "{{name}} by {{author}}"},
        {"instruction": "{{name}}!", "output": "Yes? {{ x }} {{name}}"},
        {"instruction": "Hi", "output": "Yo"},
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    fill = {"name": 'Ada "the" \\ \u00e4', "author": "Grace"}
    found, tally = read(tmp_path, fill=fill)
    assert found[0][1]["content"] == 'Ada "the" \\ \u00e4 by Grace'
    assert asked(found[1]) == 'Ada "the" \\ \u00e4!'
    assert found[1][1]["content"] == 'Yes? {{ x }} Ada "the" \\ \u00e4'
    assert tally.unfilled == {}
    found, _ = read(tmp_path, fill={"name": "{{author}}", "author": "Grace"})
    assert "{{author}}" in json.dumps(found)  # a value is taken as it is
    found, tally = read(tmp_path, fill={"name": "Ada"})
    assert found[0][1]["content"] == "Ada by {{author}}"
    assert tally.unfilled == {"author": f"{tmp_path}/a.jsonl:1"}
