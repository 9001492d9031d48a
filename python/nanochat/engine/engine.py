"""``Engine``: prompts in, text, tool calls and tokens out, for many at once.

    submit --> core: draws tokens, in batches (core.py)
                 |
                 v                        one thread takes what the core drew, gives every token to
    deliver <-- Turn <-- dispatcher       its turn, answers tool calls, and tells whoever asked

Sameness. A completion depends on weights, instruction level, prompt, sampling, seed and sample
index: never on its neighbours, arrival, threads, chunks, what was cached, or guesses ahead.

Whoever asked is told through a callback on the dispatcher's thread, which must only pass things on:
``generate`` collects, ``stream`` (stream.py) hands over to an event loop.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from nanochat import _core
from nanochat.engine.core import CANCELLED, FAILED, LENGTH, NOT_FINISHED, Core, Happened
from nanochat.engine.native import MappedTensors, NativeOptions, View, native_core
from nanochat.engine.request import Completion, Event, Request, TokenLogprobs
from nanochat.engine.sampling import Sampling
from nanochat.engine.stream import Stream
from nanochat.engine.torch_core import TorchCore
from nanochat.engine.turn import Piece, Turn
from nanochat.model import GPT, GPTConfig
from nanochat.ops.native import view
from nanochat.tokenizer import Tokenizer

Backend = Literal["native", "torch"]

_WAIT_S = 3600.0  # the core wakes the dispatcher when there is something
_TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """Generates for many prompts at once; methods may be called from any thread.

    Attributes:
        model: The PyTorch model whose weights it has; None if they came from a file.
        config, tokenizer: Of the model.
        context: Tokens that prompt and completion may have together.
        backend: Who computes: ``native`` or ``torch``.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        slots: int = 8,
        backend: Backend | None = None,
        options: NativeOptions | None = None,
        is_exact: bool = True,
    ) -> None:
        """An engine with the weights that ``model`` has now.

        Args:
            slots: Prompts that decode at the same time; more wait their turn.
            backend: By default native for a model on the CPU, torch on other devices.
            options: Of the native backend.
            is_exact: Of the torch backend: the same tokens in any company (torch_core.py).
        Raises: ValueError for slots below 1, or the native backend for a model on another device.
        """
        if backend is None:
            is_on_cpu = next(model.parameters()).device.type == "cpu"
            backend = "native" if is_on_cpu else "torch"
        if backend == "native":
            _check_on_cpu(model)
        core: Core
        if backend == "torch":
            core = TorchCore(model, slots=slots, is_exact=is_exact)
        else:
            core = native_core(
                model.config, _views(model), slots=slots, options=options or NativeOptions()
            )
        self._start(core, model.config, tokenizer, backend, model)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: torch.device | str = "cpu",
        dtype: str | None = None,
        slots: int = 8,
        threads: int | None = None,
    ) -> Self:
        """Engine for a checkpoint: native on the CPU, with PyTorch on another device.

        Args:
            dtype: bf16 (the default) or fp32; on other devices than the CPU also fp16.
            threads: On the CPU; by default as many as there are processors to run on.
        Raises: ValueError for a dtype or device that is not there; UserError for the checkpoint.
        """
        from nanochat.checkpoint import load_model, resolve

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"engine: device {device} cannot be used here: {reason}") from error
        name = dtype or "bf16"
        if torch.device(device).type != "cpu":
            if name not in _TORCH_DTYPES:
                known = ", ".join(_TORCH_DTYPES)
                raise ValueError(f"engine: dtype must be one of {known}, got {dtype!r}")
            model, tokenizer, _ = load_model(path, device=device, dtype=_TORCH_DTYPES[name])
            return cls(model, tokenizer, slots=slots)
        options = NativeOptions(dtype=name, threads=threads)
        folder = resolve(Path(path).expanduser())
        config = GPTConfig.from_dict(json.loads((folder / "config.json").read_text())["model"])
        tensors = MappedTensors(folder / "model.safetensors")
        core = native_core(config, tensors.views, slots=slots, options=options)
        self = cls.__new__(cls)
        self._start(core, config, Tokenizer.load(folder / "tokenizer.json"), "native", None)
        return self

    def _start(
        self,
        core: Core,
        config: GPTConfig,
        tokenizer: Tokenizer,
        backend: Backend,
        model: GPT | None,
    ) -> None:
        self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.context = config.seq_len
        self.backend = backend
        self._core = core
        self._lock = threading.Lock()  # guards the two below
        self._requests: dict[int, Request] = {}
        self._failure: RuntimeError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="nanochat-engine", daemon=True)
        self._thread.start()
        # The core's thread must have ended before the interpreter takes its memory away.
        self._closer = weakref.finalize(self, core.close)

    @property
    def num_queued(self) -> int:
        return int(self._core.statistics()["queued"])

    @property
    def num_running(self) -> int:
        return max(0, len(self._requests) - self.num_queued)

    def statistics(self) -> dict[str, float]:
        """Counters of the core; those of the native one:

        Requests now: queued, running. Pages now: pages, free_pages, idle_pages. Since the start:
        steps, step_seconds, bytes_read (weights, keys and values; over drawn_tokens the bytes of a
        token, over step_seconds the bandwidth that was used), computed_tokens, cached_tokens,
        drawn_tokens, drafted_tokens, accepted_tokens, preemptions.
        """
        return self._core.statistics()

    @property
    def failure(self) -> BaseException | None:
        """Why the engine stopped by itself, if it did."""
        if self._failure is None and (reason := self._core.failure()):
            return RuntimeError(f"engine: {reason}")  # the dispatcher has not heard of it yet
        return self._failure

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        n: int = 1,
    ) -> list[Completion]:
        """Completions in the order of ``prompts``; one sampling for all, or one for each.

        Args:
            n: Completions of each prompt, one after the other in the result. They share its keys
                and values, its seed if one is given, and differ by their sample index.
        Raises: ValueError as :meth:`submit`; whatever broke the engine.
        """
        if isinstance(sampling, Sampling):
            sampling = [sampling] * len(prompts)
        requests: list[Request] = []
        results: list[Future[Completion]] = []
        try:
            for prompt, how in zip(prompts, sampling, strict=True):
                for sample in range(n):
                    result: Future[Completion] = Future()
                    results.append(result)
                    deliver = _collector(result)
                    requests.append(self.submit(prompt, how, deliver, sample=sample))
            return [result.result() for result in results]
        except BaseException:
            for request in requests:
                request.cancel()
            raise

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Stream:
        """Pieces of one completion as they come, for ``async for``; needs a running event loop."""
        return Stream(lambda deliver: self.submit(prompt, sampling, deliver))

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        deliver: Callable[[Event], None],
        *,
        sample: int = 0,
    ) -> Request:
        """Queue a prompt; ``deliver`` gets pieces, then a Completion or what broke.

        It is called on the dispatcher's thread, where every other completion waits for it to
        return. ``sample`` tells completions of one prompt and seed apart.
        Raises: ValueError if the prompt is empty, has ids outside the vocabulary or leaves no room
            in the context; RuntimeError if the engine is closed or has failed.
        """
        ids = list(prompt)
        turn = Turn(self.tokenizer, sampling, num_prompt=len(ids), context=self.context)
        request = Request(ids, sampling, turn, deliver)
        with self._lock:
            if self._failure is not None:
                raise RuntimeError("engine: stopped by an earlier error") from self._failure
            id = self._core.submit(
                ids,
                temperature=sampling.temperature,
                top_k=min(sampling.top_k or 0, self.config.vocab_size),
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
                seed=request.seed,
                sample=sample,
                max_tokens=min(sampling.max_tokens, self.context),
                stop_ids=sorted(id for id in turn.stop_ids if id < self.config.vocab_size),
                pause_ids=[self.tokenizer.python_end],
            )
            self._requests[id] = request
        request.on_cancel(lambda: self._core.cancel(id))
        return request

    def logits(self, prompt: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits (tokens, V) after each token of the prompt, by the kernels that generate.

        Raises: NotImplementedError for another backend than native.
        """
        if not isinstance(self._core, _core.Engine):
            raise NotImplementedError("engine: logits are the native backend's; ask the model")
        return self._core.logits(list(prompt))

    def load_weights(self, model: GPT) -> None:
        """Take the weights that ``model`` has now; nothing may be queued or running.

        The engine is then as one made from ``model``, to the bit. The native backend packs them
        into the memory of those before and forgets the keys and values of earlier prompts. The
        torch backend keeps no copy: it computes with ``model`` from now on, and sees whatever is
        changed in it.
        Raises: ValueError for a model of another config, or that the backend does not take;
            RuntimeError while there are requests, or if the engine is closed or has failed.
        """
        if model.config != self.config:
            raise ValueError(
                f"engine: weights must be of the same config, got {model.config} for {self.config}"
            )
        with self._lock:  # nobody submits meanwhile
            if self._failure is not None:
                raise RuntimeError("engine: stopped by an earlier error") from self._failure
            if self._is_closed:
                raise RuntimeError("engine: closed")
            if self._requests:
                raise RuntimeError(
                    f"engine: weights can be replaced when nothing runs, got {len(self._requests)} "
                    "requests; wait for them or cancel them"
                )
            if isinstance(self._core, TorchCore):
                self._core.take_model(model)
            else:
                assert isinstance(self._core, _core.Engine)
                _check_on_cpu(model)
                self._core.load_weights(_views(model))
            self.model = model

    def scores(
        self, groups: Sequence[Sequence[tuple[list[int], int]]]
    ) -> list[list[tuple[float, bool]]]:
        """How likely tokens are, by the kernels that generate; requests wait meanwhile.

        Args:
            groups: Of rows that begin alike: token ids, and from which one on they are scored.
        Returns: For each row -log p in nats, summed, and whether each token was the likeliest.
        Raises: NotImplementedError for another backend than native; ValueError for a row that has
            nothing to score, unknown ids, or more tokens than the context and one.
        """
        from nanochat import _core

        if not isinstance(self._core, _core.Engine):
            raise NotImplementedError("engine: scores are the native backend's; ask the model")
        return self._core.scores(groups)

    def close(self) -> None:
        """Cancel what is running or queued and end the threads. May be called again."""
        self._is_closed = True
        self._closer()
        if self._thread is not threading.current_thread():
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

    # What follows runs on the dispatcher's thread.

    def _run(self) -> None:
        try:
            while self._dispatch():
                pass
        except BaseException as error:  # of a turn or a listener: nobody shall wait for ever
            failure = RuntimeError(f"engine: {type(error).__name__}: {error}")
            failure.__cause__ = error
            with self._lock:
                self._failure = failure
                left = [*self._requests.values()]
                self._requests.clear()
            self._closer()
            for request in left:
                request.deliver(failure)

    def _dispatch(self) -> bool:
        """Pass on what happened; False when nothing will any more."""
        events = self._core.wait(_WAIT_S)
        if (reason := self._core.failure()) and self._failure is None:
            with self._lock:  # nobody is accepted from here on
                self._failure = RuntimeError(f"engine: {reason}")
        for event in events:
            self._handle(Happened(*event))
        return bool(events) or not (self._is_closed or self._failure is not None)

    def _handle(self, event: Happened) -> None:
        with self._lock:
            request = self._requests.get(event.id)
        if request is None:
            return  # ended by its turn
        if event.finish == FAILED:
            assert self._failure is not None
            self._forget(event.id)
            request.deliver(self._failure)
            return
        turn = request.turn
        if event.tokens:  # else it ended before this was known, or it was said before
            request.num_cached = event.num_cached
        for i, token in enumerate(event.tokens):
            if turn.reason is not None or request.is_cancelled:
                break
            if event.logprobs is not None:
                logprob, top = event.logprobs[i]
                request.logprobs.append(TokenLogprobs(token, logprob, tuple(top)))
            if request.first_token_s is None:
                request.first_token_s = time.perf_counter()
            self._show(request, turn.accept(token))
        if event.is_paused and turn.reason is None:
            answer: list[int] = []
            while turn.reason is None and (forced := turn.forced) is not None:
                answer.append(forced)
                self._show(request, turn.accept(forced))
            if turn.reason is None:
                self._core.resume(event.id, answer)
        if turn.reason is None and (request.is_cancelled or event.finish == CANCELLED):
            self._show(request, turn.finish("cancelled"))
        elif turn.reason is None and event.finish == LENGTH:
            self._show(request, turn.finish("length"))
        elif turn.reason is None and event.finish != NOT_FINISHED:
            self._show(request, turn.finish("stop"))
        if turn.reason is not None:
            self._forget(event.id)
            if event.finish == NOT_FINISHED:
                self._core.cancel(event.id)
            request.deliver(request.completion())

    def _forget(self, id: int) -> None:
        with self._lock:
            del self._requests[id]

    @staticmethod
    def _show(request: Request, shown: list[Piece]) -> None:
        for piece in shown:
            request.deliver(piece)


def _views(model: GPT) -> dict[str, View]:
    return {name: view(tensor) for name, tensor in model.state_dict().items()}


def _check_on_cpu(model: GPT) -> None:
    device = next(model.parameters()).device.type
    if device != "cpu":
        raise ValueError(f"engine: the native backend takes a model on the CPU, got {device}")


def _collector(result: Future[Completion]) -> Callable[[Event], None]:
    """Delivers into a future; pieces are dropped, since the completion has them all."""

    def deliver(event: Event) -> None:
        if isinstance(event, Completion):
            result.set_result(event)
        elif isinstance(event, BaseException):
            result.set_exception(event)

    return deliver
