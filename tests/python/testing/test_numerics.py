"""The tolerance rule itself: it must fail what is wrong."""

from __future__ import annotations

import pytest
import torch

from nanochat.testing.numerics import assert_as_good_as, max_error, relative_error, same_bits


def test_twice_the_error_of_the_reference_is_the_limit() -> None:
    oracle = torch.ones(4, dtype=torch.float64)
    reference = torch.ones(4) + 1e-3
    assert_as_good_as(torch.ones(4) + 1.9e-3, reference, oracle, "ok")
    with pytest.raises(AssertionError, match=r"dq: error 0.0021, allowed 0.002"):
        assert_as_good_as(torch.ones(4) + 2.1e-3, reference, oracle, "dq")


def test_the_floor_follows_the_scale() -> None:
    oracle = torch.zeros(1, dtype=torch.float64)
    actual, reference = torch.full((1,), 5e-6), torch.zeros(1)
    assert_as_good_as(actual, reference, oracle, "ok", scale=10.0)
    with pytest.raises(AssertionError):
        assert_as_good_as(actual, reference, oracle, "too far", scale=1.0)


@pytest.mark.parametrize("wrong", [torch.full((2,), float("nan")), torch.zeros(3)])
def test_nan_and_wrong_shapes_never_pass(wrong: torch.Tensor) -> None:
    oracle = torch.zeros(2, dtype=torch.float64)
    assert max_error(wrong, oracle) == float("inf")
    with pytest.raises(AssertionError):
        assert_as_good_as(wrong, torch.zeros(2), oracle, "wrong", scale=1.0)


def test_errors_of_nothing_and_of_known_vectors() -> None:
    assert max_error(torch.empty(0), torch.empty(0)) == 0
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


def test_same_bits_tells_zeros_apart_and_nan_equal_to_itself() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))
    assert not same_bits(torch.zeros(2), torch.zeros(2, 1))
