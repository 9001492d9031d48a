"""Evaluations on two gloo ranks give what one process gives; one spawn, since it is what costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nanochat.engine import Engine
from nanochat.evals.bpb import bits_per_byte
from nanochat.evals.core import run_core_task
from nanochat.evals.core_tasks import CoreTask, TaskRows
from nanochat.evals.likelihood import scorer
from nanochat.evals.tasks import run_tasks
from nanochat.model import GPT, GPTConfig
from nanochat.tasks import Example, Kind
from nanochat.tokenizer import Tokenizer


@dataclass
class Quiz:
    """Five questions, so that two ranks have shares of different size."""

    name: str = "quiz"
    kind: Kind = "generative"
    chance: float = 0.0

    def examples(self, split: str, *, n: int, seed: int) -> list[Example]:
        reference = {"role": "assistant", "content": "a"}
        asked = ({"role": "user", "content": f"question {i}"} for i in range(5))
        return [Example((message,), reference, lambda reply: "a" in reply) for message in asked]


def evaluate(rank: int, world_size: int) -> dict[str, Any]:
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)})
    config = GPTConfig.from_depth(
        1, vocab_size=tokenizer.vocab_size, seq_len=64, head_dim=64, arch="classic"
    )
    model = GPT(config)
    model.init_weights(seed=0)
    torch.nn.init.normal_(model.lm_head.weight, generator=torch.Generator().manual_seed(1))
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 265, (3, 1, 17)))
    batches = [(row[:, :-1], row[:, 1:]) for row in rows]
    bpb = bits_per_byte(model, batches[rank::world_size], tokenizer.token_bytes())
    nothing_here = batches if rank == world_size - 1 else []
    uneven = bits_per_byte(model, nothing_here, tokenizer.token_bytes())
    with Engine(model.eval(), tokenizer, slots=2) as engine:
        rows = [{"query": f"{i}", "choices": ["a", "bc"], "gold": i % 2} for i in range(5)]
        task = CoreTask(name="x", kind="multiple_choice", path="x", shots=1, chance=0.5)
        core = run_core_task(task, TaskRows(rows, 2), scorer(engine), tokenizer, context=64)
        (quiz,) = run_tasks(engine, [Quiz()], max_tokens=3)
    return {"bpb": bpb, "uneven": uneven, "records": list(quiz.records), "core": list(core.records)}


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(_on_rank, args=(str(tmp_path),), nprocs=2)
    alone = evaluate(0, 1)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["records"] == alone["records"]
    assert first["core"] == alone["core"]
    assert len(first["core"]) == 5
    np.testing.assert_allclose(first["bpb"], alone["bpb"], rtol=1e-6)
    np.testing.assert_allclose(first["uneven"], alone["bpb"], rtol=1e-6)


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(evaluate(rank, 2)))
    dist.destroy_process_group()
