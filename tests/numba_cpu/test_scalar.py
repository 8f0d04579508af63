"""The functions of an expression, compiled, against themselves on NumPy arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from memopt_ref.parts import scalar
from tests.numba_cpu.inputs import SINGULAR, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import scalar as compiled  # noqa: E402
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402


def everything(x, y):
    return (
        scalar.sqrt(x),
        scalar.absolute(x),
        scalar.sign(x),
        scalar.maximum(x, y),
        scalar.minimum(x, y),
        scalar.select(x < y, x, y),
        scalar.ratio(x, y),
        scalar.select(x == y, scalar.ratio(y, x), -x),
    )


each = numba.njit(**STRICT)(everything)


@numba.njit(**STRICT)
def loop(x, y, out):
    for i in range(x.size):
        out[:, i] = each(x[i], y[i])


def adversarial(dtype):
    """All pairs of singular numbers of the dtype and its neighbourhood, then pairs of random bits."""
    limits = np.finfo(dtype)
    edges = [limits.tiny, -limits.tiny, limits.smallest_subnormal, limits.max, -limits.max, 1.0, -1.0, 2.5]
    with np.errstate(over="ignore"):
        pairs = np.array(list(itertools.product([*SINGULAR, *edges], repeat=2))).astype(dtype)
    bits = np.random.default_rng(1).integers(0, 256, (20_000, 2 * limits.bits // 8), np.uint8).view(dtype)
    return np.ascontiguousarray(np.concatenate([pairs, bits]).T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_scalars_have_the_bits_of_numpy(dtype):
    x, y = adversarial(dtype)
    out = np.empty((8, x.size), dtype)
    loop(x, y, out)
    with np.errstate(all="ignore"):
        expected = everything(x, y)
    for k, values in enumerate(expected):
        assert same_bits(out[k], values), k


def test_a_maximum_that_drops_nan_and_one_that_takes_the_other_zero_are_caught():
    x, y = adversarial(np.float32)
    with np.errstate(all="ignore"):
        expected = np.maximum(x, y)
    assert not same_bits(np.where(x > y, x, y), expected)  # NaN in x is lost
    assert not same_bits(np.where((x >= y) | (x != x), x, y), expected)  # between zeros, the first
    assert same_bits(np.where((x > y) | (x != x), x, y), expected)


def test_power_is_compiled_too_though_its_last_bit_is_the_librarys():
    @numba.njit(**STRICT)
    def root(x, exponent):
        return scalar.power(x, exponent)

    x = np.float32(2.0)
    assert abs(root(x, np.float32(0.5)) - np.sqrt(x)) <= np.spacing(x)


def test_every_function_of_an_expression_has_a_compiled_twin():
    assert all(hasattr(compiled, name) for name in scalar.__all__)


def test_a_literal_does_not_compile_instead_of_computing_in_float64():
    @numba.njit(**STRICT)
    def with_literal(x):
        return scalar.maximum(x, 0.5)

    with pytest.raises(numba.TypingError, match="it holds a literal"):
        with_literal(np.float32(1))
