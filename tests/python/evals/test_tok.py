"""Bytes per token: one for a tokenizer of bytes, more for one that has learned, and than a peer."""

from __future__ import annotations

import json
import socket
from hashlib import sha1
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.evals import tok
from nanochat.evals.texts import TEXTS
from nanochat.evals.tok import PEERS, Peer, TokEvalConfig, find_ranks, measure, tok_eval
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.interop import write_tiktoken

GPT2 = PEERS[0]


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ranks that lie around nor a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("tok_eval must not use the network")

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def newsreader() -> Tokenizer:
    """Stands for a peer: has read the news and nothing else."""
    return Tokenizer.train([TEXTS["news"]] * 20, 600, num_threads=1)


@pytest.fixture
def run(tmp_path: Path, byte_tokenizer: Tokenizer) -> Path:
    byte_tokenizer.save(tmp_path / "run" / "tokenizer.json")
    return tmp_path / "run"


def test_bytes_alone_are_one_byte_per_token(byte_tokenizer: Tokenizer) -> None:
    for name, text in TEXTS.items():
        row = measure({"ours": byte_tokenizer}, name, [text])
        assert row.num_bytes == row.num_tokens["ours"] == len(text.encode())
        assert row.bytes_per_token("ours") == 1.0


def test_what_was_learned_is_shorter_than_what_was_not(
    byte_tokenizer: Tokenizer, newsreader: Tokenizer
) -> None:
    tokenizers = {"ours": newsreader, "bytes": byte_tokenizer}
    rows = {name: measure(tokenizers, name, [text]) for name, text in TEXTS.items()}
    assert rows["news"].bytes_per_token("ours") > 2.0 > rows["Korean"].bytes_per_token("ours") >= 1
    saving = 1 - len(newsreader.encode(TEXTS["news"])) / len(TEXTS["news"])
    assert rows["news"].saving("bytes") == saving > 0.5
    other = measure({"ours": byte_tokenizer, "peer": newsreader}, "news", [TEXTS["news"]])
    assert other.saving("peer") < -1.0  # ours needs more than twice its tokens


def test_documents_are_counted_one_by_one(newsreader: Tokenizer) -> None:
    row = measure({"ours": newsreader}, "two", ["The cou", "ncil", ""])
    assert row.num_tokens["ours"] == sum(len(newsreader.encode(t)) for t in ("The cou", "ncil"))


def test_an_empty_text_and_a_lossy_tokenizer_are_named(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="text must not be empty, got nothing"):
        measure({"ours": byte_tokenizer}, "nothing", [""])
    monkeypatch.setattr(byte_tokenizer, "decode", lambda ids: "?" * len(ids))
    with pytest.raises(ValueError, match="news does not come back from tokens of ours"):
        measure({"ours": byte_tokenizer}, "news", [TEXTS["news"]])


