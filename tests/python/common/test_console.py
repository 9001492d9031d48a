"""Without a terminal, progress is a line now and then, and always the last one."""

from __future__ import annotations

import pytest

from nanochat.common import console
from nanochat.common.console import say, ticker


def test_lines_are_spaced_and_the_last_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: clock)
    with ticker("work", 100) as bar:
        for done in range(1, 101):
            clock += 0.5
            bar.update(done, tokens_per_s="7")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"work  {done}/100  tokens per s 7  {(100 - done) / 2:.0f} s left"
        for done in (20, 40, 60, 80, 100)
    ]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ticker("work", 2, quiet=True) as bar:
        bar.update(2)
    assert capsys.readouterr().out == ""


def test_say_prints_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold] " + "long " * 60)
    assert capsys.readouterr().out == "[bold] " + "long " * 60 + "\n"
