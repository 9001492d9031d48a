r"""Learning rate, Muon momentum and Muon weight decay over a run.

    lr        /-----------\              warm-up 40 steps, flat, the last 65 % down to 5 %
             /             \___
    momentum .85 -> .97 ----- -> .90     up over 400 steps, down with the learning rate
    decay    cosine to 0

Short runs: both ramps up end where the way down begins, at 35 % of the run. Upstream's momentum
climbs for 400 steps whatever the length; below 1,143 steps it climbs past that point, then jumps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Multipliers and momentum at each of ``num_steps`` steps, counted from 0."""

    num_steps: int
    warmup_steps: int = 40
    warmdown_ratio: float = 0.65  # share of the run in which the learning rate falls
    peak_lr: float = 1.0  # multiplier between warm-up and warm-down
    final_lr: float = 0.05
    momentum_steps: int = 400
    momentum: tuple[float, float, float] = (0.85, 0.97, 0.90)  # first, highest, last

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"schedule: num_steps must be positive, got {self.num_steps}")
        if not 0 <= self.warmdown_ratio <= 1:
            raise ValueError(f"schedule: warmdown_ratio must be 0 to 1, got {self.warmdown_ratio}")

    @classmethod
    def linear(cls, num_steps: int, *, peak_lr: float = 1.0) -> Schedule:
        """For finetuning: straight down to 0, momentum where pretraining left it."""
        return cls(
            num_steps=num_steps,
            warmup_steps=0,
            warmdown_ratio=1.0,
            peak_lr=peak_lr,
            final_lr=0.0,
            momentum=(0.90, 0.90, 0.90),
        )

    def lr_multiplier(self, step: int) -> float:
        """Factor on the initial learning rate of every group; above 0 at every step of the run."""
        warmup = min(self.warmup_steps, self._warmdown_start)
        if step < warmup:
            return self.peak_lr * (step + 1) / warmup
        left = 1.0 - self._warmdown_progress(step)
        return self.final_lr + (self.peak_lr - self.final_lr) * left

    def muon_momentum(self, step: int) -> float:
        first, highest, last = self.momentum
        ramp = min(self.momentum_steps, self._warmdown_start)
        if step < ramp:
            return first + (highest - first) * step / ramp
        return highest + (last - highest) * self._warmdown_progress(step)

    def weight_decay_multiplier(self, step: int) -> float:
        """Factor on Muon's initial weight decay; AdamW's is constant."""
        return 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))

    def apply(self, groups: Iterable[dict[str, Any]], step: int) -> float:
        """Write the settings of ``step`` into the groups of ``build_groups``.

        Returns: The learning-rate multiplier.
        """
        multiplier = self.lr_multiplier(step)
        for group in groups:
            group["lr"] = group["initial_lr"] * multiplier
            if group["kind"] == "muon":
                group["momentum"] = self.muon_momentum(step)
                decay = self.weight_decay_multiplier(step)
                group["weight_decay"] = group["initial_weight_decay"] * decay
        return multiplier

    @property
    def _warmdown_start(self) -> int:
        return self.num_steps - round(self.warmdown_ratio * self.num_steps)

    def _warmdown_progress(self, step: int) -> float:
        """0 until the warm-down begins, towards 1 at ``num_steps``."""
        start = self._warmdown_start
        return (step - start) / (self.num_steps - start) if step > start else 0.0
