"""The peak is that of what was held at once, not of all that was ever asked for."""

from __future__ import annotations

import torch

from nanochat.testing.memory import peak_bytes


def test_peak_counts_what_lives_together() -> None:
    def one_after_another() -> None:
        for _ in range(5):
            torch.empty(1 << 20, dtype=torch.uint8)

    def together() -> None:
        held = [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(5)]
        held.clear()

    assert 1 << 20 <= peak_bytes(one_after_another) < 2 << 20
    assert 5 << 20 <= peak_bytes(together) < 6 << 20
    assert peak_bytes(lambda: None) == 0
