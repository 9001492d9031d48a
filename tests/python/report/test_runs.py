"""Reading a run: foreign files are named, torn ones survived."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.evals.records import write_records
from nanochat.report.runs import Answer, read_run

from .conftest import change, record


def test_models_and_stages_in_order(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.name == "run"
    assert run.models == ["base", "sft"]
    assert run.missing == []
    assert run.seconds == pytest.approx(4.2 + 301 + 3 * 60)
    assert run.bounds == {"story_bpb": 1.0}
    assert read_run(run_dir, "mine").name == "mine"


def test_a_later_stage_wins(run_dir: Path) -> None:
    change(run_dir, "base_train", metrics={"val_bpb": 0.95, "mfu": 0.5})
    found = read_run(run_dir).measures("base")
    assert (found["val_bpb"].measure.value, found["val_bpb"].stage) == (0.91, "base_eval")
    assert found["mfu"].stage == "base_train"


def test_the_last_conversations(run_dir: Path) -> None:
    stage, conversations = read_run(run_dir).conversations()
    assert stage == "chat_eval"
    assert [part.kind for part in conversations[0].messages[1].parts] == [
        "text", "python", "python_output", "text",
    ]  # fmt: skip
    change(run_dir, "chat_eval", conversations=[])
    assert read_run(run_dir).conversations() == ("", [])


@pytest.mark.parametrize(
    "conversation",
    [{}, {"messages": [7]}, {"messages": [{"role": "tool", "content": "x"}]}, "text"],
)
def test_what_is_no_conversation_is_named(run_dir: Path, conversation: object) -> None:
    change(run_dir, "chat_eval", conversations=[conversation])
    with pytest.raises(
        UserError, match=r"chat_eval/stage\.json: conversation: .*run the stage again"
    ):
        read_run(run_dir).conversations()


def test_answers_survive_a_torn_file(run_dir: Path) -> None:
    path = run_dir / "chat_eval" / "capitals.jsonl"
    path.write_bytes(
        b'{"index": 1, "prompt": "q", "correct": true}\n7\n{"index": "x"}\n\xff\n{"index": 2, "pro'
    )
    assert read_run(run_dir).answers("chat_eval", "capitals") == {1: Answer("q", 1.0)}
    assert read_run(run_dir).answers("chat_eval", "nothing") == {}


def test_answers_as_the_evaluations_keep_them(run_dir: Path) -> None:
    several = {"index": 0, "prompt": "q", "num_correct": 1, "samples": [{}, {}, {}, {}]}
    write_records(run_dir / "chat_eval" / "gsm8k.jsonl", [several])
    one = {"index": 3, "prompt": "p", "correct": False}
    write_records(run_dir / "base_eval" / "core" / "copa.jsonl", [one])
    run = read_run(run_dir)
    assert run.answers("chat_eval", "gsm8k") == {0: Answer("q", 0.25)}
    assert run.answers("base_eval", "core_copa") == {3: Answer("p", 0.0)}


def test_time_until_a_model(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.seconds_until("base") == pytest.approx(4.2 + 301 + 60)
    assert run.seconds_until("sft") == run.seconds
    assert run.seconds_until("rl") == 0


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage has left a record"):
        read_run(tmp_path)


def test_a_record_without_a_model_has_no_column(run_dir: Path) -> None:
    assert record(0).model == ""
    assert "" not in read_run(run_dir).models
