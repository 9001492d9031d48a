"""Which token comes next: a pure function of logits, parameters, seed and position.

repetition penalty -> temperature -> top-k -> top-p -> min-p
                   -> argmax(logit / temperature + Gumbel noise)

The argmax draws from the softmax of what was kept. The noise of a token is word ``token`` of the
Philox4x64-10 stream with key (``seed``, ``sample_index``) and counter ``position``: it depends on
nothing that came before it, so the same seed gives the same tokens in any batch, after a restart,
or from a cache. Ties go to the lowest id. csrc/engine/sampler.h is the same, from raw logits.

Source: Gumbel-max, arXiv:1411.0030; Philox, Salmon et al., SC 2011 (NumPy fixes the bit stream).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_SEED = 2**53 - 1  # exact in a JSON number
MAX_TEMPERATURE = 5.0
MIN_PENALTY, MAX_PENALTY = 0.1, 10.0
MAX_LOGPROBS = 20


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn; checked when it is made (ValueError)."""

    max_tokens: int = 256
    """Most tokens to generate, those of tool results included."""
    temperature: float = 1.0
    """0 takes the likeliest token; 1 samples the model's own distribution."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only."""
    top_p: float = 1.0
    """Sample among the fewest tokens that hold this much probability."""
    min_p: float = 0.0
    """Sample among the tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens of the prompt and of the completion so far become less likely."""
    seed: int | None = None
    """Same seed, same answer; none draws a fresh one, which the completion reports."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the completion, beside those of the chat format."""
    logprobs: int | None = None
    """Report log-probabilities: of each token, and of this many of the likeliest in its place."""

    def __post_init__(self) -> None:
        if not _is_int(self.max_tokens) or self.max_tokens < 1:
            raise ValueError(f"sampling: max_tokens must be at least 1, got {self.max_tokens!r}")
        if not _is_real(self.temperature) or not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"sampling: temperature must be 0 to {MAX_TEMPERATURE:g}, got {self.temperature!r}"
            )
        if self.top_k is not None and (not _is_int(self.top_k) or self.top_k < 1):
            raise ValueError(f"sampling: top_k must be at least 1 or none, got {self.top_k!r}")
        if not _is_real(self.top_p) or not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"sampling: top_p must be above 0 and at most 1, got {self.top_p!r}")
        if not _is_real(self.min_p) or not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"sampling: min_p must be 0 to 1, got {self.min_p!r}")
        penalty = self.repetition_penalty
        if not _is_real(penalty) or not MIN_PENALTY <= penalty <= MAX_PENALTY:
            raise ValueError(
                f"sampling: repetition_penalty must be {MIN_PENALTY:g} to {MAX_PENALTY:g}, "
                f"got {penalty!r}"
            )
        if self.seed is not None and (not _is_int(self.seed) or not 0 <= self.seed <= MAX_SEED):
            raise ValueError(f"sampling: seed must be 0 to 2**53 - 1, got {self.seed!r}")
        if not isinstance(self.stop, tuple) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise ValueError(f"sampling: stop must be non-empty texts, got {self.stop!r}")
        if not isinstance(self.stop_ids, tuple) or not all(
            _is_int(token) and token >= 0 for token in self.stop_ids
        ):
            raise ValueError(f"sampling: stop_ids must be token ids, got {self.stop_ids!r}")
        if self.logprobs is not None and (
            not _is_int(self.logprobs) or not 0 <= self.logprobs <= MAX_LOGPROBS
        ):
            raise ValueError(
                f"sampling: logprobs must be 0 to {MAX_LOGPROBS} or none, got {self.logprobs!r}"
            )


def fresh_seed() -> int:
    """Unpredictable, and short enough to be read out: below 2**32."""
    return secrets.randbits(32)


