"""The reward that users replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.tasks import Example
from nanochat.train.reward import load_reward

EXAMPLE = Example(
    messages=({"role": "user", "content": "2+2?"},),
    reference={"role": "assistant", "content": "4"},
    check=lambda reply: reply == "4",
)


def test_a_right_reply_is_worth_1() -> None:
    reward = load_reward(None)
    assert [reward(EXAMPLE, text) for text in ("4", "5", "")] == [1.0, 0.0, 0.0]


def test_a_file_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "brief.py"
    path.write_text(
        "def reward(example, text):\n    return example.check(text) - len(text) / 100\n"
    )
    assert load_reward(path)(EXAMPLE, "4") == 0.99


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def rewards(example, text): return 1.0", r"must define reward\(example, text\) -> float"),
        ("reward = 1.0", "must define reward"),
        ("def reward(:", "reward: cannot run .*SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(UserError, match=message):
        load_reward(path)
    with pytest.raises(UserError, match=r"cannot run .*FileNotFoundError"):
        load_reward(tmp_path / "other.py")
