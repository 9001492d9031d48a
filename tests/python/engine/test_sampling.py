"""Sampling against definitions written the slow way, its distribution, and the native twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import _core
from nanochat.engine.sampling import (
    MAX_SEED,
    Sampling,
    fresh_seed,
    gumbel,
    keep,
    logprobs_of,
    penalize,
    sample,
)

PINNED = [2.8850203336334097, 1.0120580066182074, -0.8122408019672243]

_logits = st.lists(st.integers(-3, 3), min_size=1, max_size=12).map(
    lambda values: np.array(values, dtype=np.float32)
)


@given(_logits)
def test_zero_temperature_takes_the_likeliest_and_the_lowest_id_of_equals(
    logits: np.ndarray,
) -> None:
    token = sample(logits, Sampling(temperature=0.0), seed=0, position=0)
    assert token == min(i for i in range(len(logits)) if logits[i] == logits.max())


@given(_logits, st.integers(1, 14))
def test_top_k_keeps_the_k_likeliest_lower_ids_first(logits: np.ndarray, k: int) -> None:
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    assert keep(logits, Sampling(top_k=k)).tolist() == sorted(order[:k])


@given(_logits, st.floats(0.05, 0.99), st.floats(0.25, 4.0))
def test_top_p_keeps_the_fewest_that_hold_the_mass(
    logits: np.ndarray, p: float, temperature: float
) -> None:
    kept = keep(logits, Sampling(top_p=p, temperature=temperature)).tolist()
    weight = np.exp(logits.astype(np.float64) / temperature)
    share = weight / weight.sum()
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    assert kept == sorted(order[: len(kept)])
    assert share[kept].sum() >= p - 1e-9
    assert share[order[: len(kept) - 1]].sum() < p + 1e-9


def test_top_p_counts_what_top_k_left() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    assert keep(logits, Sampling(top_k=2, top_p=0.55)).tolist() == [0]  # 0.4 / 0.7 = 0.571
    assert keep(logits, Sampling(top_p=0.55)).tolist() == [0, 1]


@given(_logits, st.floats(0.001, 1.0), st.floats(0.25, 4.0))
def test_min_p_is_a_share_of_the_likeliest(
    logits: np.ndarray, min_p: float, temperature: float
) -> None:
    kept = keep(logits, Sampling(min_p=min_p, temperature=temperature))
    share = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    assert (share[kept] >= min_p - 1e-9).all()
    assert (np.delete(share, kept) < min_p + 1e-9).all()


def test_min_p_looks_at_what_top_p_left() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    assert keep(logits, Sampling(min_p=0.4)).tolist() == [0, 1, 2]
    assert keep(logits, Sampling(min_p=0.4, top_p=0.6)).tolist() == [0, 1]


def test_penalty_counts_a_token_once() -> None:
    logits = np.array([2.0, -2.0, 0.0, 3.0], dtype=np.float32)
    assert penalize(logits, 2.0, [0, 1, 1, 0, 2]).tolist() == [1.0, -4.0, 0.0, 3.0]
    assert logits[0] == 2.0  # the caller's row stays
    assert penalize(logits, 1.0, [0]) is logits


def test_penalty_comes_before_everything_else() -> None:
    logits = np.array([2.0, 1.5, -1.0], dtype=np.float32)
    for sampling in (Sampling(temperature=0.0), Sampling(top_k=1), Sampling(top_p=0.01)):
        draw = {"seed": 1, "position": 1}
        assert sample(logits, sampling, **draw) == 0
        penalized = dataclasses.replace(sampling, repetition_penalty=1.5)
        assert sample(logits, penalized, seen=[0], **draw) == 1


def test_logprobs_are_of_the_softmax_and_fall() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.1, 0.4], dtype=np.float32))
    of_token, top = logprobs_of(logits, 2, 3)
    assert np.exp(of_token) == pytest.approx(0.1)
    assert [token for token, _ in top] == [1, 3, 0]
    assert np.exp([value for _, value in top]) == pytest.approx([0.4, 0.4, 0.1])
    assert logprobs_of(logits, 0, 0)[1] == []


def test_no_temperature_overflows() -> None:
    logits = np.array([1e38, -3e38, 1e38, -np.inf], dtype=np.float32)
    draws = {sample(logits, Sampling(temperature=1e-300), seed=0, position=i) for i in range(40)}
    assert draws == {0, 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0.0, np.nan, np.inf], "must be numbers, got NaN for token 1"),
        ([0.0, 1.0, np.inf], "must be numbers, got inf for token 2"),
        ([-np.inf] * 3, "must be finite, got -inf for all 3 tokens"),
    ],
)
def test_bad_logits_are_named(bad: list[float], message: str) -> None:
    logits = np.array(bad, dtype=np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=message):
            sample(logits, Sampling(temperature=temperature), seed=0, position=0)
        with pytest.raises(ValueError, match=message):
            _native(logits, Sampling(temperature=temperature))


def test_noise_is_a_function_of_seed_position_and_token() -> None:
    noise = gumbel(7, 3, 100)
    assert np.array_equal(gumbel(7, 3, 40), noise[:40])
    assert not np.array_equal(gumbel(7, 4, 100), noise)
    assert not np.array_equal(gumbel(8, 3, 100), noise)
    assert not np.array_equal(gumbel(7, 3, 100, sample_index=1), noise)
    # Pinned: another NumPy, or another of us, must not change the answers to a seed.
    assert gumbel(1, 2, 3).tolist() == pytest.approx(PINNED, rel=1e-12)


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(), Sampling(temperature=0.5), Sampling(top_k=3),
        Sampling(top_p=0.8, temperature=2), Sampling(min_p=0.1),
    ],
)  # fmt: skip
def test_draws_follow_the_softmax_of_what_was_kept(sampling: Sampling, is_native: bool) -> None:
    logits = np.array([1.0, 0.0, -1.0, 2.0, 0.5, -3.0], dtype=np.float32)
    kept = keep(logits, sampling)
    weight = np.zeros(len(logits))
    weight[kept] = np.exp(logits[kept] / sampling.temperature)
    expected = 4000 * weight / weight.sum()
    draws = [
        _native(logits, sampling, seed=11, position=i)[0]
        if is_native
        else sample(logits, sampling, seed=11, position=i)
        for i in range(4000)
    ]
    counts = np.bincount(draws, minlength=len(logits))
    assert (counts[expected == 0] == 0).all()
    seen = expected > 0
    chi_square = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    assert chi_square < 20.5  # 99.9 % point at 5 degrees of freedom


def _native(
    logits: np.ndarray,
    sampling: Sampling,
    *,
    softcap: float = 0.0,
    seed: int = 0,
    position: int = 0,
    sample_index: int = 0,
    seen: Sequence[int] = (),
) -> tuple[int, float, list[tuple[int, float]]]:
    return _core.sample(
        logits,
        softcap,
        temperature=sampling.temperature,
        top_k=sampling.top_k or 0,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        num_logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
        seed=seed,
        sample=sample_index,
        position=position,
        seen=seen,
    )


@st.composite
def _rows(draw: st.DrawFn) -> np.ndarray:
    """Rows of every shape: smooth, peaked, flat, on a grid with many equals, with -inf."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_tokens = draw(st.sampled_from([1, 2, 3, 17, 64, 65, 300, 300, 300, 1025, 32768, 65536]))
    logits = random.standard_normal(num_tokens) * draw(st.sampled_from([0.0, 0.01, 1.0, 3.0, 8.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    if draw(st.booleans()):
        banned = random.random(num_tokens) < 0.3
        banned[random.integers(num_tokens)] = False
        logits[banned] = -np.inf
    return logits.astype(np.float32)


_samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-300, 0.01, 0.5, 1.0, 1.0, 1.7, 5.0]),
    top_k=st.sampled_from([None, None, 1, 2, 16, 50, 1000, 70000]),
    top_p=st.sampled_from([1.0, 1.0, 1 - 1e-16, 0.999, 0.9, 0.5, 0.1, 1e-9]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5, 10.0]),
    logprobs=st.sampled_from([None, 0, 5, 20]),
)


