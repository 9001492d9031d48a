"""base-eval of a toy run: the record, CORE's files, and what is asked by default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat.checkpoint import save_checkpoint
from nanochat.common.errors import UserError
from nanochat.common.record import read_stages
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer
from nanochat.train.base_eval import BaseEvalConfig, base_eval

LONG = "so it goes " * 60  # more than the context


@pytest.fixture
def run(tmp_path: Path, tiny_model: GPT, byte_tokenizer: Tokenizer) -> Path:
    folder = tmp_path / "run"
    save_checkpoint(folder / "base", 3, model=tiny_model, tokenizer=byte_tokenizer, meta={})
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Two tasks: one with a malformed row, one with a prompt that does not fit."""
    files = {
        "commonsense_reasoning/copa": [
            *({"query": f"{i}, so", "choices": ["yes.", "no."], "gold": i % 2} for i in range(9)),
            {"query": "no choices"},
        ],
        "language_understanding/lambada_openai": [
            {"context": "The capital of France is", "continuation": "Paris"},
            {"context": LONG, "continuation": "again"},
        ],
    }
    for name, rows in files.items():
        path = tmp_path / "sets" / "core" / f"{name}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "sets"


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {LONG}"}) + "\n" for i in range(300)))
    return str(path)


def config(run: Path, **options: object) -> BaseEvalConfig:
    small = {"num_tokens": 2_000, "num_stories": 2, "device": "cpu", "dtype": "fp32"}
    return BaseEvalConfig(out=run, **{**small, **options})  # type: ignore[arg-type]


def test_core_of_the_tasks_present(
    run: Path, sets: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(run, data=text, eval_data=sets, max_per_task=8)
    base_eval(asked)
    said = capsys.readouterr().out
    assert "the mean of 2 of 22 tasks" in said
    assert "1 malformed rows left out" in said
    assert "1 prompts cut at the left" in said

    record = read_stages(run)["base_eval"]
    copa, words = record.metrics["core_copa"], record.metrics["core_lambada_openai"]
    assert (copa.num_examples, copa.num_malformed, copa.chance) == (8, 1, 0.5)  # type: ignore[union-attr]
    assert (words.num_examples, words.num_cropped) == (2, 1)  # type: ignore[union-attr]
    core = record.metrics["core_2_of_22"]
    assert core.value == pytest.approx((2 * copa.value - 1 + words.value) / 2)  # type: ignore[union-attr]
    assert core.num_examples == 10  # type: ignore[union-attr]
    assert "core" not in record.metrics  # two tasks are no CORE

    table = {row["task"]: row for row in json.loads((run / "base_eval/core.json").read_text())}
    assert table["copa"]["accuracy"] == copa.value  # type: ignore[union-attr]
    records = run / "base_eval" / "core" / "copa.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(8))
    assert sum(line["correct"] for line in lines) == table["copa"]["num_correct"]

    base_eval(asked)
    assert "base_eval: done before" in capsys.readouterr().out
    with pytest.raises(UserError, match="max_per_task 8 -> 9"):
        base_eval(config(run, data=text, eval_data=sets, max_per_task=9))


def test_tinyworld_has_no_core_by_default(run: Path, sets: Path) -> None:
    base_eval(config(run, eval_data=sets))
    metrics = read_stages(run)["base_eval"].metrics
    assert "story_bpb" in metrics
    assert not [name for name in metrics if name.startswith("core")]
    assert not (run / "base_eval" / "core.json").exists()


def test_core_on_tinyworld_where_it_is_asked_for(run: Path, sets: Path) -> None:
    base_eval(config(run, eval_data=sets, core_tasks="copa"))
    assert "core_copa" in read_stages(run)["base_eval"].metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_per_task": 0}, "--max-per-task must be at least 1, got 0"),
        ({"core_tasks": "imagenet"}, "core: no task imagenet"),
    ],
)
def test_wrong_options_are_named_before_any_work(
    run: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        base_eval(config(run, **options))
