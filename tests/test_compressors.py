"""Compressors: what they keep, and by how much they contract."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.compressors import Compressor, Identity, OneBit, ScaledSign, TopK
from tests.steps import normal

COMPRESSORS = [
    Identity(),
    TopK(density=0.01),
    TopK(density=0.4),
    TopK(k=3),
    TopK(density=0.3, block=4),
    TopK(k=2, block=5),
    ScaledSign(),
    ScaledSign(block=4),
    OneBit(),
]
SHAPES = [(1,), (7,), (12,), (5, 3), (1, 4), (4, 1), (2, 3, 5)]


def assert_contracts(c: Compressor, x) -> None:
    """||C(x) - x||^2 <= (1 - delta) ||x||^2; a few roundings of each square are allowed."""
    sent = c(x)
    assert sent.shape == x.shape
    assert sent.dtype == x.dtype
    delta = c.contraction(x.shape)
    assert 0 < delta <= 1
    total = np.sum(x.astype(np.float64) ** 2)
    slack = 16 * np.finfo(x.dtype).eps * total
    assert np.sum((sent.astype(np.float64) - x) ** 2) <= (1 - delta) * total + slack


@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["normal", "heavy", "sparse"]),
)
def test_a_compressor_contracts(c, shape, seed, kind):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    x = x**5 if kind == "heavy" else x * (rng.random(shape) < 0.3) if kind == "sparse" else x
    for dtype in (np.float64, np.float32):
        assert_contracts(c, x.astype(dtype))


@dataclasses.dataclass(frozen=True)
class BareSign(ScaledSign):
    """The signs, not scaled."""

    def __call__(self, x):
        return np.sign(x)


@dataclasses.dataclass(frozen=True)
class SmallestK(TopK):
    """Keeps the smallest entries."""

    def __call__(self, x):
        return x - TopK(k=x.size - self.blocks(x.size).kept)(x)


@dataclasses.dataclass(frozen=True)
class OneMean(OneBit):
    """One mean of magnitudes a column as both decodings' size, without the sign's own mean."""

    def __call__(self, x):
        return np.where(x < 0, -2, 2) * np.abs(x).mean(axis=0)


@pytest.mark.parametrize("mutant", [BareSign(), SmallestK(density=0.2), OneMean()])
def test_the_check_of_contraction_catches(mutant):
    def check():
        for seed in range(20):
            assert_contracts(mutant, 0.1 * normal(12, seed=seed) ** 3)

    with pytest.raises(AssertionError):
        check()


def test_top_k_contracts_no_better_on_a_constant_vector():
    x = np.full(10, -2.0)
    for c, delta in (
        (TopK(k=3), 0.3),
        (TopK(density=0.25, block=4), 0.25),
        (TopK(density=0.5, block=7), 4 / 7),
    ):
        assert c.contraction(10) == delta
        assert np.sum((c(x) - x) ** 2) == pytest.approx(
            (1 - delta) * 40 if c.block is None else 4 * np.sum(c(x) == 0)
        )


def test_scaled_sign_keeps_the_mean_magnitude_of_each_block():
    x = np.array([1.0, -3.0, 0.0, 4.0, -6.0])
    assert ScaledSign()(x).tolist() == [2.8, -2.8, 0.0, 2.8, -2.8]
    assert ScaledSign(block=2)(x).tolist() == [2.0, -2.0, 0.0, 2.0, -6.0]
    assert ScaledSign(block=2).contraction(5) == 0.5


def test_one_bit_is_a_projection_column_by_column():
    """C(x) is orthogonal to x - C(x), takes at most two values a column, and repeats itself."""
    x = normal(9, 4, seed=1)
    x[:, 2] = np.abs(x[:, 2])
    sent = OneBit()(x)
    for column, got in zip(x.T, sent.T, strict=True):
        assert len(set(got.tolist())) <= 2
        assert abs(np.dot(column - got, got)) < 1e-14 * np.dot(column, column)
        assert np.array_equal(got >= 0, column >= 0)
    np.testing.assert_allclose(OneBit()(sent), sent, rtol=1e-15, atol=0)
    assert OneBit().contraction((9, 4)) == 1 / 9
    assert OneBit().contraction(9) == 1 / 9


@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
def test_a_compressor_works_on_fractions_as_on_floats(c):
    x = np.random.default_rng(0).integers(-8, 9, (4, 3)).astype(np.float64)
    exact = np.array([[Fraction(v) for v in row] for row in x.tolist()], dtype=object)
    np.testing.assert_allclose(c(exact).astype(np.float64), c(x), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "arguments", [{"density": 0.0}, {"density": 1.1}, {"k": 0}, {"block": 0}, {"block": 2.0}]
)
def test_bad_arguments_of_a_compressor_are_named(arguments):
    with pytest.raises(HyperparameterError, match=f"TopK.{next(iter(arguments))}"):
        TopK(**arguments)
