"""The table of CORE, its files, and the draws that make everybody's prompts the same."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from nanochat.common.errors import UserError
from nanochat.evals.core_tasks import (
    CORE_TASKS,
    CoreTask,
    Kind,
    choose_tasks,
    is_well_formed,
    load_rows,
    present_tasks,
    shots_of,
)
from nanochat.tasks.files import find, read_rows

COPA = next(task for task in CORE_TASKS if task.name == "copa")
ARC = next(task for task in CORE_TASKS if task.name == "arc_easy")


def write(folder: Path, task: CoreTask, lines: list[str]) -> Path:
    path = folder / f"{task.file.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return folder


def choice(i: int) -> str:
    return json.dumps({"query": f"question {i}", "choices": ["a", "b"], "gold": i % 2})


def test_the_table_is_the_bundles(real_data: Path) -> None:
    facts = read_rows(real_data / "eval" / "core_tasks.jsonl.zst").rows
    assert [
        (t.name, t.path + ".jsonl", t.kind, t.shots, t.delimiter, round(100 * t.chance, 6))
        for t in CORE_TASKS
    ] == [
        (
            fact["label"], fact["dataset_uri"], fact["icl_task_type"], fact["num_fewshot"],
            fact["continuation_delimiter"], fact["random_baseline_percent"],
        )
        for fact in facts
    ]  # fmt: skip


def test_real_files_have_the_rows_and_hashes_of_the_table(real_data: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    folder = real_data / "eval"
    facts = {f["label"]: f for f in read_rows(folder / "core_tasks.jsonl.zst").rows}
    tasks = present_tasks(folder)
    assert len(tasks) == 14
    for task in tasks:
        rows = load_rows(task, folder)
        assert (len(rows.rows), rows.num_malformed) == (facts[task.name]["rows_in_bundle"], 0)
        if task.sha256 is not None:
            path = find(task.file.name, folder)
            assert path is not None
            with zstandard.open(path, "rb") as file:
                assert hashlib.sha256(file.read()).hexdigest() == task.sha256


def test_rows_are_shuffled_and_then_cut(tmp_path: Path) -> None:
    folder = write(tmp_path, COPA, [choice(i) for i in range(20)])
    expected = [json.loads(choice(i)) for i in range(20)]
    random.Random(1337).shuffle(expected)
    assert load_rows(COPA, folder).rows == expected
    assert load_rows(COPA, folder, max_rows=7).rows == expected[:7]


def test_malformed_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [
        "{", "[]", '{"query": "q"}', json.dumps({"query": " ", "choices": ["a", "b"], "gold": 0}),
        json.dumps({"query": "q", "choices": ["a", "b"], "gold": 2}),
        json.dumps({"query": "q", "choices": ["a", "b"], "gold": True}),
        json.dumps({"query": "q", "choices": ["a"], "gold": 0}),
        json.dumps({"query": "q", "choices": ["a", ""], "gold": 0}),
    ]  # fmt: skip
    rows = load_rows(COPA, write(tmp_path, COPA, [*bad, choice(0), choice(1)]))
    assert (len(rows.rows), rows.num_malformed) == (2, len(bad))


@pytest.mark.parametrize(
    ("kind", "row", "is_good"),
    [
        ("schema", {"context_options": ["a", "b"], "continuation": "c", "gold": 1}, True),
        ("schema", {"context_options": ["a", "b"], "continuation": "", "gold": 1}, False),
        ("schema", {"context_options": ["a", "b"], "continuation": "c", "gold": -1}, False),
        ("language_modeling", {"context": "a", "continuation": "b"}, True),
        ("language_modeling", {"context": "\n ", "continuation": "b"}, False),
        ("language_modeling", {"context": "a", "continuation": 7}, False),
    ],
)
def test_what_a_row_needs(kind: Kind, row: dict[str, object], is_good: bool) -> None:
    assert is_well_formed(kind, row) is is_good


def test_shots_are_drawn_from_all_other_rows() -> None:
    for index in (0, 5, 11):
        others = [i for i in range(12) if i != index]
        assert shots_of(ARC, 12, index) == random.Random(1234 + index).sample(others, 10)
    assert shots_of(COPA, 12, 3) == []


def test_too_few_rows_for_the_shots(tmp_path: Path) -> None:
    folder = write(tmp_path, ARC, [choice(i) for i in range(10)])
    with pytest.raises(UserError, match=r"arc_easy takes 10 rows as shots besides .* got 10 rows"):
        load_rows(ARC, folder)


def test_choosing_tasks(tmp_path: Path) -> None:
    folder = write(tmp_path, COPA, [choice(0)])
    assert choose_tasks("present", folder) == (COPA,)
    assert choose_tasks("all", folder) == CORE_TASKS
    assert choose_tasks("none", folder) == ()
    assert [task.name for task in choose_tasks("arc_easy,copa", folder)] == ["arc_easy", "copa"]
    with pytest.raises(UserError, match="no task mmlu; --core-tasks takes none, present, all"):
        choose_tasks("copa,mmlu", folder)
    with pytest.raises(UserError, match=r"no task's file is in .*--eval-data"):
        choose_tasks("present", None)
    assert present_tasks(None) == ()
