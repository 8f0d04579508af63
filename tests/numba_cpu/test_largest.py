"""The search for NaN and infinity in one read: exact for every dtype, layout and number of threads."""

from __future__ import annotations

import re

import numpy as np
import pytest

import memopt_ref as mo
import memopt_ref.backends.largest as by_numpy
from memopt_ref.errors import NonFiniteError
from tests.numba_cpu.inputs import LAYOUTS, hard, laid
from tests.table import dtype_of

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import bind, kinds, largest  # noqa: E402

DTYPES = ("float32", "float64", "bfloat16", "float16")


def expected(arrays):
    """The largest image, entry by entry."""
    width = arrays[0].dtype.itemsize
    mask = (1 << (8 * width - 1)) - 1
    return max(
        (int(b) & mask for x in arrays for b in np.ascontiguousarray(x).view(f"u{width}").ravel()), default=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_is_found_wherever_it_lies(dtype):
    rng = np.random.default_rng(0)
    for lengths in ((1,), (5, 0, 3), (1000, 37), (2, 4001), (0,)):
        arrays = [hard((n,), dtype, seed=n, share=0) for n in lengths]
        for value in (0.0, 7.5, -np.inf, np.nan, -np.nan):
            places = [x for x in arrays if x.size]
            if places:
                x = places[rng.integers(len(places))]
                x[rng.integers(x.size)] = value
            found = [largest.largest(arrays, threads) for threads in (None, 1, 2)]
            assert found == [expected(arrays)] * 3
            assert max(map(by_numpy._top, arrays)) == by_numpy.largest(arrays) == found[0]


def test_every_place_of_a_range_is_looked_at():
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 67):
        for k in range(n):
            x = np.ones(n, np.float32)
            x[k] = -2.0
            assert largest.largest([x]) == expected([x]) == largest.largest([x], 2)


def test_layouts_and_byte_orders_that_compiled_code_leaves():
    for layout in LAYOUTS:
        x = laid(hard((70, 90), share=0), layout)
        x[33, 44] = -np.nan
        for y in (x, x.astype(">f4")):
            assert by_numpy.largest([y, x[:3]]) == expected([y.astype("=f4")])
            assert np.isnan(by_numpy.number(by_numpy.largest([y]), y.dtype)[0])


def test_a_large_array_is_searched_by_numpy_in_pieces():
    for x in (hard((3 * by_numpy.PIECE + 5,), share=0), hard((400, 901), share=0)[:, ::2]):
        x[(-1,) * x.ndim] = 1e30
        assert by_numpy._top(x) == expected([np.float32([1e30])])


def test_infinity_is_told_from_the_largest_finite_number():
    for dtype in map(dtype_of, DTYPES):
        inf = np.array([np.inf]).astype(dtype)
        below = (inf.view(f"u{dtype.itemsize}") - 1).view(dtype)
        assert by_numpy.largest([-below]) < by_numpy.infinity(dtype) == by_numpy.largest([-inf])


def signed(arrays):
    """A search that forgets to take the sign away: the largest image is then any negative number's."""
    width = arrays[0].dtype.itemsize
    return max(int(x.view(f"u{width}").max()) for x in arrays)


def compared_as_numbers(arrays):
    """One that compares numbers: NaN is never the larger."""
    return int(np.array([np.nanmax(np.abs(x)) for x in arrays]).max().view("u4"))


@pytest.mark.parametrize("wrong", [signed, compared_as_numbers])
def test_a_wrong_search_is_caught(wrong):
    x = np.array([1.0, -2.0, np.nan], np.float32)
    assert wrong([x[:2] if wrong is signed else x]) != expected([x[:2] if wrong is signed else x])


# What decides a step: the cast and the scale may overflow, and the search does not see them


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_overflow_in_the_cast_or_the_scale_is_found_from_the_largest_magnitude_alone(backend):
    w = np.zeros(9, np.float32)
    opt = mo.Optimizer(w, mo.SGD(), backend)
    top = float(np.finfo(np.float32).max)
    half_a_unit_more = top + 2.0**103
    for value, scale, good in (
        (top, 1.0, True),
        (np.nextafter(half_a_unit_more, 0), 1.0, True),
        (half_a_unit_more, 1.0, False),
        (1e39, 1e-5, True),
        (1e35, 1e5, False),
    ):
        g = np.ones(9)
        g[4] = -value
        if good:
            assert opt.step(g, scale=scale)
        else:
            with pytest.raises(NonFiniteError, match="1 of 9 entries not finite"):
                opt.step(g, scale=scale)
        w[...] = 0


# Machine code


def test_loops_over_other_kinds_and_prepared_gradients_are_vectorised_and_fuse_nothing():
    half = kinds.BFLOAT16
    forms = [bind.Form("none", "", half, half), bind.Form("none", "scaled"), bind.Form("none", "zeroed")]
    forms += [bind.Form("none", "scaled", None, kinds.FLOAT64), bind.Form("none", flush=True)]
    for form in forms:
        expression = mo.SGD(momentum=0.9).expression(("m",))
        compiled = bind.bind(expression, ("m",), form, "float32", disk=False).compiled
        assembly = compiled._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
        if numba.core.config.MACHINE_BITS == 64 and "xmm" in assembly:
            assert "ymm" in assembly, form


def test_the_search_is_vectorised_for_every_width():
    for top in (largest.top16, largest.top32, largest.top64):
        top(np.zeros(1).ctypes.data, 0, 0)
        assembly = "".join(top.inspect_asm().values())
        if "xmm" in assembly:
            assert re.search(r"vp(maxu|cmp|sub).*ymm", assembly), top
