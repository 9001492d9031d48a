from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.tasks import TASKS
from nanochat.tasks.suite import CHATCORE, suite, task_named

PROBLEM = {"question": "1+1?", "answer": "#### 2"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(url: str, **_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("nanochat.tasks.files.urlopen", refused)
    monkeypatch.setattr("nanochat.tasks.files.PAUSES_S", ())


def test_lists_and_single_tasks(write_set: Callable[..., Path]) -> None:
    folder = write_set("gsm8k_test", [PROBLEM])
    found = suite("gsm8k, tinyworld,gsm8k,", folder)
    assert [task.name for task in found.tasks] == ["gsm8k", *(task.name for task in TASKS)]
    assert not found.missing
    assert task_named("tinyworld/facts", None).name == "facts"


def test_what_is_missing_of_a_list_is_told(write_set: Callable[..., Path]) -> None:
    found = suite("chatcore", write_set("gsm8k_test", [PROBLEM]))
    assert [task.name for task in found.tasks] == ["gsm8k"]
    assert list(found.missing) == [name for name in CHATCORE if name != "gsm8k"]
    assert "no network here" in found.missing["mmlu"]


def test_a_task_named_singly_must_run(write_set: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"^tasks: cannot fetch mmlu_test"):
        suite("gsm8k,mmlu", write_set("gsm8k_test", [PROBLEM]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("mmlu", "cannot fetch mmlu_test"),
        ("chatcore", "no task of 'chatcore' can run here; arc_easy: tasks: cannot fetch"),
        ("", "no task of '' can run here"),
        ("gsm9k", "must be one of arc_easy, arc_challenge, .*tinyworld/facts.*, got gsm9k"),
    ],
)
def test_nothing_to_run_is_an_error(
    write_set: Callable[..., Path], names: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        suite(names, write_set("other", []))
