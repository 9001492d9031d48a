"""scripts/bench/engine.py runs at its smallest size."""

from __future__ import annotations

import argparse
import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nanochat.common.errors import UserError
from nanochat.model import GPTConfig
from nanochat.testing import engine_child, engine_models
from nanochat.testing.engine_child import Contender
from nanochat.testing.engine_timing import Generated

BENCH = Path(__file__).parents[3] / "scripts" / "bench" / "engine.py"
SMALL = ("--depth", "1", "--vocab-size", "64", "--context", "16", "--rounds", "1")


def run(*argv: str) -> None:
    runpy.run_path(str(BENCH))["main"]([*argv, *SMALL])


def last_line(out: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    return document


def test_decode_has_a_row_for_each_contender_and_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    json_file = tmp_path / "out.json"
    run("--what", "decode", "--only", "ours", "transformers", "--dtype", "bf16", "--tokens", "4",
        "--batch", "1", "2", "--peer-batch", "1", "--out", str(json_file))  # fmt: skip
    document = last_line(capsys.readouterr().out)
    assert json.loads(json_file.read_text()) == document
    rows = document["decode"]
    assert [(row["engine"], row["dtype"], row["prompts"], row["batch"]) for row in rows] == [
        ("ours", "bf16", "private", 1),
        ("transformers", "bf16", "private", 1),
        ("ours", "bf16", "private", 2),
        ("ours", "bf16", "shared", 2),
    ]
    assert all(row["tpot_sec"] > 0 and row["mbu_pct"] > 0 for row in rows)
    assert rows[0]["decode_x"] > 0 and rows[1]["decode_x"] == rows[1]["prefill_x"] == 1
    assert rows[2]["decode_x"] is rows[3]["decode_x"] is None  # no peer of that batch
    assert set(document["equal_tokens"]) == {"ours bf16, threads 1", "transformers bf16, threads 1"}


def test_speculation_has_rows_with_guesses_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    run("--what", "speculation", "--draft-tokens", "200")
    rows = last_line(capsys.readouterr().out)["speculation"]
    assert [(row["text"], row["max_drafts"]) for row in rows] == [
        ("copied", 0),
        ("copied", 8),
        ("free", 0),
        ("free", 8),
    ]
    assert all(row["tok_per_sec"] > 0 for row in rows)
    assert [row["drafted_per_token"] > 0 for row in rows] == [False, True, False, True]
    assert rows[1]["accepted_pct"] > 50 > rows[3]["accepted_pct"]


def test_no_prompt_comes_twice_but_to_other_contenders() -> None:
    main = runpy.run_path(str(BENCH))
    config = GPTConfig.from_depth(1, arch="classic", vocab_size=64, seq_len=48)
    ours = Contender("ours", "bf16", 1, config, "", num_rows=2)
    seen: list[list[int]] = []
    for number in range(2):
        for cell in (
            main["Cell"](ours, 16, 1),
            main["Cell"](ours, 16, 2),
            main["Cell"](ours, 16, 2, is_shared=True),
        ):
            prompts = main["prompts_of"](cell, number)
            other = replace(cell, contender=replace(ours, dtype="fp32"))
            assert prompts == main["prompts_of"](other, number)
            assert [len(prompt) for prompt in prompts] == [16] * cell.batch
            assert (prompts[0] == prompts[-1]) == (cell.batch == 1 or cell.is_shared)
            seen += prompts[: 1 if cell.is_shared else cell.batch]
    assert len({tuple(prompt) for prompt in seen}) == len(seen) == 8


def test_guesses_that_change_a_token_are_an_error() -> None:
    def generated(*tokens: int) -> Generated:
        counters = {"drafted_tokens": 4.0, "accepted_tokens": 2.0}
        return Generated([[*tokens]], [[float(i) for i in range(len(tokens))]], counters)

    rows = runpy.run_path(str(BENCH))["speculation_rows"]
    results = {("free", 0): [generated(1, 2, 3)], ("free", 8): [generated(1, 2, 4, 5)]}
    assert [row["x"] for row in rows(results, 2)] == [1, 1]
    with pytest.raises(UserError, match="guesses must not change tokens, they do in free"):
        rows(results, 3)


def test_a_wrong_token_is_an_error_unless_the_choice_was_close(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = GPTConfig.from_depth(1, arch="classic", vocab_size=64, seq_len=48)
    weights = engine_models.random_weights(config, seed=1)
    path = engine_models.save(weights, tmp_path / "random.safetensors")
    base = Contender("ours", "fp32", 1, config, str(path), num_rows=1)
    options = argparse.Namespace(context=[16], tokens=8)
    main = runpy.run_path(str(BENCH))
    generator = engine_child.load(base)

    class InThisProcess:
        changed: dict[int, int] = {}  # noqa: RUF012

        def ask(self, question: dict[str, Any]) -> Any:
            answer = asdict(generator.generate(**question))
            for i, token in self.changed.items():
                answer["tokens"][0][i] = token
            return answer

    worker = InThisProcess()
    assert main["check"]({base: worker}, base, options) == {"ours fp32, threads 1": "8 of 8"}
    worker.changed = {7: 64}  # the last, which nobody is fed
    with pytest.raises(UserError, match=r"token 7 of ours fp32, threads 1 must be .*, got 64"):
        main["check"]({base: worker}, base, options)
    main["LEADS"]["fp32"] = 1000.0
    assert main["check"]({base: worker}, base, options) == {"ours fp32, threads 1": "7 of 8"}
