"""The stream of steps: exact resume, the same rows for any world size, a thread that ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from nanochat.common.errors import UserError
from nanochat.data import GeneratedSource, Loader, LoaderState, Step, count_rows, validation_rows
from nanochat.data.loader import _STEPS_AHEAD
from nanochat.data.rendering import TokenBatch, Tokens, lay_end_to_end, render_text

BOS = 0
SEQ_LEN = 24
ROWS = 8


class Numbers:
    """Two epochs' worth of finite blocks; a document is the list of its tokens."""

    name = "numbers"

    def __init__(self, blocks: int = 3, documents: int = 9) -> None:
        self.blocks, self.documents = blocks, documents

    def block(self, epoch: int, index: int) -> list[Any] | None:
        if index >= self.blocks:
            return None
        rng = np.random.default_rng([epoch, index])
        return [rng.integers(1, 99, n).tolist() for n in rng.integers(1, 60, self.documents)]


def render(items: list[Any]) -> TokenBatch:
    return TokenBatch(
        np.array([token for item in items for token in item], np.uint16),
        np.cumsum([0, *map(len, items)], dtype=np.int64),
        mask=None,
    )


def loader(**options: Any) -> Loader:
    given: dict[str, Any] = {
        "render": render,
        "bos": BOS,
        "seq_len": SEQ_LEN,
        "rows_per_step": ROWS,
        "device_rows": 2,
        "seed": 7,
    }
    given.update(options)
    return Loader(given.pop("source", Numbers()), **given)


def take(n: int, **options: Any) -> list[Step]:
    with loader(**options) as steps:
        return list(islice(steps, n))


def same(a: Step, b: Step) -> bool:
    return (
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.targets, b.targets)
        and (a.num_targets, a.state) == (b.num_targets, b.state)
    )


def test_shapes_and_shift() -> None:
    for step in take(5):
        assert step.inputs.shape == step.targets.shape == (ROWS // 2, 2, SEQ_LEN)
        assert step.inputs.dtype == step.targets.dtype == torch.int64
        follows = step.targets[..., :-1] == step.inputs[..., 1:]
        assert (follows | (step.targets[..., :-1] == -1)).all()
        assert step.num_targets == int((step.targets != -1).sum())


def test_resume_from_every_step_gives_the_same_stream() -> None:
    whole = take(30)
    assert whole[-1].state["epoch"] >= 2  # crossed the ends of epochs
    assert len({(s.state["epoch"], s.state["block"]) for s in whole}) > 3
    for done, step in enumerate(whole[:-1], 1):
        rest = take(3, state=step.state)
        assert all(same(a, b) for a, b in zip(rest, whole[done : done + 3], strict=False)), done


def test_epochs_differ_and_hold_every_document() -> None:
    """Without shuffled blocks, tokens of an epoch are those of its documents."""
    source = Numbers()
    wanted = sorted(
        token for index in range(3) for item in source.block(0, index) or [] for token in item
    )
    got: list[int] = []
    with loader(source=source, rows_per_step=1, device_rows=1) as steps:
        for step in steps:
            got += step.targets[step.targets > BOS].tolist()
            if step.state["block"] == 3:
                break
    assert sorted(got) == wanted


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_rows_of_one(world_size: int) -> None:
    alone = take(6)
    shares = [take(6, rank=r, world_size=world_size) for r in range(world_size)]
    for index, step in enumerate(alone):
        parts = [share[index] for share in shares]
        inputs = torch.stack([part.inputs for part in parts], dim=1)  # (accum, world, B, T)
        targets = torch.stack([part.targets for part in parts], dim=1)
        assert torch.equal(inputs.view(ROWS, SEQ_LEN), step.inputs.view(ROWS, SEQ_LEN))
        assert torch.equal(targets.view(ROWS, SEQ_LEN), step.targets.view(ROWS, SEQ_LEN))
        assert {part.num_targets for part in parts} == {step.num_targets}
        assert all(part.state == step.state for part in parts)


def test_micro_batch_size_does_not_change_the_rows() -> None:
    for a, b in zip(take(4, device_rows=1), take(4, device_rows=8), strict=True):
        assert torch.equal(a.inputs.view(ROWS, -1), b.inputs.view(ROWS, -1))


def test_seed_changes_the_rows() -> None:
    assert not same(take(1, seed=1)[0], take(1, seed=2)[0])


def test_each_block_and_epoch_is_shuffled_anew() -> None:
    class Same:
        name = "same"

        def block(self, epoch: int, index: int) -> list[Any] | None:
            return [[i] * SEQ_LEN for i in range(1, ROWS + 1)] if index < 2 else None

    orders = [
        tuple(step.inputs.view(ROWS, SEQ_LEN)[:, 1].tolist()) for step in take(4, source=Same())
    ]
    assert len(set(orders)) == 4  # two blocks in two epochs
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(1, ROWS + 1))}