def sample(
    logits: npt.NDArray[np.float32],
    sampling: Sampling,
    *,
    seed: int,
    position: int,
    sample_index: int = 0,
    seen: Sequence[int] = (),
) -> int:
    """Id of the token at ``position`` (0 is the first of the prompt) from softcapped logits (V,).

    Args:
        sample_index: Which of several completions of one prompt.
        seen: Tokens before it, prompt included, for the repetition penalty.
    Raises: ValueError if a logit is NaN or inf, or all are -inf (a token that cannot be drawn).
    """
    logits = penalize(logits, sampling.repetition_penalty, seen)
    _check(logits)
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    kept = keep(logits, sampling)
    scores = _scores(logits[kept], sampling.temperature)
    noise = gumbel(seed, position, len(logits), sample_index=sample_index)[kept]
    return int(kept[np.argmax(scores + noise)])


def penalize(
    logits: npt.NDArray[np.float32], penalty: float, seen: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Logits (V,) in which those of ``seen`` are divided by ``penalty``, the negative multiplied.

    A token that was seen twice counts once. Source: CTRL, arXiv:1909.05858.
    """
    if penalty == 1.0 or len(seen) == 0:
        return logits
    logits = logits.copy()
    ids, factor = np.unique(seen), np.float32(penalty)
    logits[ids] = np.where(logits[ids] > 0, logits[ids] / factor, logits[ids] * factor)
    return logits


def keep(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.intp]:
    """Ascending ids that top-k, top-p and min-p leave; of equals at an edge the lower ids stay."""
    num_tokens = len(logits)
    kept = np.arange(num_tokens)
    if sampling.top_k is not None and sampling.top_k < num_tokens:
        edge = np.partition(logits, num_tokens - sampling.top_k)[num_tokens - sampling.top_k]
        above = np.flatnonzero(logits > edge)
        equal = np.flatnonzero(logits == edge)[: sampling.top_k - len(above)]
        kept = np.sort(np.concatenate((above, equal)))
    if sampling.top_p < 1.0:
        order = np.argsort(-logits[kept], kind="stable")
        weight = np.exp(_scores(logits[kept], sampling.temperature)[order])
        mass = np.cumsum(weight) / weight.sum()
        num_kept = int(np.searchsorted(mass, sampling.top_p)) + 1  # the token that crosses stays
        kept = np.sort(kept[order[:num_kept]])
    if sampling.min_p > 0.0:
        floor = float(logits[kept].max()) + sampling.temperature * math.log(sampling.min_p)
        kept = kept[logits[kept].astype(np.float64) >= floor]
    return kept


def gumbel(
    seed: int, position: int, num_tokens: int, *, sample_index: int = 0
) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise (num_tokens,) of one position, from 53 bits of each Philox word."""
    stream = np.random.Philox(key=[seed, sample_index], counter=[0, position, 0, 0])
    words = stream.random_raw(num_tokens)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    uniform = np.minimum(uniform, 1 - 2.0**-53)  # in (0, 1): the last would round to 1
    return -np.log(-np.log(uniform))


def logprobs_of(
    logits: npt.NDArray[np.float32], token: int, num_top: int
) -> tuple[float, list[tuple[int, float]]]:
    """Log-probabilities of ``token`` and of the ``num_top`` likeliest tokens, with their ids.

    Args:
        logits: (V,), softcapped, before penalty and temperature.
    Returns: The one, and the others falling; of equals the lower id comes first.
    """
    scores = _scores(logits, 1.0)
    values = scores - math.log(np.exp(scores).sum())
    top = np.argsort(-logits, kind="stable")[:num_top]
    return float(values[token]), [(int(i), float(values[i])) for i in top]


def _scores(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    """Logits over temperature, shifted so that the largest is 0: no temperature overflows them."""
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # to -inf
        scores: npt.NDArray[np.float64] = (wide - wide.max()) / temperature
    return scores


def _check(logits: npt.NDArray[np.float32]) -> None:
    bad = np.flatnonzero(~(logits < np.inf))
    if len(bad):
        what = "NaN" if np.isnan(logits[bad[0]]) else "inf"
        raise ValueError(
            f"sampling: logits must be numbers, got {what} for token {bad[0]}; "
            "the model overflows: check its weights, or run it in fp32"
        )
    if logits.max() == -np.inf:
        raise ValueError(
            f"sampling: a logit must be finite, got -inf for all {len(logits)} tokens; allow one"
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
