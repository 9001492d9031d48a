"""The 22 tasks of CORE: where each one's rows are, how it is asked, what guessing gets.

Rows of a task, by kind:

    multiple_choice     query, choices, gold            which choice follows the query best
    schema              context_options, continuation, gold     which context explains it best
    language_modeling   context, continuation           is every token of it the likeliest

Source: DCLM, arXiv:2406.11794; files, shots, delimiters and baselines as in the evaluation bundle
of karpathy/nanochat (core.yaml, eval_meta_data.csv). The files are those of mosaicml/llm-foundry,
which the bundle took them from; those with a hash are the bundle's byte for byte.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanochat.common.errors import UserError
from nanochat.tasks.files import SetFile, eval_home, find, locate, read_rows

Kind = Literal["multiple_choice", "schema", "language_modeling"]
Row = dict[str, Any]

SHUFFLE_SEED = 1337
SHOTS_SEED = 1234  # plus the index of the example

_URL = "https://raw.githubusercontent.com/mosaicml/llm-foundry/8c8dd48/scripts/eval/local_data"
_ANSWER = "\nAnswer: "


@dataclass(frozen=True, kw_only=True)
class CoreTask:
    """One task. ``chance`` is the accuracy that DCLM (v1) centres by."""

    name: str
    kind: Kind
    path: str  # in the bundle, without suffix
    shots: int
    chance: float = 0.0
    delimiter: str = " "  # between query and choice, context and continuation
    sha256: str | None = None  # of the raw file

    @property
    def file(self) -> SetFile:
        return SetFile(f"core/{self.path}", f"{_URL}/{self.path}.jsonl", self.sha256)


@dataclass(frozen=True)
class TaskRows:
    """Well-formed rows of a task, shuffled and cut, and how many others its file has."""

    rows: list[Row]
    num_malformed: int


def _choice(name: str, path: str, shots: int, chance: float, **more: Any) -> CoreTask:
    return CoreTask(
        name=name, kind="multiple_choice", path=path, shots=shots, chance=chance, **more
    )


def _schema(name: str, path: str, **more: Any) -> CoreTask:
    return CoreTask(name=name, kind="schema", path=path, shots=0, chance=0.5, **more)


def _words(name: str, path: str, shots: int, **more: Any) -> CoreTask:
    return CoreTask(name=name, kind="language_modeling", path=path, shots=shots, **more)


CORE_TASKS: tuple[CoreTask, ...] = (
    _choice("hellaswag_zeroshot", "language_understanding/hellaswag", 0, 0.25),
    _words("jeopardy", "world_knowledge/jeopardy_all", 10, delimiter=_ANSWER),
    _words(
        "bigbench_qa_wikidata", "world_knowledge/bigbench_qa_wikidata", 10,
        sha256="bb0d22727cb25beffb022c8e8c0c3e1159c8b3c7bd7284603c0d6491f8616265",
    ),
    _choice(
        "arc_easy", "world_knowledge/arc_easy", 10, 0.25, delimiter=_ANSWER,
        sha256="d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
    ),
    _choice(
        "arc_challenge", "world_knowledge/arc_challenge", 10, 0.25, delimiter=_ANSWER,
        sha256="1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
    ),
    _choice(
        "copa", "commonsense_reasoning/copa", 0, 0.5,
        sha256="595dca44dec54c849490bd403a3e24a29e3b944065783222ebb0eb1a55298846",
    ),
    _choice(
        "commonsense_qa", "commonsense_reasoning/commonsense_qa", 10, 0.2,
        sha256="2771f63f8127c0725b1f6b0ef2cd2ef6469168ae5875fc8d276b25b4f32c8c1a",
    ),
    _choice("piqa", "commonsense_reasoning/piqa", 10, 0.5, delimiter=_ANSWER),
    _choice("openbook_qa", "commonsense_reasoning/openbook_qa", 0, 0.25),
    _words(
        "lambada_openai", "language_understanding/lambada_openai", 0,
        sha256="411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
    ),
    _choice("hellaswag", "language_understanding/hellaswag", 10, 0.25),
    _schema(
        "winograd", "language_understanding/winograd_wsc",
        sha256="746336c27cd2e39a554cb1b8b4869d0f1ae2577ac5bfe799842d26bca5a5bf5e",
    ),
    _schema("winogrande", "language_understanding/winogrande"),
    _words(
        "bigbench_dyck_languages", "symbolic_problem_solving/bigbench_dyck_languages", 10,
        sha256="106ba9ac7507c7ab385c5e59c49cd57aa83025abf080d9b2a2661c0d6c6dbcc5",
    ),
    _choice(
        "agi_eval_lsat_ar", "symbolic_problem_solving/agi_eval_lsat_ar", 3, 0.2,
        sha256="9ffd73480b51746c11627e56239f8b87035eb255cb92c3a58fd64e2e4b65fb56",
    ),
    _words("bigbench_cs_algorithms", "symbolic_problem_solving/bigbench_cs_algorithms", 10),
    _words(
        "bigbench_operators", "symbolic_problem_solving/bigbench_operators", 10,
        sha256="41e2964ad619c49edd97c22b2c50f922a0241255d906a754bf81a20f4f66b85f",
    ),
    _words(
        "bigbench_repeat_copy_logic", "symbolic_problem_solving/bigbench_repeat_copy_logic", 10,
        sha256="8febd2c0080a15680cd17f92bfa30d87abcfac021e646e55d0b8ad69f0cfa767",
    ),
    _words("squad", "reading_comprehension/squad", 10),
    _words("coqa", "reading_comprehension/coqa", 0),
    _choice(
        "boolq", "reading_comprehension/boolq", 10, 0.62, delimiter=_ANSWER,
        sha256="454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
    ),
    _choice(
        "bigbench_language_identification",
        "language_understanding/bigbench_language_identification", 10, 0.091,
    ),
)  # fmt: skip


def present_tasks(folder: Path | None) -> tuple[CoreTask, ...]:
    """The tasks whose files are in ``folder`` or were fetched before."""
    folders = [eval_home()] if folder is None else [folder, eval_home()]
    return tuple(
        task
        for task in CORE_TASKS
        if any(find(task.file.name, place) is not None for place in folders)
    )


def choose_tasks(names: str, folder: Path | None) -> tuple[CoreTask, ...]:
    """What ``--core-tasks`` means: none, present, all, or names with commas between them.

    Raises: UserError for a name that is no task, or where none is present.
    """
    if names == "none":
        return ()
    if names == "all":
        return CORE_TASKS
    if names == "present":
        if not (tasks := present_tasks(folder)):
            raise UserError(
                f"core: no task's file is in {folder or eval_home()}; give the folder that holds "
                "core/... with --eval-data, fetch them with --core-tasks all, or leave CORE out "
                "with --core-tasks none"
            )
        return tasks
    known = {task.name: task for task in CORE_TASKS}
    asked = names.split(",")
    if unknown := [name for name in asked if name not in known]:
        raise UserError(
            f"core: no task {', '.join(unknown)}; --core-tasks takes none, present, all or names "
            f"out of {', '.join(known)}"
        )
    return tuple(known[name] for name in asked)


def load_rows(task: CoreTask, folder: Path | None, *, max_rows: int | None = None) -> TaskRows:
    """Rows in the order in which they are asked; shots come from the same rows.

    As in the reference evaluator, rows are shuffled and then cut, so shots are drawn from what the
    cut left.
    Raises: UserError if the file cannot be had, or has too few rows for the shots.
    """
    file = read_rows(locate(task.file, folder))
    rows = [row for row in file.rows if is_well_formed(task.kind, row)]
    num_malformed = file.num_malformed + len(file.rows) - len(rows)
    random.Random(SHUFFLE_SEED).shuffle(rows)
    rows = rows[:max_rows]
    if len(rows) <= task.shots:
        raise UserError(
            f"core: {task.name} takes {task.shots} rows as shots besides the one asked, got "
            f"{len(rows)} rows; its file has {num_malformed} malformed ones"
        )
    return TaskRows(rows, num_malformed)


def is_well_formed(kind: Kind, row: Mapping[str, Any]) -> bool:
    """Whether ``row`` has all that its kind needs, with something to score."""
    if kind == "language_modeling":
        return _is_text(row.get("context")) and _is_text(row.get("continuation"))
    many = row.get("choices" if kind == "multiple_choice" else "context_options")
    one = row.get("query" if kind == "multiple_choice" else "continuation")
    gold = row.get("gold")
    return (
        _is_text(one)
        and isinstance(many, list)
        and len(many) >= 2
        and all(map(_is_text, many))
        and type(gold) is int
        and 0 <= gold < len(many)
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def shots_of(task: CoreTask, num_rows: int, index: int) -> list[int]:
    """Which other rows stand, answered, before row ``index``."""
    if task.shots == 0:
        return []
    others = range(num_rows - 1)  # the same draw as from a list of them
    drawn = random.Random(SHOTS_SEED + index).sample(others, task.shots)
    return [i + (i >= index) for i in drawn]