def test_thread_does_not_keep_the_interpreter_alive() -> None:
    """A script that never closes its loader still ends."""
    script = (
        "import numpy as np\n"
        "from nanochat.data import GeneratedSource, Loader, TokenBatch\n"
        "def render(items):\n"
        "    return TokenBatch(np.array(items, np.int32), np.arange(len(items) + 1), None)\n"
        "loader = Loader(GeneratedSource(int), render=render, bos=0, seq_len=4, rows_per_step=2,\n"
        "                device_rows=2, seed=0)\n"
        "print(next(loader).inputs.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "torch.Size([1, 2, 4])\n"), done.stderr


def test_statistics_are_those_of_the_steps() -> None:
    with loader() as steps:
        taken = list(islice(steps, 12))
        stats = steps.stats
    assert stats.steps == 12
    assert stats.tokens == 12 * ROWS * SEQ_LEN
    assert stats.targets == sum(step.num_targets for step in taken)
    assert stats.documents == sum(step.num_documents for step in taken) > 0
    assert stats.epoch == taken[-1].state["epoch"]
    assert 0 < stats.waste < 0.2


def test_row_without_targets_is_harmless() -> None:
    def half_masked(items: list[Any]) -> TokenBatch:
        # Nothing but the last token of every conversation is learnt.
        batch = render(items)
        mask = np.zeros(len(batch.ids), np.bool_)
        mask[batch.offsets[1:] - 1] = True
        return batch._replace(mask=mask)

    for step in take(4, render=half_masked):
        assert step.num_targets == int((step.targets != -1).sum())


def test_thread_ends_on_close_and_when_dropped() -> None:
    steps = loader()
    next(steps)
    assert any(thread.name == "loader" for thread in threading.enumerate())
    steps.close()
    steps.close()  # twice does no harm
    assert not any(thread.name == "loader" for thread in threading.enumerate())
    with pytest.raises(ValueError, match="closed"):
        next(steps)

    dropped = loader()
    next(dropped)
    gone = weakref.ref(dropped)
    del dropped
    gc.collect()
    assert gone() is None
    assert not any(thread.name == "loader" for thread in threading.enumerate())


def test_close_while_the_thread_waits_for_room() -> None:
    drawn = threading.Semaphore(0)

    class OneRow(Numbers):
        def block(self, epoch: int, index: int) -> list[Any] | None:
            drawn.release()
            return [[1, 2, 3]]

    steps = loader(source=OneRow(), rows_per_step=1, device_rows=1)
    for _ in range(_STEPS_AHEAD + 1):  # the last one finds the queue full
        assert drawn.acquire(timeout=30)
    steps.close()
    assert not any(thread.name == "loader" for thread in threading.enumerate())


def test_what_the_thread_raises_arrives_unchanged() -> None:
    error = UserError("data: broken.jsonl:3: not valid JSON")

    class Broken(Numbers):
        def block(self, epoch: int, index: int) -> list[Any] | None:
            if index == 2:
                raise error
            return super().block(epoch, index)

    with loader(source=Broken(), rows_per_step=2, device_rows=2) as steps:
        with pytest.raises(UserError) as caught:
            for _ in range(1000):
                next(steps)
        assert steps.stats.steps > 0  # what came before was delivered
        assert caught.value is error
        with pytest.raises(UserError):
            next(steps)


def test_source_without_documents() -> None:
    with (
        loader(source=Numbers(documents=0)) as steps,
        pytest.raises(UserError, match="no usable document in numbers"),
    ):
        next(steps)


def test_state_of_other_data_is_refused() -> None:
    state = LoaderState(epoch=0, block=0, row=10_000)
    with loader(state=state) as steps, pytest.raises(UserError, match="data changed"):
        next(steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_step": 9}, "multiple of device_rows"),
        ({"rows_per_step": 0}, "multiple of device_rows"),
        ({"rank": 2, "world_size": 2}, "rank must be in"),
    ],
)
def test_a_caller_s_mistake_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(**options)


