"""The texts are what their names say."""

from __future__ import annotations

import pytest

from nanochat.evals.texts import TEXTS


def test_the_code_is_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(TEXTS["code"], "code", "exec", dont_inherit=True), {"__name__": "__main__"})
    assert capsys.readouterr().out == "2.000\n"


def test_the_languages_are_written_in_their_letters() -> None:
    assert sum("\uac00" <= letter <= "\ud7a3" for letter in TEXTS["Korean"]) > 200
    assert set("\u00e4\u00f6\u00fc\u00dc") <= set(TEXTS["German"])
    assert all(TEXTS[name].isascii() for name in ("news", "code", "math", "numbers"))


def test_the_latex_is_balanced() -> None:
    math = TEXTS["math"]
    assert math.count("{") == math.count("}")
    assert math.count("$") % 2 == 0
    assert math.count(r"\begin{") == math.count(r"\end{") == 3
