"""Continuous batching over a fixed number of slots; one thread owns the model and the cache.

    submit --> FIFO queue --> a free slot: prefill, one chunk a step, at batch 1 into its cache row
                                  |
                                  +--> decode: one token a step for every slot, until the turn ends

Sameness. A completion depends on weights, prompt, sampling and seed, never on its neighbours: the
prompt is cut into chunks at fixed places, every row is computed at batch 1 over its whole cache
row, and noise is keyed by (seed, position, token). Tests compare logits bit by bit. A common batch
does not give that in PyTorch even when its shape is fixed (measured, torch 2.13, fp32): elementwise
kernels end in a scalar tail with another exp, attention differs with the thread that takes the row,
so the last bits tell the slot. ``is_exact=False`` decodes in a common batch all the same. CPU time
of a step, d4 at vocab 4096 on one core: 3.9 ms a row, against 8.3 ms for 8 rows, 21 ms for 32.

Whoever asked is told through a callback on the engine thread, which must only pass things on:
``generate`` collects, ``stream`` (stream.py) hands over to an event loop.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from nanochat.engine.request import Completion, Event, Request
from nanochat.engine.sampling import Sampling, sample
from nanochat.engine.stream import Stream
from nanochat.engine.turn import Piece, Turn
from nanochat.model import GPT, KVCache
from nanochat.tokenizer import Tokenizer

PREFILL_CHUNK = 256  # tokens of a prompt per step: what a new prompt may delay the others by

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """Generates for many prompts at once; methods may be called from any thread.

    Args:
        slots: Prompts that decode at the same time; more wait their turn.
        is_exact: The same tokens in any company. False gives that up, in the last bits of logits
            and so in a rare token, for several times the throughput: for evaluation.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, slots: int = 8, is_exact: bool = True
    ) -> None:
        if slots < 1:
            raise ValueError(f"engine: slots must be at least 1, got {slots}")
        self.model = model
        self.tokenizer = tokenizer
        self.context = model.config.seq_len
        self.is_exact = is_exact
        self._device = next(model.parameters()).device
        self._cache = KVCache(
            model.config, slots, self.context, device=self._device, dtype=model.compute_dtype
        )
        self._rows: list[Request | None] = [None] * slots
        self._last = [tokenizer.bos] * slots  # token each slot feeds next; a dummy where idle
        self._queue: deque[Request] = deque()
        self._wake = threading.Condition()  # guards the queue and the two below
        self._is_closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nanochat-engine", daemon=True)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: torch.device | str = "cpu",
        dtype: str | None = None,
        slots: int = 8,
    ) -> Self:
        """Engine for a checkpoint; ``dtype`` fp32, bf16 or fp16, by default bf16 on CUDA only.

        Raises: ValueError for a dtype or device that is not there; UserError for the checkpoint.
        """
        from nanochat.checkpoint import load_model

        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"engine: dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"engine: device {device} cannot be used here: {reason}") from error
        name = dtype or ("bf16" if torch.device(device).type == "cuda" else "fp32")
        model, tokenizer, _ = load_model(path, device=device, dtype=_DTYPES[name])
        return cls(model, tokenizer, slots=slots)

    @property
    def num_queued(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return sum(row is not None for row in self._rows)

    @property
    def failure(self) -> BaseException | None:
        """Why the engine stopped by itself, if it did."""
        return self._failure

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]
    ) -> list[Completion]:
        """Completions in the order of ``prompts``; one sampling for all, or one for each.

        Raises: ValueError as :meth:`submit`; whatever broke the engine.
        """
        if isinstance(sampling, Sampling):
            sampling = [sampling] * len(prompts)
        requests: list[Request] = []
        results: list[Future[Completion]] = []
        try:
            for prompt, how in zip(prompts, sampling, strict=True):
                result: Future[Completion] = Future()
                results.append(result)
                requests.append(self.submit(prompt, how, _collector(result)))
            return [result.result() for result in results]
        except BaseException:
            for request in requests:
                request.cancel()
            raise

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Pieces of one completion as they come, for ``async for``; needs a running event loop."""
        return Stream(lambda deliver: self.submit(prompt, sampling, deliver))

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, deliver: Callable[[Event], None]
    ) -> Request:
        """Queue a prompt; ``deliver`` gets pieces, then a Completion or what broke.

        It is called on the engine thread, where every other completion waits for it to return.
        Raises: ValueError if the prompt is empty, has ids outside the vocabulary or leaves no room
            in the context; RuntimeError if the engine is closed or has failed.
        """
        ids = list(prompt)
        vocab_size = self.model.config.vocab_size
        if not ids:
            raise ValueError("engine: the prompt must have at least one token, got none")
        if len(ids) >= self.context:
            raise ValueError(
                f"engine: the prompt must be shorter than the context of {self.context} tokens, "
                f"got {len(ids)}"
            )
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise ValueError(
                f"engine: token ids must be 0 to {vocab_size - 1}, got {min(ids)} to {max(ids)}"
            )
        turn = Turn(self.tokenizer, sampling, num_prompt=len(ids), context=self.context)
        request = Request(ids, sampling, turn, deliver)
        with self._wake:
            if self._failure is not None:
                raise RuntimeError("engine: stopped by an earlier error") from self._failure
            if self._is_closed:
                raise RuntimeError("engine: closed")
            if self._thread.ident is None:
                self._thread.start()
            self._queue.append(request)
            self._wake.notify()
        return request

    def close(self) -> None:
        """Cancel what is running or queued and end the thread. May be called again."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # What follows runs on the engine thread.

    def _run(self) -> None:
        try:
            with torch.no_grad():
                while self._wait_for_work():
                    self._step()
        except BaseException as error:
            with self._wake:
                self._failure = error
        with self._wake:
            left = [*(row for row in self._rows if row is not None), *self._queue]
            self._rows = [None] * len(self._rows)
            self._queue.clear()
        for request in left:
            if self._failure is not None:
                request.deliver(self._failure)
            else:
                self._finish(request, request.turn.finish("cancelled"))

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._is_closed or self._queue or self.num_running):
                self._wake.wait()
            return not self._is_closed

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        # One chunk a step, of the oldest request: the others go on decoding, and none starves.
        filling = [
            (row.submitted_s, slot, row)
            for slot, row in enumerate(self._rows)
            if row is not None and not row.is_decoding
        ]
        if filling:
            _, slot, request = min(filling)
            self._prefill_chunk(slot, request)
        self._decode()

    def _drop_cancelled(self) -> None:
        for slot, request in enumerate(self._rows):
            if request is not None and request.is_cancelled:
                self._free(slot)
                self._finish(request, request.turn.finish("cancelled"))
        with self._wake:
            dropped = [request for request in self._queue if request.is_cancelled]
            for request in dropped:
                self._queue.remove(request)
        for request in dropped:
            self._finish(request, request.turn.finish("cancelled"))

    def _admit(self) -> None:
        for slot, request in enumerate(self._rows):
            if request is None:
                with self._wake:
                    if not self._queue:
                        return
                    self._rows[slot] = self._queue.popleft()

    def _prefill_chunk(self, slot: int, request: Request) -> None:
        row = self._cache.row(slot)
        end = min(request.num_prefilled + PREFILL_CHUNK, len(request.prompt))
        ids = torch.tensor([request.prompt[request.num_prefilled : end]], device=self._device)
        if end < len(request.prompt):
            self.model.hidden(ids, cache=row)  # no logits wanted
            request.num_prefilled = end
            return
        logits = self.model(ids, cache=row)[:, -1]
        request.num_prefilled = end
        self._take(slot, request, logits[0])

    def _decode(self) -> None:
        """One token for every slot that is past its prompt."""
        rows = [row if row is not None and row.is_decoding else None for row in self._rows]
        if not any(rows):
            return
        ids = torch.tensor(self._last, device=self._device)[:, None]  # (slots, 1)
        common = None if self.is_exact else self._decode_together(ids, rows)
        for slot, request in enumerate(rows):
            if request is None:
                continue
            if common is None:
                logits = self.model(ids[slot : slot + 1], cache=self._cache.row(slot))[0, -1]
            else:
                logits = common[slot]
            self._take(slot, request, logits)

    def _decode_together(self, ids: Tensor, rows: list[Request | None]) -> Tensor:
        """Logits (slots, V) in one call; rows of the cache without a request stay as they are."""
        cache = self._cache
        others = torch.tensor([row is None for row in rows], device=self._device)
        lengths, previous = cache.lengths[others], cache.previous[others]
        logits: Tensor = self.model(ids, cache=cache)[:, -1]
        cache.lengths[others], cache.previous[others] = lengths, previous
        return logits.cpu()  # one transfer for all rows

    def _take(self, slot: int, request: Request, logits: Tensor) -> None:
        """Settle the next token of a slot from its logits (V,) and tell what became visible."""
        turn = request.turn
        token = turn.forced
        if token is None:
            token = sample(
                logits.float().cpu().numpy(),
                request.sampling,
                seed=request.seed,
                position=len(request.prompt) + len(turn.ids),
            )
        if request.first_token_s is None:
            request.first_token_s = time.perf_counter()
        shown = turn.accept(token)
        self._last[slot] = token
        if turn.reason is None:
            for piece in shown:
                request.deliver(piece)
        else:
            self._free(slot)
            self._finish(request, shown)

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        self._last[slot] = self.tokenizer.bos
        self._cache.reset(slot)

    @staticmethod
    def _finish(request: Request, shown: list[Piece]) -> None:
        for piece in shown:
            request.deliver(piece)
        request.deliver(request.completion())


def _collector(result: Future[Completion]) -> Callable[[Event], None]:
    """Delivers into a future; pieces are dropped, since the completion has them all."""

    def deliver(event: Event) -> None:
        if isinstance(event, Completion):
            result.set_result(event)
        elif isinstance(event, BaseException):
            result.set_exception(event)

    return deliver
