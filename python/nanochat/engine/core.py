"""What the engine needs of whoever computes tokens: the native core, or PyTorch's (torch_core.py).

A core knows token ids only. It draws tokens for a request until a stop id, the length or a
cancellation ends it; at a pause id it waits for ``resume``. Text, tools and people are the business
of engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

NOT_FINISHED, STOP, LENGTH, CANCELLED, FAILED = range(5)  # Finish of csrc/engine/engine.h

TopLogprobs = list[tuple[int, float]]


class Happened(NamedTuple):
    """To one request, since it was last heard of."""

    id: int
    tokens: list[int]
    logprobs: list[tuple[float, TopLogprobs]] | None  # of each token, if asked for
    is_paused: bool  # at the last token
    finish: int
    num_cached: int  # tokens of the prompt that were not computed


Heard = tuple[int, list[int], list[tuple[float, TopLogprobs]] | None, bool, int, int]  # Happened


class Core(Protocol):
    """All methods may be called from any thread, ``wait`` from one."""

    def submit(
        self,
        prompt: list[int],
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        logprobs: int,
        seed: int,
        sample: int,
        max_tokens: int,
        stop_ids: list[int],
        pause_ids: list[int],
    ) -> int:
        """Queue a prompt; returns the id of the request.

        ``top_k`` 0 means all, ``logprobs`` -1 none. Raises: ValueError for a bad prompt;
        RuntimeError after a failure or close().
        """

    def cancel(self, id: int) -> None: ...
    def resume(self, id: int, tokens: list[int]) -> None: ...

    def wait(self, seconds: float) -> Sequence[Heard]:
        """What happened since the last call; waits for something to. Nothing after the end."""

    def statistics(self) -> dict[str, float]: ...

    def failure(self) -> str:
        """Why every request failed; empty if none did."""

    def close(self) -> None:
        """Ends all requests as cancelled."""
