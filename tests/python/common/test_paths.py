"""Writes are whole or absent, locks exclude."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanochat.common.errors import UserError, run_main
from nanochat.common.paths import atomic_write, file_lock, home


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("NANOCHAT_HOME")
    assert home() == Path.home() / ".cache" / "nanochat"


def test_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, "one")
    atomic_write(path, b"two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.txt"
    atomic_write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot save .*b\.txt: No space left on device"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_lock_excludes_until_released(tmp_path: Path) -> None:
    path = tmp_path / "x" / ".lock"
    with (
        file_lock(path, "busy"),
        pytest.raises(UserError, match="busy"),
        file_lock(path, "busy"),
    ):
        pass
    with file_lock(path, "busy"):
        pass


def test_a_user_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: list[str]) -> None:
        raise UserError("first\n  second")

    with pytest.raises(SystemExit) as raised:
        run_main(main, [])
    assert raised.value.code == 1
    assert capsys.readouterr().err == "error: first second\n"
