"""2 and 4 gloo ranks against one process: same weights, same losses, states that move between them.

Rows of synthetic gradients are dealt to ranks, zeros elsewhere: the sum is exact, so one process
and four agree to the last bit. Ranks are forked from a server that has imported torch once.
"""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from nanochat.model import GPT, GPTConfig
from nanochat.optim import MuonAdamW, build_groups

# 12 square matrices, 3 of each MLP shape (4 ranks own 1, 1, 1, 0), 2 gates, tables of 128 rows that
# are cut, and scalars kept whole on every rank.
CONFIG = GPTConfig(
    n_layer=3, n_head=2, n_kv_head=2, n_embd=64, vocab_size=128, seq_len=32, short_window=8
)

Result = dict[str, dict[str, Tensor]]


def build(
    world_state: dict[str, Any] | None = None, inner_dtype: torch.dtype | None = None
) -> tuple[GPT, MuonAdamW]:
    model = GPT(CONFIG)
    model.init_weights(seed=1)
    groups = build_groups(model, n_embd=CONFIG.n_embd, weight_decay=0.1)
    optimizer = MuonAdamW(groups, inner_dtype=inner_dtype)
    if world_state is not None:
        model.load_state_dict(world_state["weights"])
        optimizer.load_full_state(world_state["state"])
    return model, optimizer


def synthetic_steps(
    model: GPT, optimizer: MuonAdamW, steps: range, rank: int, world: int
) -> dict[str, Any]:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            grad = torch.randn(p.shape, generator=generator) * 1e-2
            mine = torch.arange(p.shape[0]) % world == rank
            p.grad = torch.where(mine.view(-1, *[1] * (p.ndim - 1)), grad, 0)
        optimizer.step()
    return snapshot(model, optimizer)


def snapshot(model: GPT, optimizer: MuonAdamW) -> dict[str, Any]:
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {"weights": weights, "state": optimizer.full_state()}


def real_losses(rank: int, world: int) -> list[float]:
    """Loss of the whole batch over 5 steps; each rank sees its rows."""
    model, optimizer = build(inner_dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        # While the projections are zero, the gradients of the scalars are rounding noise (the last
        # norm removes any common factor), and AdamW steps by the sign of noise.
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    ids = torch.randint(0, 128, (8, 33), generator=torch.Generator().manual_seed(3))
    rows = ids[rank::world]
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.loss(rows[:, :-1], rows[:, 1:]) / ids[:, 1:].numel()
        loss.backward()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(float(total))
        optimizer.step()
    return losses


def run_rank(rank: int, world: int, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world
    )
    fresh = synthetic_steps(*build(), range(3), rank, world)
    resumed = None
    if world == 4:
        saved = torch.load(folder / "world2_rank0.pt")["fresh"]
        resumed = synthetic_steps(*build(saved), range(3, 5), rank, world)
    result = {"fresh": fresh, "resumed": resumed, "losses": real_losses(rank, world)}
    torch.save(result, folder / f"world{world}_rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.set_forkserver_preload(["nanochat.optim", "nanochat.model", "torch._dynamo"])
    for world in (2, 4):
        mp.start_processes(run_rank, args=(world, folder), nprocs=world, start_method="forkserver")
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process does, and where it is two steps later."""
    model, optimizer = build()
    fresh = synthetic_steps(model, optimizer, range(3), 0, 1)
    resumed = synthetic_steps(model, optimizer, range(3, 5), 0, 1)
    return {"fresh": fresh, "resumed": resumed, "losses": real_losses(0, 1)}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    assert [key for key in want if not torch.equal(got[key], want[key])] == []


@pytest.mark.parametrize("world", [2, 4])
def test_same_updates_as_one_process(folder: Path, alone: dict[str, Any], world: int) -> None:
    for rank in range(world):
        result = torch.load(folder / f"world{world}_rank{rank}.pt")
        assert_same(result["fresh"]["weights"], alone["fresh"]["weights"])
        assert_same(result["fresh"]["state"], alone["fresh"]["state"] if rank == 0 else {})


@pytest.mark.parametrize("world", [2, 4])
def test_same_losses_as_one_process(folder: Path, alone: dict[str, Any], world: int) -> None:
    result = torch.load(folder / f"world{world}_rank0.pt")
    assert alone["losses"][-1] < 0.8 * alone["losses"][0]
    assert result["losses"] == pytest.approx(alone["losses"], abs=2e-5)


def test_state_of_two_ranks_continues_on_four(folder: Path, alone: dict[str, Any]) -> None:
    for rank in range(4):
        result = torch.load(folder / f"world4_rank{rank}.pt")["resumed"]
        assert_same(result["weights"], alone["resumed"]["weights"])
    assert_same(
        torch.load(folder / "world4_rank0.pt")["resumed"]["state"], alone["resumed"]["state"]
    )


def test_state_of_two_ranks_continues_on_one(folder: Path, alone: dict[str, Any]) -> None:
    saved = torch.load(folder / "world2_rank0.pt")["fresh"]
    result = synthetic_steps(*build(saved), range(3, 5), 0, 1)
    assert_same(result["weights"], alone["resumed"]["weights"])
    assert_same(result["state"], alone["resumed"]["state"])
