"""Steps of training data: tokenised and packed ahead on a thread, the same for any number of ranks.

Every rank runs the same stream of rows and takes its share of each step,

    micro-step m of rank r = rows [(m * world_size + r) * B, ... + B) of the step

so the data do not depend on the number of ranks, and the number of targets of a whole step, over
which the loss is averaged, is known everywhere without a word between ranks. The price is that each
rank tokenises everything; it overlaps with the device.

Rows left over from a block begin the next step, across epochs too. The state behind a step is the
place of its last row: resuming packs that one block again.
"""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from nanochat.common.errors import UserError
from nanochat.data.packer import IGNORE, Rows, pack
from nanochat.data.rendering import Render
from nanochat.data.sources import Item, Source

_STEPS_AHEAD = 4


class LoaderState(TypedDict):
    """Where the next row stands; plain JSON."""

    epoch: int
    block: int
    row: int


@dataclass(frozen=True)
class Step:
    """One rank's data of an optimizer step."""

    inputs: Tensor  # (accum, B, T) int64
    targets: Tensor  # (accum, B, T) int64, -1 is ignored
    num_targets: int  # of all ranks and micro-steps together, as are the counts below; may be 0
    num_tokens: int  # padding included
    num_padding: int
    num_documents: int  # that begin in the step
    state: LoaderState  # to resume behind this step


@dataclass
class LoaderStats:
    """Sums of the counts of the steps yielded since the loader was made."""

    steps: int = 0
    targets: int = 0
    tokens: int = 0
    padding: int = 0
    documents: int = 0
    epoch: int = 0  # of the next row

    def add(self, step: Step) -> None:
        self.steps += 1
        self.targets += step.num_targets
        self.tokens += step.num_tokens
        self.padding += step.num_padding
        self.documents += step.num_documents
        self.epoch = step.state["epoch"]

    @property
    def waste(self) -> float:
        """Share of padding."""
        return self.padding / max(1, self.tokens)


