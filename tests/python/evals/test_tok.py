"""Bytes per token: one for a tokenizer of bytes, more for one that has learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.evals.tok import TEXTS, TokEvalConfig, bytes_per_token, tok_eval
from nanochat.tokenizer import Tokenizer


def test_bytes_alone_are_one_byte_per_token(byte_tokenizer: Tokenizer) -> None:
    assert set(bytes_per_token(byte_tokenizer, TEXTS).values()) == {1.0}


def test_what_was_learned_is_shorter_than_what_was_not() -> None:
    tokenizer = Tokenizer.train([TEXTS["prose"]] * 20, 400)
    ratios = bytes_per_token(tokenizer, TEXTS)
    assert ratios["prose"] > 2.0 > ratios["Korean"] >= 1.0


def test_an_empty_text_is_named(byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="text must not be empty, got nothing"):
        bytes_per_token(byte_tokenizer, {"nothing": ""})


def test_the_command_prints_every_text(
    tmp_path: Path, byte_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "mine.txt").write_text("hello")
    tok_eval(TokEvalConfig(out=tmp_path, text=(tmp_path / "mine.txt",)))
    out = capsys.readouterr().out
    for name in ("tinyworld", *TEXTS, "mine.txt"):
        assert name in out


def test_what_cannot_be_read_is_said(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="run tok-train first"):
        tok_eval(TokEvalConfig(out=tmp_path))
    byte_tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"cannot read .*latin\.txt"):
        tok_eval(TokEvalConfig(out=tmp_path, text=(tmp_path / "latin.txt",)))
