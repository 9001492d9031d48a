"""The paper trail: what is written comes back, and what a kill leaves is survived."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from nanochat.common import record
from nanochat.common.errors import UserError
from nanochat.common.record import Measure, MetricsLog, StageRecord, read_metrics, read_stages


def stage(**fields: object) -> StageRecord:
    defaults = {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "command": "python x.py"}
    return StageRecord(**{**defaults, **fields})  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    written = stage(
        model="base",
        metrics={"val_bpb": 0.9, "capitals": Measure(value=0.5, low=0.4, high=0.6, chance=0.25)},
        config={"depth": 4, "out": tmp_path},
        conversations=[{"messages": [{"role": "user", "content": "hi"}]}],
    )
    record.write_stage(tmp_path, "base_train", written)
    (read,) = read_stages(tmp_path).values()
    assert read.metrics["val_bpb"] == Measure(value=0.9)
    assert read.metrics["capitals"] == written.metrics["capitals"]
    assert read.config == {"depth": 4, "out": str(tmp_path)}
    assert read.conversations == written.conversations
    assert read.hardware == record.probe()


def test_stages_are_read_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    for name, hour in [("chat_sft", 2), ("base_train", 1), ("report", 3)]:
        record.write_stage(tmp_path, name, stage(started=f"2026-01-01T0{hour}:00:00+00:00"))
    assert list(read_stages(tmp_path)) == ["base_train", "chat_sft", "report"]


def test_a_later_record_replaces_the_earlier(tmp_path: Path) -> None:
    record.write_stage(tmp_path, "base_train", stage(seconds=1.0))
    record.write_stage(tmp_path, "base_train", stage(seconds=2.0))
    assert read_stages(tmp_path)["base_train"].seconds == 2.0


@pytest.mark.parametrize("name", ["", "../x", "Base", "a b"])
def test_stage_names_are_identifiers(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="lower-case identifier"):
        record.write_stage(tmp_path, name, stage())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": 99}', '{"schema": 1}'])
def test_a_foreign_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "base_train").mkdir()
    (tmp_path / "base_train" / "stage.json").write_text(content)
    with pytest.raises(UserError, match=r"base_train/stage\.json"):
        read_stages(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("started", 7),
        ("seconds", "long"),
        ("seconds", float("nan")),
        ("samples", "text"),
        ("conversations", {}),
        ("config", []),
        ("metrics", {"val_bpb": {"value": "0.9"}}),
        ("metrics", {"val_bpb": {"value": True}}),
        ("metrics", {"val_bpb": {"value": 10**400}}),
        ("metrics", {"val_bpb": 0.9}),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, field: str, value: object) -> None:
    path = record.write_stage(tmp_path, "base_train", stage())
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError, match=r"base_train/stage\.json"):
        read_stages(tmp_path)


def test_metrics_survive_a_kill_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "base_train" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(step=1, loss=3.0)
        log.write(step=2, loss=2.5)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # kill -9
    with MetricsLog(path) as log:  # from the checkpoint of step 1
        log.write(step=2, loss=2.0)
        log.write(step=2, val_bpb=1.0)
        log.write(step=3, loss=1.5)
    assert read_metrics(path) == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0, "val_bpb": 1.0},
        {"step": 3, "loss": 1.5},
    ]


def test_rows_keep_numbers_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": "low", "lr": 0.5}\n{"step": Infinity}\n{"step": 1e30}\n'
        '{"step": [1]}\n[1]\n7\n'
    )
    assert read_metrics(path) == [{"step": 1, "lr": 0.5}]


def test_metrics_of_a_stage_that_never_ran(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_commit_is_of_the_checkout_that_holds_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "tracked.py").write_text("")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "untracked.py").write_text("")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "tracked.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    monkeypatch.setattr(record, "__file__", str(tmp_path / "venv" / "untracked.py"))
    monkeypatch.setattr("sys.argv", ["-c"])
    assert record.describe_commit() == ""
    monkeypatch.setattr("sys.argv", [str(tmp_path / "tracked.py")])
    assert len(record.describe_commit()) >= 7