def test_generated_source_is_endless_and_random_access() -> None:
    source = GeneratedSource(lambda i: [i % 97 + 1] * (i % 7 + 1), items_per_block=16)
    steps = take(20, source=source)
    assert steps[-1].state["epoch"] == 0
    assert same(take(1, source=source, state=steps[9].state)[0], steps[10])


def test_render_text_takes_what_the_tokenizer_gives() -> None:
    encoded = np.array([2, 1], np.uint16), np.array([0, 1, 2])
    ids, offsets, mask = render_text(lambda texts: encoded)(["ab", "c"])
    assert ids is encoded[0]
    assert offsets is encoded[1]
    assert mask is None


def test_tokens_are_laid_end_to_end() -> None:
    def tokens(ids: list[int], mask: list[int]) -> Tokens:
        return Tokens(np.array(ids, np.uint16), np.array(mask, np.bool_))

    batch = lay_end_to_end([tokens([5, 6], [0, 1]), tokens([], []), tokens([7], [1])])
    ids, offsets, mask = batch
    assert mask is not None
    assert (ids.tolist(), offsets.tolist(), mask.tolist()) == (
        [5, 6, 7],
        [0, 2, 2, 3],
        [False, True, True],
    )
    assert (ids.dtype, offsets.dtype, mask.dtype) == (np.uint16, np.int64, np.bool_)
    assert len(lay_end_to_end([]).offsets) == 1


def test_rows_of_an_epoch_are_counted() -> None:
    options: dict[str, Any] = {"render": render, "bos": BOS, "seq_len": SEQ_LEN}
    num_rows = 0
    with loader(rows_per_step=1, device_rows=1) as steps:
        for step in steps:
            num_rows += 1
            if step.state["block"] == 3:
                break
    assert count_rows(Numbers(), **options) == num_rows > 10


def test_validation_rows_are_fixed() -> None:
    options: dict[str, Any] = {"render": render, "bos": BOS, "seq_len": SEQ_LEN, "device_rows": 4}
    a = validation_rows(Numbers(), num_tokens=10 * SEQ_LEN, **options)
    b = validation_rows(Numbers(), num_tokens=10 * SEQ_LEN, **options)
    assert len(a) == 3  # 10 rows in batches of 4
    assert all(x.shape == y.shape == (4, SEQ_LEN) for x, y in a)
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))
    assert (a[-1][1][2:] == -1).all()
    assert (a[-1][1][:2] != -1).any(dim=1).all()


def test_validation_takes_one_epoch_at_most() -> None:
    options: dict[str, Any] = {"render": render, "bos": BOS, "seq_len": SEQ_LEN, "device_rows": 4}
    batches = validation_rows(Numbers(), num_tokens=10**9, **options)
    source = Numbers()
    num_tokens = sum(len(item) for i in range(3) for item in source.block(0, i) or [])
    assert sum(int((targets > BOS).sum()) for _, targets in batches) == num_tokens
