"""The reference: the same answers from PyTorch's model, on any device, slowly.

    submit --> FIFO queue --> a free slot: the prompt in chunks at batch 1 into its cache row
                                  |
                                  +--> one token a step for every slot, until it ends

Every row is computed at batch 1 over its whole cache row, so that neighbours cannot change a bit.
A common batch does not give that in PyTorch even when its shape is fixed (measured, torch 2.13,
fp32): elementwise kernels end in a scalar tail with another exp, attention differs with the thread
that takes the row. ``is_exact=False`` decodes in a common batch all the same: on a GPU, several
times the throughput, for the last bits of logits and so a rare token.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nanochat.engine.core import (
    CANCELLED,
    FAILED,
    LENGTH,
    NOT_FINISHED,
    STOP,
    Happened,
    TopLogprobs,
)  # fmt: skip
from nanochat.engine.sampling import Sampling, logprobs_of, sample
from nanochat.model import GPT, KVCache

CHUNK = 256  # tokens of a prompt per step: what a new prompt may delay the others by


@dataclass
class _Sequence:
    id: int
    tokens: list[int]  # prompt, drawn and given
    sampling: Sampling
    seed: int
    sample: int
    max_tokens: int
    stop_ids: frozenset[int]
    pause_ids: frozenset[int]
    num_computed: int = 0
    num_generated: int = 0
    is_paused: bool = False

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed


@dataclass
class _Commands:
    """From other threads, for the next step."""

    submitted: list[_Sequence] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    resumed: list[tuple[int, list[int]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.submitted or self.cancelled or self.resumed)


class TorchCore:
    """A ``Core`` whose ``wait`` computes a step, on the thread that calls it."""

    def __init__(self, model: GPT, *, slots: int, is_exact: bool = True) -> None:
        if slots < 1:
            raise ValueError(f"engine: slots must be at least 1, got {slots}")
        self._model = model
        self._is_exact = is_exact
        self._device = next(model.parameters()).device
        context = model.config.seq_len
        self._cache = KVCache(
            model.config, slots, context, device=self._device, dtype=model.compute_dtype
        )
        self._rows: list[_Sequence | None] = [None] * slots
        self._queue: deque[_Sequence] = deque()
        self._wake = threading.Condition()  # guards what follows
        self._commands = _Commands()
        self._next_id = 0
        self._is_closed = False
        self._failure = ""

    def submit(
        self,
        prompt: list[int],
        *,
        seed: int,
        sample: int,
        max_tokens: int,
        stop_ids: list[int],
        pause_ids: list[int],
        **sampling: Any,
    ) -> int:
        config = self._model.config
        if not prompt:
            raise ValueError("engine: the prompt must have at least one token, got none")
        if len(prompt) >= config.seq_len:
            raise ValueError(
                f"engine: the prompt must be shorter than the context of {config.seq_len} tokens, "
                f"got {len(prompt)}"
            )
        for token in prompt:
            if not 0 <= token < config.vocab_size:
                raise ValueError(
                    f"engine: token ids must be 0 to {config.vocab_size - 1}, got {token}"
                )
        top_k, num_logprobs = sampling.pop("top_k"), sampling.pop("logprobs")
        how = Sampling(
            top_k=top_k or None, logprobs=None if num_logprobs < 0 else num_logprobs, **sampling
        )
        room = min(max_tokens, config.seq_len - len(prompt))
        with self._wake:
            if self._failure:
                raise RuntimeError(f"engine: stopped by an earlier error: {self._failure}")
            if self._is_closed:
                raise RuntimeError("engine: closed")
            self._next_id += 1
            self._commands.submitted.append(
                _Sequence(
                    self._next_id, list(prompt), how, seed, sample, room,
                    frozenset(stop_ids), frozenset(pause_ids),
                )
            )  # fmt: skip
            self._wake.notify()
            return self._next_id

    def cancel(self, id: int) -> None:
        with self._wake:
            self._commands.cancelled.add(id)
            self._wake.notify()

    def resume(self, id: int, tokens: list[int]) -> None:
        with self._wake:
            self._commands.resumed.append((id, list(tokens)))
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._is_closed = True
            self._wake.notify()

    def take_model(self, model: GPT) -> None:
        """Compute with ``model`` from now on; nothing may be queued or running.

        Raises: ValueError for another device or dtype than those of the cache.
        """
        device, dtype = next(model.parameters()).device, model.compute_dtype
        if (device, dtype) != (self._device, self._model.compute_dtype):
            raise ValueError(
                f"engine: weights must be in {self._model.compute_dtype} on {self._device}, "
                f"got {dtype} on {device}"
            )
        self._model = model

    def failure(self) -> str:
        return self._failure

    def statistics(self) -> dict[str, float]:
        running = sum(row is not None for row in self._rows)
        return {"running": running, "queued": len(self._queue) + len(self._commands.submitted)}

    def wait(self, seconds: float) -> list[Happened]:
        with self._wake:
            if not self._can_run():
                self._wake.wait_for(lambda: self._is_closed or bool(self._commands), seconds)
            commands, self._commands = self._commands, _Commands()
            is_closed = self._is_closed
        self._queue += commands.submitted
        if is_closed:
            return self._end_all(CANCELLED)
        happened: list[Happened] = []
        try:
            self._obey(commands, happened)
            with torch.no_grad():
                self._step(happened)
        except Exception as error:  # whatever breaks the model ends every request, with its reason
            with self._wake:
                self._failure = f"{type(error).__name__}: {error}"
            return happened + self._end_all(FAILED)
        return happened

    def _can_run(self) -> bool:
        return bool(self._queue) or any(row and not row.is_paused for row in self._rows)

    def _end_all(self, finish: int) -> list[Happened]:
        with self._wake:
            self._queue += self._commands.submitted
            self._commands = _Commands()
        left = [*(row for row in self._rows if row is not None), *self._queue]
        self._rows = [None] * len(self._rows)
        self._queue.clear()
        return [Happened(sequence.id, [], None, False, finish, 0) for sequence in left]

    def _obey(self, commands: _Commands, happened: list[Happened]) -> None:
        running = {row.id: (slot, row) for slot, row in enumerate(self._rows) if row is not None}
        for id, tokens in commands.resumed:
            if id in running:
                sequence = running[id][1]
                sequence.is_paused = False
                sequence.tokens += tokens
                sequence.num_generated += len(tokens)
        for id in commands.cancelled:
            if id in running:
                self._free(running[id][0])
            elif any(waiting.id == id for waiting in self._queue):
                self._queue = deque(waiting for waiting in self._queue if waiting.id != id)
            else:
                continue
            happened.append(Happened(id, [], None, False, CANCELLED, 0))

    def _step(self, happened: list[Happened]) -> None:
        for slot, row in enumerate(self._rows):
            if row is None and self._queue:
                self._rows[slot] = self._queue.popleft()
        rows = [(slot, row) for slot, row in enumerate(self._rows) if row and not row.is_paused]
        decoding = [(slot, row) for slot, row in rows if row.num_pending == 1]
        # One chunk a step, of the oldest: the others go on decoding, and none starves.
        filling = min(
            ((row.id, slot, row) for slot, row in rows if row.num_pending > 1), default=None
        )
        if filling is not None:
            _, slot, row = filling
            chunk = row.tokens[row.num_computed : row.num_computed + CHUNK]
            ids = torch.tensor([chunk], device=self._device)
            row.num_computed += len(chunk)
            if row.num_pending:
                self._model.hidden(ids, cache=self._cache.row(slot))  # no logits wanted
            else:
                logits = self._model(ids, cache=self._cache.row(slot))[0, -1]
                happened.append(self._draw(slot, row, logits))
        common = None if self._is_exact or not decoding else self._decode_together(decoding)
        for slot, row in decoding:
            if common is None:
                ids = torch.tensor([row.tokens[-1:]], device=self._device)
                logits = self._model(ids, cache=self._cache.row(slot))[0, -1]
            else:
                logits = common[slot]
            row.num_computed += 1
            happened.append(self._draw(slot, row, logits))

    def _decode_together(self, decoding: list[tuple[int, _Sequence]]) -> Tensor:
        """Logits (slots, V) in one call; other rows of the cache stay as they are."""
        cache = self._cache
        ids = torch.zeros(len(self._rows), 1, dtype=torch.int64)
        is_other = torch.ones(len(self._rows), dtype=torch.bool)
        for slot, row in decoding:
            ids[slot, 0] = row.tokens[-1]
            is_other[slot] = False
        others = is_other.to(self._device)
        lengths, previous = cache.lengths[others], cache.previous[others]
        logits: Tensor = self._model(ids.to(self._device), cache=cache)[:, -1]
        cache.lengths[others], cache.previous[others] = lengths, previous
        return logits.cpu()  # one transfer for all rows

    def _draw(self, slot: int, row: _Sequence, logits: Tensor) -> Happened:
        """Settle the next token of a slot from its logits (V,)."""
        host = logits.float().cpu().numpy()
        token = sample(
            host,
            row.sampling,
            seed=row.seed,
            sample_index=row.sample,
            position=len(row.tokens),
            seen=row.tokens,
        )
        logprobs: list[tuple[float, TopLogprobs]] | None = None
        if row.sampling.logprobs is not None:
            logprobs = [logprobs_of(host, token, row.sampling.logprobs)]
        row.tokens.append(token)
        row.num_generated += 1
        finish = NOT_FINISHED
        if token in row.stop_ids:
            finish = STOP
        elif row.num_generated >= row.max_tokens:
            finish = LENGTH
        elif token in row.pause_ids:
            row.is_paused = True
        if finish != NOT_FINISHED:
            self._free(slot)
        return Happened(row.id, [token], logprobs, row.is_paused, finish, 0)

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        self._cache.reset(slot)
