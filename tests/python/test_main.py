"""The command line: what it offers, what it refuses, and that the scripts are the same commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanochat import __main__ as cli
from nanochat.common.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_scripts_and_commands_are_the_same() -> None:
    scripts = {path.stem.replace("_", "-") for path in SCRIPTS.glob("*.py")}
    assert scripts == set(cli.COMMANDS)
    for path in SCRIPTS.glob("*.py"):
        assert f'script("{path.stem.replace("_", "-")}")' in path.read_text()


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.command(name, ["--help"])
    assert raised.value.code == 0
    assert "usage: nanochat" in capsys.readouterr().out


def test_overview_names_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["nanochat"])
    cli.main()
    out = capsys.readouterr().out
    assert all(name in out for name in (*cli.COMMANDS, "bench"))


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UserError, match="no command pretrain; known are speedrun"):
        cli._dispatch(["pretrain"])
    with pytest.raises(UserError, match=r"bench: needs one of .*, got nothing"):
        cli._dispatch(["bench"])


def test_info_lists_every_op(capsys: pytest.CaptureFixture[str]) -> None:
    cli.command("info", [])
    out = capsys.readouterr().out
    assert all(op in out for op in ("prepass", "attention", "cross_entropy", "native core"))


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    cli.set_environment()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
