"""chat_eval on sets as small as they can be: what it keeps, what it says, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from nanochat.checkpoint import save_checkpoint
from nanochat.common.errors import UserError
from nanochat.common.record import Measure, read_stages
from nanochat.model import GPT
from nanochat.tasks import gsm8k
from nanochat.tasks.files import SetFile
from nanochat.tokenizer import Tokenizer
from nanochat.train import chat_eval as train
from nanochat.train.chat_eval import ChatEvalConfig, chat_eval

PROBLEMS = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(5)]
EXAM = [
    {"subject": "law", "question": f"{i}?", "choices": ["x", "y"], "answer": i % 2}
    for i in range(4)
]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_model: GPT,
    byte_tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run with a model, and two sets of ChatCORE in NANOCHAT_HOME/eval."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("nanochat.tasks.gsm8k.FILES", _unpinned("gsm8k_test"))
    monkeypatch.setattr("nanochat.tasks.mmlu.FILES", _unpinned("mmlu_test"))
    sets = tmp_path / "home" / "eval"
    sets.mkdir(parents=True)
    for name, rows in (("gsm8k_test", [*PROBLEMS, {"question": "?"}]), ("mmlu_test", EXAM)):
        (sets / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def refused(url: str, **_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("nanochat.tasks.files.urlopen", refused)
    monkeypatch.setattr("nanochat.tasks.files.PAUSES_S", ())
    monkeypatch.setattr("nanochat.train.chat_eval.MAX_ANSWER_TOKENS", 8)
    for model in ("sft", "rl"):
        save_checkpoint(
            tmp_path / "run" / model, 1, model=tiny_model, tokenizer=byte_tokenizer, meta={}
        )
    return tmp_path / "run"


def _unpinned(name: str) -> dict[str, SetFile]:
    return {"val": SetFile(name, f"http://nowhere.invalid/{name}.jsonl")}


def evaluate(run: Path, **options: Any) -> None:
    chat_eval(ChatEvalConfig(out=run, device="cpu", dtype="fp32", **options))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_chatcore_with_what_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, tasks="chatcore", num_examples=0)
    said = capsys.readouterr().out
    assert "chat-eval: without arc_easy: tasks: cannot fetch arc_easy_test" in said
    assert "ChatCORE" in said
    assert "the mean of 2 of 6 tasks" in said
    assert "1 malformed rows left out" in said
    record = read_stages(run)["chat_eval"]
    assert set(record.metrics) == {"mmlu", "gsm8k", "chat_core_2_of_6"}
    gsm8k, mmlu = (record.metrics[name] for name in ("gsm8k", "mmlu"))
    assert isinstance(gsm8k, Measure)
    assert isinstance(mmlu, Measure)
    assert (gsm8k.num_examples, gsm8k.num_malformed, gsm8k.num_unanswered) == (5, 1, 5)
    table = json.loads((run / "chat_eval" / "tasks.json").read_text())
    assert [row["name"] for row in table] == ["mmlu", "gsm8k"]
    assert table[0]["groups"] == {"law": mmlu.value}
    assert [row["index"] for row in rows(run / "chat_eval" / "gsm8k.jsonl")] == [*range(5)]
    assert len(record.conversations) == 3


def test_tinyworld_and_a_set_together(run: Path) -> None:
    evaluate(run, tasks="tinyworld,mmlu", num_examples=2, num_stories=2)
    metrics = read_stages(run)["chat_eval"].metrics
    assert {"story_bpb", "mean_centred", "facts", "honesty", "mmlu"} <= metrics.keys()
    assert len(rows(run / "chat_eval" / "facts.jsonl")) == 2


def test_several_samples_of_the_model_after_reinforcement(run: Path) -> None:
    evaluate(run, model="rl", tasks="gsm8k", num_samples=4)
    record = read_stages(run)["chat_eval_rl"]
    assert record.model == "rl"
    assert {"gsm8k_pass_at_2", "gsm8k_pass_at_4"} <= record.metrics.keys()
    samples = rows(run / "chat_eval_rl" / "gsm8k.jsonl")[0]["samples"]
    assert len({sample["text"] for sample in samples}) == 4


def test_done_before(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, tasks="mmlu")
    capsys.readouterr()
    evaluate(run, tasks="mmlu", eval_data=tmp_path)  # where the sets are is no other question
    assert "chat_eval: done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="other options: tasks 'mmlu' -> 'gsm8k'"):
        evaluate(run, tasks="gsm8k")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": -1}, "--num-examples must be at least 0"),
        ({"num_samples": 0}, "--num-samples at least 1"),
        ({"tasks": "tinyworld,mmlu", "num_examples": 0}, "tinyworld has no end"),
        ({"tasks": "arc_easy"}, "cannot fetch arc_easy_test"),
        ({"tasks": "gsm8k", "num_samples": 2, "temperature": 0.0}, "above 0 for several samples"),
        ({"tasks": "gsm8k", "temperature": 9.0}, "--temperature must be 0 to 5.0"),
    ],
)
def test_refused(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(run, **options)
    assert not (run / "chat_eval").exists()


def test_two_ranks_keep_what_one_does(run: Path) -> None:
    options = {"tasks": "gsm8k,tinyworld/facts_mc,tinyworld/facts", "num_stories": 2}
    alone = run.with_name("alone")
    shutil.copytree(run, alone)
    evaluate(alone, num_examples=3, **options)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    home = os.environ["NANOCHAT_HOME"]
    mp.spawn(_on_rank, args=(str(run), home, port, options), nprocs=2)
    for task in ("gsm8k", "facts_mc", "facts"):
        assert rows(run / "chat_eval" / f"{task}.jsonl") == rows(
            alone / "chat_eval" / f"{task}.jsonl"
        )
    one, two = (read_stages(folder)["chat_eval"].metrics for folder in (alone, run))
    assert one["story_bpb"].value == pytest.approx(two["story_bpb"].value, rel=1e-6)


def _on_rank(rank: int, folder: str, home: str, port: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "NANOCHAT_HOME": home}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gsm8k.FILES["val"] = _unpinned("gsm8k_test")["val"]
    train.MAX_ANSWER_TOKENS = 8
    evaluate(Path(folder), num_examples=3, **options)
