"""The later levels of sums in compiled loops: the trees of ``memopt_ref.parts.sums``, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts import sums

pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import late_sums

LENGTHS = (1, 2, 3, 5, 64, 100, 127, 128, 129, 300, 511, 512, 513, 1000, 5000, 70_000)


def drawn(shape, dtype, seed=0):
    """Numbers whose sum depends on the order, with zeros of both signs among them."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    x[np.abs(x) < 0.1], x[np.abs(x) > 2] = -0.0, 0.0
    return x


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert found.tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_rows_are_added_as_the_reference_adds_them(dtype, batch):
    for n in LENGTHS:
        x = drawn((*batch, n), dtype)
        before = x.copy()
        assert_same(late_sums.along_rows(x), sums.along_rows(x))
        assert_same(x, before)
    assert_same(late_sums.along_rows(np.full((2, 9), -0.0, dtype)), np.zeros(2, dtype))
    nan = np.full((1, 600), np.nan, dtype)
    assert np.isnan(late_sums.along_rows(nan)).all()


def test_many_short_rows_are_too():
    x = drawn((2000, 3), np.float32)
    assert_same(late_sums.along_rows(x), sums.along_rows(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [(), (1,), (2,), (2, 3)])
def test_columns_are_added_as_the_reference_adds_them(dtype, batch):
    for m in (1, 2, 63, 64, 65, 128, 4096, 4097, 5000):
        x = drawn((*batch, m, 7), dtype)
        before = x.copy()
        assert_same(late_sums.down_columns(x), sums.down_columns(x))
        assert_same(x, before)
    assert_same(late_sums.down_columns(np.full((70, 2), -0.0, dtype)), np.zeros(2, dtype))


def test_a_sum_in_another_order_is_caught():
    x = drawn((3, 5000), np.float32)
    with pytest.raises(AssertionError):
        assert_same(late_sums.along_rows(x[:, ::-1]), sums.along_rows(x))
    with pytest.raises(AssertionError):
        assert_same(late_sums.down_columns(x.T[::-1]), sums.down_columns(x.T))
