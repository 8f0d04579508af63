"""parts/sums.py against its own definition, read from the docstring and added one number at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from memopt_ref.parts import sums

SIZES = [0, 1, 2, 3, 127, 128, 129, 511, 512, 513, 1000, 4097]
SHAPES = [(), (1,), (0,), (3, 0), (0, 3), (1, 1), (64, 2), (65, 3), (130, 1000), (3, 70000), (2, 5, 513)]


def slow_row(entries, zero):
    """Leaves of 512; lane l of 128 adds l, l + 128, ..., l + 384; neighbours join at distance 1, ..., 64."""
    row = list(entries)
    while True:
        leaves = []
        for start in range(0, max(len(row), 1), 512):
            leaf = row[start : start + 512]
            lanes = [zero] * 128
            for lane in range(128):
                for i in range(lane, len(leaf), 128):
                    lanes[lane] = lanes[lane] + leaf[i]
            distance = 1
            while distance <= 64:
                for lane in range(0, 128, 2 * distance):
                    lanes[lane] = lanes[lane] + lanes[lane + distance]
                distance *= 2
            leaves.append(lanes[0])
        row = leaves
        if len(row) == 1:
            return row[0]


def slow_leaves(entries, zero):
    return [slow_row(entries[s : s + 512], zero) for s in range(0, max(len(entries), 1), 512)]


def slow_column(entries, zero):
    """Runs of 64 added in order from +0; the run sums form a new column."""
    column = list(entries)
    while True:
        runs = []
        for start in range(0, max(len(column), 1), 64):
            total = zero
            for x in column[start : start + 64]:
                total = total + x
            runs.append(total)
        column = runs
        if len(column) == 1:
            return column[0]


def slow_tensor(x):
    """Leaf sums of all rows, in C order, form one row."""
    zero = x.dtype.type(0)
    if x.size == 0:
        return zero
    rows = x.reshape(-1, x.shape[-1] if x.ndim else 1)
    return slow_row([leaf for row in rows for leaf in slow_leaves(row, zero)], zero)


def sample(shape, dtype="float32", seed=0):
    rng = np.random.default_rng([seed, *shape])
    return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)


def assert_row_tree(along_rows, n, dtype="float32"):
    for seed in range(4):  # a wrong order often rounds to the same sum once, seldom four times
        x = sample((n,), dtype, seed)
        got = along_rows(x)
        assert got.dtype == x.dtype
        assert got.tobytes() == slow_row(x, x.dtype.type(0)).tobytes()


def assert_column_tree(down_columns, m, dtype="float32"):
    x = sample((m, 3), dtype)
    wanted = np.array([slow_column(x[:, j], x.dtype.type(0)) for j in range(3)], x.dtype)
    assert down_columns(x).tobytes() == wanted.tobytes()


def assert_tensor_tree(over_tensor, shape, seeds=(0,)):
    for seed in seeds:
        x = sample(shape, seed=seed)
        assert np.asarray(over_tensor(x)).tobytes() == slow_tensor(x).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_a_row_is_added_in_the_order_of_the_definition(n, dtype):
    assert_row_tree(sums.along_rows, n, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", SIZES)
def test_a_column_is_added_in_the_order_of_the_definition(m, dtype):
    assert_column_tree(sums.down_columns, m, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_is_added_in_the_order_of_the_definition(shape):
    assert_tensor_tree(sums.over_tensor, shape)


def test_row_of_two_levels_has_leaf_sums_as_its_entries():
    x = sample((300_000,))  # 586 leaves, then 2, then 1
    assert sums.along_rows(x).tobytes() == slow_row(x, np.float32(0)).tobytes()


def test_batch_axes_are_summed_one_by_one():
    x = sample((2, 3, 130, 515))
    rows, columns, leaves = sums.along_rows(x), sums.down_columns(x), sums.leaf_sums(x)
    assert (rows.shape, columns.shape, leaves.shape) == ((2, 3, 130), (2, 3, 515), (2, 3, 130, 2))
    for a in range(2):
        for b in range(3):
            assert rows[a, b].tobytes() == sums.along_rows(x[a, b]).tobytes()
            assert columns[a, b].tobytes() == sums.down_columns(x[a, b]).tobytes()
            assert leaves[a, b].tobytes() == sums.leaf_sums(x[a, b]).tobytes()


def test_memory_layout_does_not_change_a_bit():
    x = sample((130, 1000))
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        assert sums.along_rows(same).tobytes() == sums.along_rows(x).tobytes()
        assert sums.down_columns(same).tobytes() == sums.down_columns(x).tobytes()
        assert sums.over_tensor(same).tobytes() == sums.over_tensor(x).tobytes()


def test_negative_zero_becomes_zero_and_non_finite_numbers_pass_through():
    for add, x in ((sums.along_rows, np.full(5, -0.0)), (sums.over_tensor, np.full((1, 1), -0.0))):
        assert not np.signbit(add(x))
    assert not np.signbit(sums.down_columns(np.full((1, 1), -0.0)))[0]
    x = np.ones(700, np.float32)
    x[600] = np.inf
    assert sums.along_rows(x) == np.inf
    x[3] = np.nan
    assert np.isnan(sums.over_tensor(x))


def test_objects_are_added_exactly():
    x = np.array([Fraction(1, k) for k in range(1, 140)], dtype=object)
    assert sums.along_rows(x) == sums.over_tensor(x) == sum(x)
    assert sums.down_columns(x[:, None])[0] == sum(x)


def roundings(n: int, *, columns: bool) -> int:
    """The most roundings that one entry can meet: 10 a level of leaves, 63 a level of runs."""
    size, each = (64, 63) if columns else (512, 10)
    levels = 1
    while n > size:
        n, levels = math.ceil(n / size), levels + 1
    return levels * each


def assert_within_bound(total, x, count):
    error = abs(Fraction(float(total)) - sum(Fraction(float(v)) for v in x))
    # An entry that meets k roundings is off by a factor of at most (1 + u)^k, u half an ulp of 1.
    unit = Fraction(float(np.finfo(x.dtype).eps)) / 2
    assert error <= ((1 + unit) ** count - 1) * sum(abs(Fraction(float(v))) for v in x)


@pytest.mark.parametrize("n", [2, 129, 513, 5000])
def test_rounding_error_is_bounded_by_the_depth_of_the_tree(n):
    for seed in range(3):
        x = sample((n,), seed=seed)
        assert_within_bound(sums.along_rows(x), x, roundings(n, columns=False))
        assert_within_bound(sums.down_columns(x[:, None])[0], x, roundings(n, columns=True))
        assert roundings(n, columns=False) <= 4 + 10 + math.log2(n)


# Wrong orders that the checks above notice


def far_first(x):
    """Joins lanes at distance 64, 32, ..., 1."""
    padded = np.zeros(512, x.dtype)
    padded[: len(x)] = x
    lanes = np.add.accumulate(padded.reshape(4, 128))[-1]
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def blocked_lanes(x):
    """Lane l adds 4 l, ..., 4 l + 3."""
    padded = np.zeros(512, x.dtype)
    padded[: len(x)] = x
    return sums.along_rows(padded.reshape(128, 4).T.reshape(-1).copy())


@pytest.mark.parametrize("wrong", [np.sum, far_first, blocked_lanes])
def test_check_of_rows_catches_another_order(wrong):
    with pytest.raises(AssertionError):
        assert_row_tree(wrong, 511)


@pytest.mark.parametrize("wrong", [lambda x: np.sum(x, axis=0), lambda x: sums.along_rows(x.T)])
def test_check_of_columns_catches_another_order(wrong):
    with pytest.raises(AssertionError):
        assert_column_tree(wrong, 513)


@pytest.mark.parametrize(
    "wrong", [np.sum, lambda x: sums.along_rows(sums.along_rows(x)), lambda x: sums.along_rows(x.ravel())]
)
def test_check_of_tensors_catches_another_order(wrong):
    with pytest.raises(AssertionError):
        assert_tensor_tree(wrong, (5, 1200), range(8))


def test_check_of_the_bound_catches_a_running_sum():
    x = np.full(20_000, 0.1, np.float32)
    x[0] = 2.0**17
    assert_within_bound(sums.along_rows(x), x, roundings(len(x), columns=False))
    with pytest.raises(AssertionError):
        assert_within_bound(np.add.accumulate(x)[-1], x, roundings(len(x), columns=False))
