"""CORE's arithmetic: who wins, what counts, and what a model that only guesses gets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nanochat.engine import Engine, NativeOptions
from nanochat.evals.core import CoreResult, core_value, run_core_task
from nanochat.evals.core_tasks import CoreTask, TaskRows, load_rows, present_tasks
from nanochat.evals.likelihood import Group, Score, TokenRow, scorer
from nanochat.model import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer

CHOICE = CoreTask(name="c", kind="multiple_choice", path="c", shots=1, chance=0.25)
WORDS = CoreTask(name="w", kind="language_modeling", path="w", shots=0)


def quiz(n: int) -> TaskRows:
    """Four one-letter choices; what is right is not to be known."""
    draw = random.Random(5)
    rows = [
        {"query": f"{i}?", "choices": draw.sample("abcdef", 4), "gold": draw.randrange(4)}
        for i in range(n)
    ]
    return TaskRows(rows, 3)


def judged(judge: Callable[[TokenRow], float]) -> Callable[[Sequence[Group]], list[list[Score]]]:
    """A scorer that gives each row the nats that ``judge`` says, of one token."""
    return lambda groups: [[Score(judge(row), 1, judge(row) == 0) for row in g] for g in groups]


def ask(
    task: CoreTask, rows: TaskRows, judge: Callable[[TokenRow], float], **more: Any
) -> CoreResult:
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    return run_core_task(task, rows, judged(judge), tokenizer, context=64, **more)


def test_lowest_nats_win_and_the_first_of_equals() -> None:
    rows = quiz(130)
    right = {f"{row['query']} {row['choices'][row['gold']]}" for row in rows.rows}

    def oracle(row: TokenRow) -> float:
        return 0.0 if bytes(row.ids[1:]).decode().split("\n\n")[-1] in right else 1.0

    seen: list[tuple[int, int, int]] = []
    best = ask(CHOICE, rows, oracle, on_progress=lambda *figures: seen.append(figures))
    assert (best.accuracy, best.centred, best.num_malformed) == (1.0, 1.0, 3)
    assert [record["index"] for record in best.records] == list(range(130))
    assert [figures[:2] for figures in seen] == [(64, 130), (128, 130), (130, 130)]
    assert seen[-1][2] == best.num_tokens > 0
    tied = ask(CHOICE, rows, lambda _: 1.0)
    assert {record["chosen"] for record in tied.records} == {0}
    first = sum(row["gold"] == 0 for row in rows.rows)
    assert tied.num_correct == first
    assert ask(CHOICE, rows, lambda row: -oracle(row)).num_correct == 0


def test_means_not_sums_decide() -> None:
    rows = TaskRows([{"query": "q", "choices": ["a", "bcd"], "gold": 1}] * 2, 0)
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})

    def score(groups: Sequence[Group]) -> list[list[Score]]:
        return [[Score(1.0, 1, False), Score(1.5, 3, False)] for _ in groups]

    result = run_core_task(CHOICE, rows, score, tokenizer, context=64)
    assert result.accuracy == 1.0
    assert result.records[0]["scores"] == [1.0, 0.5]


def test_a_continuation_counts_when_all_of_it_is_likeliest() -> None:
    rows = TaskRows([{"context": str(i), "continuation": "x"} for i in range(10)], 0)
    result = ask(WORDS, rows, lambda row: float(row.ids[1] % 2))
    assert result.num_correct == 5
    assert "gold" not in result.records[0]


def test_scores_that_are_no_numbers_are_wrong_and_counted() -> None:
    rows = quiz(8)
    lost = ask(CHOICE, rows, lambda row: math.nan if row.ids[-1] == ord("a") else 1.0)
    with_a = sum("a" in row["choices"] for row in rows.rows)
    assert 0 < lost.num_not_finite == with_a < 8
    for record, row in zip(lost.records, rows.rows, strict=True):
        if "a" in row["choices"]:
            assert (record["chosen"], record["correct"]) == (None, False)
    words = TaskRows([{"context": "q", "continuation": "x"}], 0)
    assert ask(WORDS, words, lambda _: math.inf).num_not_finite == 1
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    result = run_core_task(
        WORDS, words, lambda _: [[Score(math.nan, 1, True)]], tokenizer, context=64
    )
    assert (result.num_not_finite, result.num_correct) == (1, 0)


def test_long_prompts_are_counted() -> None:
    rows = TaskRows([{"context": "y" * n, "continuation": "x"} for n in (10, 100)], 0)
    result = ask(WORDS, rows, lambda _: 0.0)
    assert (result.num_cropped, result.measure.num_cropped) == (1, 1)
    assert [record["num_tokens"] for record in result.records] == [13, 64]


def test_core_is_the_mean_of_centred_accuracies() -> None:
    best = ask(CHOICE, quiz(40), lambda row: -float(row.ids[-1]))
    words = TaskRows([{"context": "q", "continuation": "x"}] * 20, 0)
    none = ask(WORDS, words, lambda _: 1.0)
    value, half = core_value([best, none])
    assert value == ((best.accuracy - 0.25) / 0.75 + 0.0) / 2
    p = best.accuracy
    assert half == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 40) / 0.75 / 2, rel=1e-4)


@pytest.fixture(scope="module")
def random_model() -> GPT:
    """Weights that mean nothing, yet choose."""
    model = GPT(
        GPTConfig(
            n_layer=2, n_head=2, n_kv_head=2, n_embd=64, vocab_size=265, seq_len=256, arch="classic"
        )
    )  # fmt: skip
    model.init_weights(seed=3)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model.eval()


def test_random_weights_are_at_the_baseline(random_model: GPT, byte_tokenizer: Tokenizer) -> None:
    with Engine(random_model, byte_tokenizer, options=NativeOptions(threads=1)) as engine:
        result = run_core_task(
            CHOICE, quiz(1000), scorer(engine), byte_tokenizer, context=engine.context
        )
    low, high = result.interval
    assert low < CHOICE.chance < high
    assert len({record["chosen"] for record in result.records}) == 4


def test_real_tasks_of_all_kinds(
    random_model: GPT, byte_tokenizer: Tokenizer, real_data: Path
) -> None:
    folder = real_data / "eval"
    tasks = {task.name: task for task in present_tasks(folder)}
    with Engine(random_model, byte_tokenizer, options=NativeOptions(threads=1)) as engine:
        for name in ("winograd", "copa", "bigbench_operators"):
            rows = load_rows(tasks[name], folder, max_rows=100)
            result = run_core_task(
                tasks[name], rows, scorer(engine), byte_tokenizer, context=engine.context
            )
            low, high = result.interval
            assert low <= tasks[name].chance <= high
            assert (result.num_cropped == 100) == (name == "bigbench_operators")