class Loader:
    """Iterates :class:`Step` without end; close it, or use it as a context manager.

    Args:
        source: Documents by block; used by the loader's thread alone from now on.
        render: Items to tokens, see rendering.py; runs on the thread.
        bos: Id that begins every document; fills what is left of a row.
        seq_len: T.
        rows_per_step: Rows of one optimizer step over all ranks; a multiple of
            ``device_rows * world_size``.
        device_rows: B, rows of one micro-batch.
        state: ``Step.state`` of the last step taken; None begins.
        device: Where the step will go; for cuda the tensors are pinned.
    Raises: ValueError if the rows do not divide. While iterating, what source or render raised, and
        UserError if an epoch holds no usable document.
    """

    def __init__(
        self,
        source: Source,
        *,
        render: Render,
        bos: int,
        seq_len: int,
        rows_per_step: int,
        device_rows: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        state: LoaderState | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if rows_per_step <= 0 or rows_per_step % (device_rows * world_size):
            raise ValueError(
                "loader: rows_per_step must be a positive multiple of device_rows * world_size "
                f"({device_rows} * {world_size}), got {rows_per_step}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"loader: rank must be in [0, {world_size}), got {rank}")
        start = state or LoaderState(epoch=0, block=0, row=0)
        packer = _Packer(source, render, bos, seq_len, seed)
        steps = packer.steps(start, rows_per_step, device_rows, rank, world_size)
        self.stats = LoaderStats(epoch=start["epoch"])
        self._failure: BaseException | None = None
        self._queue: queue.Queue[Step | BaseException] = queue.Queue(_STEPS_AHEAD)
        stop = threading.Event()
        # The thread holds no reference to the loader, so that dropping the loader ends the thread.
        thread = threading.Thread(
            target=_produce,
            args=(steps, self._queue, stop, torch.device(device)),
            name="loader",
            daemon=True,
        )
        self._end = weakref.finalize(self, _shut_down, thread, self._queue, stop)
        thread.start()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self._failure is not None:
            raise self._failure
        if not self._end.alive:
            raise ValueError("loader: it is closed; make a new one from the state of the last step")
        step = self._queue.get()
        if isinstance(step, BaseException):
            self._failure = step
            raise step
        self.stats.add(step)
        return step

    def close(self) -> None:
        """Stop the thread and wait for it; steps read ahead are dropped."""
        self._end()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Packer:
    """The stream of rows that all ranks share."""

    source: Source
    render: Render
    bos: int
    seq_len: int
    seed: int

    def blocks(self, epoch: int, block: int) -> Iterator[tuple[int, int, Rows]]:
        """(epoch, block, rows) from a place on, epoch after epoch."""
        is_empty = block == 0  # what was seen of the epoch
        while True:
            items = self.source.block(epoch, block)
            if items is None:
                if is_empty:
                    raise UserError(
                        f"data: no usable document in {self.source.name}; "
                        "give more text (blank documents and masks without targets do not count)"
                    )
                epoch, block, is_empty = epoch + 1, 0, True
                continue
            rows = self.pack(items, epoch, block)
            is_empty = is_empty and len(rows) == 0
            yield epoch, block, rows
            block += 1

    def pack(self, items: list[Item], epoch: int, block: int) -> Rows:
        key = (self.seed, epoch, block)
        return pack(self.render(items), bos=self.bos, seq_len=self.seq_len, key=key)

    def steps(
        self, start: LoaderState, rows_per_step: int, device_rows: int, rank: int, world_size: int
    ) -> Iterator[Step]:
        held: list[Rows] = []
        missing = rows_per_step
        at = start["row"]
        for epoch, block, rows in self.blocks(start["epoch"], start["block"]):
            if at > len(rows):
                raise UserError(
                    f"data: row {at} of block {block} is gone from {self.source.name}; "
                    "the data changed since the checkpoint"
                )
            while at < len(rows):
                part = rows.slice(at, at + missing)
                held.append(part)
                at += len(part)
                missing -= len(part)
                if missing == 0:
                    state = LoaderState(epoch=epoch, block=block, row=at)
                    if at == len(rows):
                        state = LoaderState(epoch=epoch, block=block + 1, row=0)
                    yield _step(Rows.concatenate(held), device_rows, rank, world_size, state)
                    held, missing = [], rows_per_step
            at = 0


def _step(rows: Rows, device_rows: int, rank: int, world_size: int, state: LoaderState) -> Step:
    def share(array: np.ndarray) -> Tensor:
        T = array.shape[1]
        mine = array.reshape(-1, world_size, device_rows, T)[:, rank]
        return torch.from_numpy(mine.astype(np.int64))

    return Step(
        inputs=share(rows.ids[:, :-1]),
        targets=share(rows.targets),
        num_targets=int(np.count_nonzero(rows.targets != IGNORE)),
        num_tokens=rows.targets.size,
        num_padding=int(rows.num_padding.sum()),
        num_documents=int(rows.num_documents.sum()),
        state=state,
    )


def _produce(
    steps: Iterator[Step],
    out: queue.Queue[Step | BaseException],
    stop: threading.Event,
    device: torch.device,
) -> None:
    """Body of the thread. Whatever is raised is handed to the consumer as it is."""
    try:
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # or pinning would open a context on device 0
        for step in steps:
            if device.type == "cuda":
                # A fresh pinned block each: torch reuses one only when the copies from it are done.
                pinned = step.inputs.pin_memory(), step.targets.pin_memory()
                step = replace(step, inputs=pinned[0], targets=pinned[1])
            out.put(step)
            if stop.is_set():
                return
    except BaseException as error:
        out.put(error)


def _shut_down(
    thread: threading.Thread, steps: queue.Queue[Step | BaseException], stop: threading.Event
) -> None:
    stop.set()
    # The thread looks at ``stop`` after each put, so it puts once more at most.
    with suppress(queue.Empty):
        while True:
            steps.get_nowait()
    if thread is not threading.current_thread():  # the garbage collector may run on it
        thread.join()


def count_rows(source: Source, *, render: Render, bos: int, seq_len: int) -> int:
    """Packed rows of the first epoch of a source that ends; other epochs differ by a few."""
    packer = _Packer(source, render, bos, seq_len, seed=0)
    blocks = itertools.takewhile(lambda block: block[0] == 0, packer.blocks(0, 0))
    return sum(len(rows) for _, _, rows in blocks)


def validation_rows(
    source: Source, *, render: Render, bos: int, seq_len: int, device_rows: int, num_tokens: int
) -> list[tuple[Tensor, Tensor]]:
    """Batches of (inputs, targets), both (B, T) int64, the same at every call.

    They hold at least ``num_tokens`` tokens if epoch 0 of the source has as many; the last batch is
    filled with rows without targets.

    Raises: UserError if the source has no document.
    """
    packer = _Packer(source, render, bos, seq_len, seed=0)
    wanted = -(-num_tokens // seq_len)
    parts: list[Rows] = []
    for epoch, _, rows in packer.blocks(0, 0):
        if epoch > 0 or wanted <= 0:
            break
        parts.append(rows.slice(0, wanted))
        wanted -= len(rows)
    rows = Rows.concatenate(parts)
    padding = -len(rows) % device_rows
    ids = np.concatenate([rows.ids, np.full((padding, seq_len + 1), bos, np.int32)])
    targets = np.concatenate([rows.targets, np.full((padding, seq_len), IGNORE, np.int32)])
    shape = (-1, device_rows, seq_len)
    inputs = torch.from_numpy(ids[:, :-1].astype(np.int64)).view(shape)
    return list(zip(inputs, torch.from_numpy(targets.astype(np.int64)).view(shape), strict=True))
