"""The quantiser: what its codes mean, how far off they are, and that noise makes them right in the mean."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.error_buffer import ErrorBuffer
from memopt_ref.parts.quantize import Quantiser, pack, unpack

EXACT = {"bounds_dtype": None}


def test_packing_puts_the_even_entry_in_the_high_half():
    assert pack(np.array([0xA, 0xB, 0xC], np.uint8)).tolist() == [0xAB, 0xC0]


@pytest.mark.parametrize("size", [0, 1, 2, 7, 64])
def test_packing_is_undone_by_unpacking(size):
    codes = np.random.default_rng(size).integers(0, 16, size).astype(np.uint8)
    assert pack(codes).size == (size + 1) // 2
    assert np.array_equal(unpack(pack(codes), size), codes)


def numbers(seed: int, size: int, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 4) + rng.integers(-1, 2)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class WrongUnit(Quantiser):
    """u = (Delta - delta) / 2^b."""

    def decode(self, codes, low, high, dtype):
        return codes * np.repeat((high - low) / (self.levels + 1), self.bucket)[: codes.size] + self._spread(
            low, codes.size
        )


def assert_error_is_bounded(q: Quantiser, x, xi) -> None:
    """Entry by entry, at the ends, and in norm; a few roundings of the bucket's extent are allowed."""
    out = q(x, xi)
    for start in range(0, x.size, q.bucket):
        piece, got = x[start : start + q.bucket], out[start : start + q.bucket]
        u = (piece.max() - piece.min()) / q.levels
        slack = 8 * np.finfo(x.dtype).eps * max(np.abs(piece).max(), u * q.levels)
        assert np.all(np.abs(got - piece) <= (u if xi is not None else u / 2) + slack)
        for end in (piece.argmin(), piece.argmax()):
            assert abs(got[end] - piece[end]) <= slack
    assert np.linalg.norm(out - x) <= q.omega(x.size) * np.linalg.norm(x) * (1 + 1e-12) + x.size * slack


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 12),
    bucket=st.integers(1, 40),
    size=st.integers(1, 90),
    seed=st.integers(0, 99),
    rounding=st.sampled_from(["nearest", "stochastic"]),
)
def test_error_is_below_a_unit_surely_and_below_omega_in_norm(bits, bucket, size, seed, rounding):
    q = Quantiser(bits, bucket, rounding, **EXACT)
    assert_error_is_bounded(q, numbers(seed, size), q.noise(seed, 1, size))


def test_the_check_of_the_error_catches_a_wrong_unit():
    with pytest.raises(AssertionError):
        assert_error_is_bounded(WrongUnit(4, 16, **EXACT), numbers(0, 50), None)


def test_two_entries_are_exact_in_one_bit():
    x = np.array([-3.0, 5.0])
    assert Quantiser(1, 2, **EXACT).omega() == 0
    assert np.array_equal(Quantiser(1, 2, **EXACT)(x), x)


def mean_over_a_grid_of_noise(encode, x):
    """The mean of Q(x) over xi = 0, 2^-10, 2 * 2^-10, ...: exact if all fractions are such multiples."""
    q = Quantiser(4, x.size, "stochastic", **EXACT)
    low, high = q.bounds(x)
    total = np.zeros_like(x)
    for i in range(1024):
        total += q.decode(encode(q, x, low, high, np.full(x.size, i / 1024, np.float32)), low, high, x.dtype)
    return total / 1024


def added(q, x, low, high, xi):
    """Floor(y + xi), the form in which papers write it."""
    y = (x - low[0]) * (q.levels / (high[0] - low[0])).astype(x.dtype)
    return np.clip(np.floor(y + xi), 0, q.levels).astype(np.uint8)


def to_nearest(q, x, low, high, xi):
    return q.encode(x, low, high, None)


def test_stochastic_rounding_is_right_in_the_mean():
    """Zero tolerance: u = 1, and every number is a multiple of 2^-10 below 2^4, so all sums are exact."""
    fractions = np.random.default_rng(0).integers(0, 15 * 1024, 60) / 1024
    x = np.concatenate([[0.0, 15.0], fractions])
    assert np.array_equal(mean_over_a_grid_of_noise(Quantiser.encode, x), x)
    assert not np.array_equal(mean_over_a_grid_of_noise(to_nearest, x), x)


def test_an_exact_code_is_never_lifted():
    """In float32 7 + (1 - 2^-24) rounds to 8: adding noise would lift an exact code, comparing does not."""
    x = np.array([0.0, 7.0, 15.0], np.float32)
    q = Quantiser(4, 3, "stochastic", **EXACT)
    low, high = q.bounds(x)
    xi = np.full(3, 1 - 2.0**-24, np.float32)
    assert q.encode(x, low, high, xi).tolist() == [0, 7, 15]
    assert added(q, x, low, high, xi).tolist() == [0, 8, 15]


def test_noise_is_a_function_of_seed_step_and_index():
    q = Quantiser(rounding="stochastic")
    assert Quantiser().noise(0, 1, 4) is None
    assert np.array_equal(q.noise(3, 2, 9)[:4], q.noise(3, 2, 4))
    assert not np.array_equal(q.noise(3, 2, 4), q.noise(3, 3, 4))
    assert not np.array_equal(q.noise(3, 2, 4), q.noise(4, 2, 4))


