"""Which token comes next: a pure function of logits, parameters, seed and position.

temperature -> top-k -> top-p -> argmax(logit / temperature + Gumbel noise), which draws from the
softmax of what was kept. The noise of a token is word ``token`` of the Philox4x64-10 stream with
key ``seed`` and counter ``position``: it depends on nothing that came before it, so the same seed
gives the same tokens in any batch, after a restart, or from a cache. Ties go to the lowest id.

Source: Gumbel-max, arXiv:1411.0030; Philox, Salmon et al., SC 2011 (NumPy fixes the bit stream).
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_SEED = 2**53 - 1  # exact in a JSON number
MAX_TEMPERATURE = 5.0


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
    seed: int | None = None
    """Same seed, same answer; none draws a fresh one, which the completion reports."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion; they are not part of it."""

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
        if self.seed is not None and (not _is_int(self.seed) or not 0 <= self.seed <= MAX_SEED):
            raise ValueError(f"sampling: seed must be 0 to 2**53 - 1, got {self.seed!r}")
        if not isinstance(self.stop, tuple) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise ValueError(f"sampling: stop must be non-empty texts, got {self.stop!r}")


def fresh_seed() -> int:
    """Unpredictable, and short enough to be read out: below 2**32."""
    return secrets.randbits(32)


def sample(logits: npt.NDArray[np.float32], sampling: Sampling, *, seed: int, position: int) -> int:
    """Id of the token at ``position`` (0 is the first token of the prompt) from its logits (V,)."""
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    kept = keep(logits, sampling)
    scores = logits[kept].astype(np.float64) / sampling.temperature
    noise = gumbel(seed, position, len(logits))[kept]
    return int(kept[np.argmax(scores + noise)])


def keep(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.intp]:
    """Ascending ids that top-k, then top-p leave; of equals at an edge the lower ids stay."""
    num_tokens = len(logits)
    kept = np.arange(num_tokens)
    if sampling.top_k is not None and sampling.top_k < num_tokens:
        edge = np.partition(logits, num_tokens - sampling.top_k)[num_tokens - sampling.top_k]
        above = np.flatnonzero(logits > edge)
        equal = np.flatnonzero(logits == edge)[: sampling.top_k - len(above)]
        kept = np.sort(np.concatenate((above, equal)))
    if sampling.top_p < 1.0:
        scores = logits[kept].astype(np.float64) / sampling.temperature
        order = np.argsort(-scores, kind="stable")
        weight = np.exp(scores[order] - scores[order[0]])
        mass = np.cumsum(weight) / weight.sum()
        num_kept = int(np.searchsorted(mass, sampling.top_p)) + 1  # the token that crosses stays
        kept = np.sort(kept[order[:num_kept]])
    return kept


def gumbel(seed: int, position: int, num_tokens: int) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise (num_tokens,) of one position, from 53 bits of each Philox word."""
    words = np.random.Philox(key=[seed, 0], counter=[0, position, 0, 0]).random_raw(num_tokens)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    return -np.log(-np.log(uniform))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
