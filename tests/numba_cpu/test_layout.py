"""Axes, steps and tiles: every entry of every array once, wherever it lies. Needs no Numba."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.backends.numba_cpu.layout import BUFFER, in_whole_steps, tiling
from tests.numba_cpu.inputs import LAYOUTS, laid


def entries(x, steps, shape, rows=None):
    """The array's entries in the order of the tiling, gathered by start and steps alone."""
    flat = np.lib.stride_tricks.as_strided(x, (1,), (x.itemsize,))
    base = flat.__array_interface__["data"][0]
    found = []
    for place in itertools.product(*(range(n) for n in shape)):
        if rows is not None:
            place = (rows[place[0]], *place[1:])
        offset = sum(p * s for p, s in zip(place, steps, strict=True))
        address = base + offset * x.itemsize
        found.append(np.ctypeslib.as_array((np.ctypeslib.as_ctypes_type(x.dtype)).from_address(address))[()])
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), max_size=4).map(tuple),
    st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=3),
    st.integers(1, 40),
)
def test_every_array_is_walked_in_one_order_and_whole(shape, layouts, run):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    arrays = [laid(x, layout) for layout in layouts]
    found = tiling(arrays, shape, x.dtype, run=run)
    walks = [entries(a, s, found.shape) for a, s in zip(arrays, found.steps, strict=True)]
    assert sorted(walks[0]) == list(range(x.size))
    assert all(walk == walks[0] for walk in walks)
    assert found.tiles >= 1
    assert found.tall == 1 or found.tall * found.broad <= BUFFER


def test_rows_stay_the_first_axis():
    x = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    g = np.asfortranarray(x[[1, 3]])
    found = tiling([x, g], g.shape, x.dtype, by_row=True)
    assert found.shape[0] == 2
    assert sorted(entries(x, found.steps[0], found.shape, [1, 3])) == sorted(x[[1, 3]].ravel())
    assert entries(x, found.steps[0], found.shape, [1, 3]) == entries(g, found.steps[1], found.shape)


def test_contiguous_arrays_are_one_run_and_fortran_order_is_no_different():
    x = np.zeros((30, 20, 10), np.float32)
    for order in "CF":
        arrays = [np.asarray(x, order=order)] * 3
        found = tiling(arrays, x.shape, x.dtype)
        assert found.shape == (1, 6000)
        assert found.tall == 1


def test_two_arrays_across_each_other_share_square_tiles():
    x = np.zeros((300, 50, 200), np.float32)
    found = tiling([x, np.asfortranarray(x)], x.shape, x.dtype)
    assert (found.tall, found.broad) == (64, 64)
    assert {abs(found.steps[0][-1]), abs(found.steps[1][-2])} == {1}, "each array's near axis is in the tile"


def test_arrays_that_no_pointer_can_walk_are_told_apart():
    packed = np.zeros(4, np.dtype([("a", "i1"), ("x", "f4")]))["x"]
    assert not in_whole_steps(packed)
    assert not in_whole_steps(np.zeros(3, ">f4"))
    assert in_whole_steps(np.zeros((4, 6), "f4")[::-1, ::2])


def test_a_wrong_step_is_caught():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    (right,) = tiling([x], x.shape, x.dtype).steps
    assert entries(x, right, (1, 12)) == list(range(12))
    assert entries(x, (12, -1), (1, 1)) == [0]
    assert entries(x, (0, 0), (1, 12)) != list(range(12))