def test_bounds_are_rounded_to_nearest_even():
    x = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], np.float32)
    low, high = Quantiser(bucket=2).bounds(x)
    assert low.dtype == high.dtype == ml_dtypes.bfloat16
    assert (float(low[0]), float(high[0])) == (1.0, 1 + 4 * 2.0**-8)


def test_codes_are_clamped_when_rounding_moved_a_bound_inwards():
    """Bounds 1 + 2^-8 -> 1 and 2 - 2^-8 - 2^-9 -> 2 - 2^-7: the largest number lies beyond its bound."""
    x = np.array([1 + 2.0**-8, 2 - 2.0**-8 - 2.0**-9, 1.5], np.float32)
    q = Quantiser(bits=8, bucket=3)
    low, high = q.bounds(x)
    assert float(high[0]) < x[1]
    unclamped = np.floor((x - np.float32(low[0])) * (255 / (np.float32(high[0]) - np.float32(low[0]))) + 0.5)
    assert unclamped[1] == 256
    assert q.encode(x, low, high).max() == 255


def test_a_constant_bucket_is_its_bound_whatever_the_code():
    q = Quantiser(bucket=4)
    x = np.full(4, -0.75, np.float32)
    assert np.array_equal(q(x), x)
    low, high = q.bounds(x)
    assert np.array_equal(q.decode(np.array([0, 3, 9, 15], np.uint8), low, high, np.float32), x)


def test_zero_bounds_have_one_sign():
    for zeros in ([-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0]):
        low, high = Quantiser(bucket=2).bounds(np.array(zeros, np.float32))
        assert not np.signbit(low.astype(np.float32)).any()
        assert not np.signbit(high.astype(np.float32)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_spoils_its_bucket_and_no_other(bad):
    x = np.ones(12, np.float32)
    x[5] = bad
    with np.errstate(all="ignore"):
        out = Quantiser(bucket=4)(x)
    assert np.all(np.isnan(out[4:8]))
    assert np.array_equal(out[[0, 1, 2, 3, 8, 9, 10, 11]], np.ones(8))


def test_a_bucket_whose_reciprocal_overflows_keeps_its_ends():
    x = np.array([0.0, 1e-40, 0.0], np.float32)
    q = Quantiser(bucket=3, **EXACT)
    with np.errstate(all="ignore"):
        low, high = q.bounds(x)
        assert np.isinf(np.float32(15) / (high - low)).all()
        assert q.encode(x, low, high).tolist() == [0, 15, 0]


def test_the_reciprocal_differs_from_the_division_only_next_to_a_tie():
    x = np.random.default_rng(2).standard_normal(1 << 18).astype(np.float32)
    q = Quantiser()
    low, high = q.bounds(x)
    lo, hi = (np.repeat(b.astype(np.float32), 64) for b in (low, high))
    y = (x - lo) / ((hi - lo) / np.float32(15))
    divided = np.clip(np.floor(y + np.float32(0.5)), 0, 15).astype(np.uint8)
    other = divided != q.encode(x, low, high)
    # y < 16 carries at most three roundings on either way: 6 * 2^-24 * 16 < 1e-5.
    assert np.all(np.abs(np.abs(y[other] - np.floor(y[other])) - 0.5) < 1e-5)
    assert other.mean() < 1e-4


@pytest.mark.parametrize(
    ("bucket", "bits", "stochastic", "nearest"),
    [(64, 4, 0.125, 0.089), (100_000, 4, 0.249, 0.176), (64, 8, 0.0075, 0.0053)],
)
def test_relative_errors_on_gaussian_numbers_are_those_of_the_specification(
    bucket, bits, stochastic, nearest
):
    """Figures of two digits; 2e5 entries scatter by less than a percent, the range of 1e5 ones by a few."""
    x = np.random.default_rng(0).standard_normal(200_000)
    for rounding, want in (("stochastic", stochastic), ("nearest", nearest)):
        q = Quantiser(bits, bucket, rounding, **EXACT)
        error = np.linalg.norm(q(x, q.noise(0, 1, x.size)) - x) / np.linalg.norm(x)
        assert abs(error / want - 1) < 0.06
        assert error <= q.omega()


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("size", [0, 1, 5, 24])
def test_a_buffer_gives_back_what_the_quantiser_says(bits, size):
    x = numbers(1, size, np.float32).reshape(-1, 1)
    buffer = ErrorBuffer(bits, bucket=7, rounding="stochastic")
    slots = buffer.slots(x.shape, x.dtype)
    state = {name: slot.begin(x, 11) for name, slot in slots.items()}
    assert np.array_equal(buffer.load(state, x), np.zeros_like(x))
    new = buffer.store(x, state, 3)
    assert {n: (new[n].shape, new[n].dtype) for n in new} == {
        n: (s.shape, s.dtype) for n, s in slots.items() if n != "t"
    }
    assert np.array_equal(buffer.load(new, x), buffer.quantiser(x, buffer.quantiser.noise(11, 3, size)))


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 0}, {"bits": 17}, {"bits": 4.0}, {"bucket": 0}, {"rounding": "up"}, {"bounds_dtype": "int8"}],
)
def test_bad_arguments_are_named(wrong):
    with pytest.raises(HyperparameterError, match=f"Quantiser.{next(iter(wrong))}"):
        Quantiser(**wrong)
