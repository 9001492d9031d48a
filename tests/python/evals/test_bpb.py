"""Bits per byte: the definition, and what is left out of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nanochat.evals.bpb import bits_per_byte

TOKEN_BYTES = np.array([1, 2, 5, 0], dtype=np.int32)  # id 3 is a special token


class Priced:
    """Charges ``price`` nats per id, whatever came before."""

    def __init__(self, *prices: float) -> None:
        self.prices = torch.tensor(prices)

    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets >= 0, self.prices[targets.clamp_min(0)], 0.0)


def batch(*targets: int) -> tuple[Tensor, Tensor]:
    rows = torch.tensor([targets])
    return torch.zeros_like(rows), rows


def test_uniform_bytes_cost_eight_bits_each() -> None:
    model = Priced(math.log(256), math.log(256), 0.0, 0.0)
    assert bits_per_byte(model, [batch(0, 0, 0)], TOKEN_BYTES) == pytest.approx(8.0)
    assert bits_per_byte(model, [batch(1, 1)], TOKEN_BYTES) == pytest.approx(4.0)


def test_sums_over_batches_before_it_divides() -> None:
    model = Priced(1.0, 3.0, 2.0, 0.0)
    got = bits_per_byte(model, [batch(0, 0, 0), batch(1), batch(2, 2)], TOKEN_BYTES)
    assert got == pytest.approx((3 + 3 + 4) / (math.log(2) * (3 + 2 + 10)))


def test_specials_and_ignored_targets_count_in_neither_sum() -> None:
    model = Priced(1.0, 3.0, 2.0, math.nan)
    alone = bits_per_byte(model, [batch(0, 1)], TOKEN_BYTES)
    assert bits_per_byte(model, [batch(0, 3, -1, 1, 3)], TOKEN_BYTES) == alone


def test_a_broken_model_is_not_hidden() -> None:
    assert math.isnan(bits_per_byte(Priced(1.0, math.nan, 1.0, 1.0), [batch(0, 1)], TOKEN_BYTES))


@pytest.mark.parametrize("batches", [[], [batch(3, -1)]])
def test_no_bytes_is_an_error(batches: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(ValueError, match="bpb: at least one target must have bytes"):
        bits_per_byte(Priced(1.0, 1.0, 1.0, 1.0), batches, TOKEN_BYTES)