@settings(max_examples=300, deadline=None)
@given(_rows(), _samplings, st.integers(0, MAX_SEED), st.integers(0, 2**20), st.integers(0, 9))
def test_native_and_numpy_choose_the_same_token(
    logits: np.ndarray, sampling: Sampling, seed: int, position: int, sample_index: int
) -> None:
    seen = [(seed + 7 * i) % len(logits) for i in range(position % 30)]
    token, logprob, top = _native(
        logits, sampling, seed=seed, position=position, sample_index=sample_index, seen=seen
    )
    assert token == sample(
        logits, sampling, seed=seed, position=position, sample_index=sample_index, seen=seen
    )
    if sampling.logprobs is None:
        assert (logprob, top) == (0.0, [])
    else:
        expected, expected_top = logprobs_of(logits, token, sampling.logprobs)
        assert logprob == pytest.approx(expected, rel=1e-6, abs=3e-6)
        assert [i for i, _ in top] == [i for i, _ in expected_top]
        assert [x for _, x in top] == pytest.approx([x for _, x in expected_top], 1e-6, 3e-6)


def test_native_softcap_is_the_model_s() -> None:
    logits = np.random.default_rng(0).standard_normal(32768).astype(np.float32) * 20
    logits[5] = -np.inf  # stays out of reach
    capped = (15 * np.tanh(logits.astype(np.float64) / 15)).astype(np.float32)
    capped[5] = -np.inf
    for i, sampling in enumerate(
        [Sampling(logprobs=20), Sampling(top_k=50, logprobs=1), Sampling(top_p=0.9, min_p=0.01)]
    ):
        drawn = _native(logits, sampling, softcap=15.0, position=i)
        assert drawn == _native(capped, sampling, position=i)
        assert drawn[0] == sample(capped, sampling, seed=0, position=i)


@pytest.mark.parametrize(
    "logits",
    [np.zeros((2, 2), np.float32), np.zeros(4), np.zeros(8, np.float32)[::2], np.zeros(0, "f4")],
)
def test_native_takes_one_contiguous_row(logits: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"sampler: logits must be .*, got"):
        _native(logits, Sampling())


def test_native_refuses_tokens_outside_the_vocabulary() -> None:
    for token in (-1, 4):
        with pytest.raises(IndexError, match=f"tokens seen must be 0 to 3, got {token}"):
            _native(np.zeros(4, np.float32), Sampling(repetition_penalty=2.0), seen=[token])


def test_fresh_seeds_are_valid_and_differ() -> None:
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", True),
        ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")),
        ("temperature", "1"), ("top_k", 0), ("top_k", 1.0), ("top_p", 0.0), ("top_p", 1.1),
        ("min_p", -0.1), ("min_p", 1.1), ("min_p", float("nan")),
        ("repetition_penalty", 0.0), ("repetition_penalty", 10.1), ("repetition_penalty", True),
        ("seed", -1), ("seed", 2**53), ("seed", 0.0), ("stop", ("",)), ("stop", "text"),
        ("stop_ids", [1]), ("stop_ids", (-1,)), ("stop_ids", (1.0,)),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", 1.0),
    ],
)  # fmt: skip
def test_bad_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"sampling: {field} must be .*, got"):
        Sampling(**{field: value})  # type: ignore[arg-type]