def test_the_command_prints_every_text(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_bytes(b"hello\r\n")
    tok_eval(TokEvalConfig(out=run, text=(tmp_path / "mine.txt",)))
    out = capsys.readouterr().out
    document = json.loads(out.splitlines()[-1])
    names = [*TEXTS, "tinyworld", "mine.txt"]
    assert [row["text"] for row in document["rows"]] == names
    for name in names:
        assert f"\n{name} " in out
    assert document["rows"][-1] == {
        "text": "mine.txt", "bytes": 7, "tokens": {"ours": 7}, "saving": {}
    }  # fmt: skip
    assert document["vocab_size"] == 265
    # Peers that are not there are said once, with what to put where.
    for peer in PEERS:
        path = tmp_path / "home" / "ranks" / peer.file
        assert out.count(f"no {peer.name}; save {peer.url} as {path}") == 1


def test_peers_are_columns(
    tmp_path: Path, run: Path, newsreader: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiktoken(newsreader, tmp_path / "g.tiktoken")
    tok_eval(TokEvalConfig(out=run, gpt2=tmp_path / "g.tiktoken"))
    out = capsys.readouterr().out
    assert "no GPT-2" not in out
    assert "no cl100k" in out
    news = next(r for r in json.loads(out.splitlines()[-1])["rows"] if r["text"] == "news")
    peer = Tokenizer.from_ranks(
        {newsreader.decode_bytes([i]): i for i in range(600 - 9)}, GPT2.pattern
    )
    tokens = {"ours": len(TEXTS["news"]), "GPT-2": len(peer.encode(TEXTS["news"]))}
    assert news["tokens"] == tokens
    assert news["saving"] == {"GPT-2": round(1 - tokens["ours"] / tokens["GPT-2"], 4)}
    header = next(line for line in out.splitlines() if line.startswith("bytes per token"))
    assert header.split() == ["bytes", "per", "token", "bytes", "ours", "GPT-2", "vs", "GPT-2"]
    shown = next(line for line in out.splitlines() if line.startswith("news")).split()
    assert float(shown[-2]) == round(100 * news["saving"]["GPT-2"], 1)


def test_the_runs_text_is_two_rows(
    tmp_path: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "corpus").mkdir()
    for i in range(300):
        (tmp_path / "corpus" / f"{i:03}.txt").write_text(f"document {i}")
    tok_eval(TokEvalConfig(out=run, data=str(tmp_path / "corpus")))
    rows = {r["text"]: r for r in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert rows["train"]["bytes"] > rows["val"]["bytes"] > 0
    total = sum(len(f"document {i}") for i in range(300))
    assert rows["train"]["bytes"] + rows["val"]["bytes"] == total
    monkeypatch.setattr(tok, "MAX_CHARS", 25)
    tok_eval(TokEvalConfig(out=run, data=str(tmp_path / "corpus")))
    rows = {r["text"]: r for r in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert rows["train"]["bytes"] == rows["val"]["bytes"] == 25


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_where_ranks_are_looked_for(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_ranks(peer, None) is None
    cached = tmp_path / "cache" / sha1(peer.url.encode()).hexdigest()
    cached.parent.mkdir()
    cached.touch()
    assert find_ranks(peer, None) == cached
    ours = tmp_path / "home" / "ranks" / peer.file
    ours.parent.mkdir(parents=True)
    ours.touch()
    assert find_ranks(peer, None) == ours
    assert find_ranks(peer, tmp_path / "given") == tmp_path / "given"
    # tiktoken's rules: its older variable, its default folder, and none if the name is empty.
    ours.unlink()
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(cached.parent))
    assert find_ranks(peer, None) == cached
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.chdir(cached.parent)
    assert find_ranks(peer, None) is None


def test_tiktoken_names_its_copies_as_we_think(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    """Its loader finds the file that ``find_ranks`` finds."""
    from tiktoken.load import load_tiktoken_bpe

    for peer in PEERS:
        copy = tmp_path / "cache" / sha1(peer.url.encode()).hexdigest()
        write_tiktoken(byte_tokenizer, copy)
        assert find_ranks(peer, None) == copy
        assert len(load_tiktoken_bpe(peer.url)) == 256  # from the copy: there is no network


def test_what_cannot_be_read_is_said(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="run tok-train first"):
        tok_eval(TokEvalConfig(out=tmp_path))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"cannot read .*latin\.txt"):
        tok_eval(TokEvalConfig(out=run, text=(tmp_path / "latin.txt",)))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"empty\.txt is empty"):
        tok_eval(TokEvalConfig(out=run, text=(tmp_path / "empty.txt",)))
    with pytest.raises(UserError, match=r"cannot read .*none\.tiktoken"):
        tok_eval(TokEvalConfig(out=run, cl100k=tmp_path / "none.tiktoken"))
    (tmp_path / "one.txt").write_text("all of the corpus")
    with pytest.raises(UserError, match=r"no document in .*one\.txt"):
        tok_eval(TokEvalConfig(out=run, data=str(tmp_path / "one.txt")))
