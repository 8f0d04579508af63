"""Top-K: what is kept follows from the numbers alone, and is stored where the layout says."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.top_k import Blocks, magnitude_image, top_k

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
#: Few values, so that ties are the rule; both zeros, both infinities, NaN of both signs.
FEW = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, np.inf, -np.inf, np.nan, -np.nan]


def by_definition(row, k: int) -> list[int]:
    """Larger magnitude first, NaN before all, then the lower index; the kept ones in ascending order."""
    image = [np.inf if x != x else abs(float(x)) for x in row]
    order = sorted(range(len(row)), key=lambda i: (row[i] == row[i], -image[i], i))
    return sorted(order[:k])


def assert_is_top_k(select, x, k: int) -> None:
    kept = select(x, k)
    assert kept.shape == (*x.shape[:-1], k)
    n = x.shape[-1]
    assert kept.reshape(x.size // n, k).tolist() == [by_definition(row, k) for row in x.reshape(-1, n)]


rows_of_few = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.sampled_from(FEW), min_size=n, max_size=n), min_size=1, max_size=3),
        st.integers(0, n),
    )
)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=rows_of_few)
def test_ties_go_to_the_lowest_index_and_nan_is_largest(dtype, case):
    numbers, k = case
    assert_is_top_k(top_k, np.array(numbers).astype(dtype), k)


def with_payloads(x, k):
    """NaN by the size of their bits, which follow from the order of a machine instruction's operands."""
    keys = (x.view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.int64)
    return np.sort(np.argsort(-keys, axis=-1, kind="stable")[..., :k], axis=-1)


def test_nan_are_equal_whatever_their_sign_and_payload():
    x = np.array([[0x3F800000, 0x7FC00000, 0xFFC00001, 0x7FC00007, 0x7F800000]], np.uint32).view(np.float32)
    for k in range(6):
        assert_is_top_k(top_k, x, k)
    with pytest.raises(AssertionError):
        assert_is_top_k(with_payloads, x, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_rows_keep_their_largest_magnitudes(dtype):
    x = np.random.default_rng(0).standard_normal((5, 300)).astype(dtype)
    for k in (1, 3, 150, 299, 300):
        assert_is_top_k(top_k, x, k)


def ties_to_the_highest(x, k):
    order = np.argsort(np.abs(x), axis=-1, kind="stable")
    return np.sort(order[..., x.shape[-1] - k :], axis=-1)


def signed_image(x, k):
    order = np.argsort(-x.view(np.int32), axis=-1, kind="stable")
    return np.sort(order[..., :k], axis=-1)


def unordered(x, k):
    return np.argsort(-np.abs(x), axis=-1, kind="stable")[..., :k]


def nan_as_smallest(x, k):
    return top_k(np.where(np.isnan(x), np.float32(0), x), k)


@pytest.mark.parametrize("mutant", [ties_to_the_highest, signed_image, unordered, nan_as_smallest])
def test_the_check_of_top_k_catches(mutant):
    x = np.array([[1.0, -2.0, 2.0, 0.0, np.nan, 2.0]], np.float32)

    def check():
        for k in range(1, 6):
            assert_is_top_k(mutant, x, k)

    with pytest.raises(AssertionError):
        check()


def test_image_orders_as_magnitudes_and_has_one_zero():
    x = np.array([0.0, 1e-45, 1e-38, 1.0, 3e38, np.inf, np.nan], np.float32)
    image = magnitude_image(x)
    assert image.dtype == np.uint32
    assert np.all(np.diff(image.astype(np.int64)) > 0)
    assert np.array_equal(magnitude_image(-x), image)


def test_objects_are_selected_as_floats_are():
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (6, 9)).astype(np.float64)
    exact = np.array([[Fraction(v) for v in row] for row in x.tolist()], dtype=object)
    for k in (0, 1, 4, 9):
        assert np.array_equal(top_k(exact, k), top_k(x, k))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(0, 40), block=st.integers(1, 15), density=st.floats(0.001, 1.0), seed=st.integers(0, 9)
)
def test_blocks_keep_a_ceiling_of_each_block_the_short_one_too(size, block, density, seed):
    x = np.random.default_rng(seed).integers(-3, 4, size).astype(np.float32)
    blocks = Blocks(size, block, density)
    want, counts = [], []
    for start in range(0, size, block):
        piece = x[start : start + block]
        k = int(np.ceil(density * len(piece)))
        counts.append(k)
        want += [start + i for i in by_definition(piece, k)]
    assert all(k >= 1 for k in counts)
    assert blocks.kept == sum(counts)
    assert (blocks.offsets + blocks.select(x)).tolist() == want
    lengths = [min(block, size - start) for start in range(0, size, block)]
    assert blocks.smallest_fraction == min((k / n for k, n in zip(counts, lengths, strict=True)), default=1.0)


def assert_ring_is_block_row_entry(blocks: Blocks, rows: int, with_row) -> None:
    """Row after row written: the flat store lists block 0's rows, then block 1's, without a gap."""
    stored = np.zeros(rows * blocks.kept, np.int64)
    for i in range(rows):
        stored = with_row(stored, rows, i, 1000 * i + np.arange(blocks.kept))
    want, first = [], 0
    for k in [blocks.count(blocks.block)] * blocks.full + [blocks.count(blocks.tail)]:
        want += [1000 * i + first + j for i in range(rows) for j in range(k)]
        first += k
    assert stored.tolist() == want
    for i in range(rows):
        assert np.array_equal(blocks.row(stored, rows, i), 1000 * i + np.arange(blocks.kept))


@pytest.mark.parametrize("size", [0, 3, 8, 10, 24])
def test_the_window_of_a_block_is_contiguous(size):
    blocks = Blocks(size, 8, density=0.3)
    assert_ring_is_block_row_entry(blocks, 3, blocks.with_row)


def test_the_check_of_the_layout_catches_a_row_major_window():
    blocks = Blocks(10, 4, density=0.5)

    def row_major(stored, rows, i, values):
        stored = stored.copy().reshape(rows, -1)
        stored[i] = values
        return stored.reshape(-1)

    with pytest.raises(AssertionError):
        assert_ring_is_block_row_entry(blocks, 3, row_major)


def test_writing_a_row_leaves_the_old_window_alone():
    blocks = Blocks(10, 4, density=0.5)
    stored = np.arange(15)
    stored.flags.writeable = False
    blocks.with_row(stored, 3, 1, np.zeros(5))
    assert np.array_equal(stored, np.arange(15))
