"""Clipping by the global norm: the norm neither overflows nor vanishes, and a step is clipped once."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import memopt_ref as mo
from memopt_ref.clipping import clip_by_global_norm, factor, global_norm
from memopt_ref.errors import DtypeError, HyperparameterError
from memopt_ref.parts.row_sparse import RowSparse

EPS = np.finfo(np.float64).eps


def exact_norm(tree) -> float:
    """To 60 digits by fractions, then rounded."""
    total = sum(Fraction(float(x)) ** 2 for leaf in tree for x in np.ravel(leaf))
    scaled = total.numerator * 10**120 * 2**2200 // total.denominator
    return float(Fraction(math.isqrt(scaled), 10**60 * 2**1100)) if total else 0.0


def naive_norm(tree) -> float:
    """Squares summed as they are, in the leaf's own dtype."""
    with np.errstate(all="ignore"):
        return float(np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in tree)))


def assert_is_norm(measured, tree):
    # Pairwise sums of non-negative terms: (4 + log2 n) roundings, halved by the root, and the root itself.
    assert math.isclose(measured, exact_norm(tree), rel_tol=8 * EPS, abs_tol=0)


HARD = {
    "float32 beyond the root of its range": [np.full(3, 1e38, np.float32)],
    "float32 whose squares vanish": [np.full(3, 1e-30, np.float32), np.full(2, 1e-40, np.float32)],
    "float16": [np.full(100, 6e4, np.float16)],
    "bfloat16": [np.full(7, 3e38, ml_dtypes.bfloat16)],
    "float64 beyond the root of its range": [np.array([3e200, 1e-200]), np.array([4e200])],
    "float64 whose squares vanish": [np.full((2, 2), 1e-200), np.full(3, 1e-250)],
    "float64 subnormals": [np.full(5, 5e-324)],
    "the largest float64": [np.array([1.7e308])],
    "mixed dtypes": [np.array([1e190]), np.full(3, 1e38, np.float32)],
}


@pytest.mark.parametrize("tree", HARD.values(), ids=HARD)
def test_the_norm_neither_overflows_nor_vanishes(tree):
    assert_is_norm(global_norm(tree), tree)


def test_the_naive_norm_fails_the_check_above():
    failures = 0
    for tree in HARD.values():
        try:
            assert_is_norm(naive_norm(tree), tree)
        except AssertionError:
            failures += 1
    assert failures >= 6


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.float64]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
            elements=st.floats(-1e6, 1e6, width=32),
        ),
        max_size=4,
    )
)
def test_the_norm_is_that_of_all_entries_as_one_vector(tree):
    measured = global_norm(tree)
    assert_is_norm(measured, tree)
    fortran = global_norm([np.asfortranarray(x) for x in tree])
    assert measured == fortran, "the layout does not change a bit"


def test_norms_of_nothing_nan_and_infinity():
    assert global_norm({}) == global_norm([None, np.zeros((0, 3))]) == global_norm(np.zeros(3)) == 0.0
    assert math.isnan(global_norm([np.array([np.nan, np.inf]), np.array([1e300])]))
    assert global_norm([np.array([-np.inf]), np.array([1e300])]) == math.inf
    assert global_norm(np.array([Fraction(3), Fraction(4)])) == 5.0


def test_duplicate_rows_are_summed_before_they_are_squared():
    g = RowSparse(np.array([2, 0, 2]), np.array([[3.0], [0.0], [1.0]]), (4, 1))
    assert global_norm({"table": g}) == 4.0 == global_norm({"table": g.to_dense()})
    separately = math.sqrt(9 + 1)
    assert global_norm({"table": g}) != separately


def test_clipping_keeps_direction_structure_dtype_and_none():
    tree = {
        "a": np.array([3.0], np.float32),
        "b": None,
        "c": [np.full((2, 2), 2, ml_dtypes.bfloat16)],
        "d": RowSparse(np.array([1, 1]), np.full((2, 1), 6.0), (3, 1)),
    }
    clipped, norm = clip_by_global_norm(tree, 6.5)
    assert norm == 13.0
    assert clipped["a"].tolist() == [1.5]
    assert clipped["b"] is None
    assert clipped["c"][0].dtype == ml_dtypes.bfloat16
    assert np.all(clipped["c"][0] == 1)
    assert clipped["d"].to_dense().ravel().tolist() == [0.0, 6.0, 0.0]
    assert tree["a"].tolist() == [3.0], "nothing that came in is written"


def test_small_gradients_come_back_as_they_are():
    tree = {"a": np.array([3.0]), "b": np.array([4.0])}
    clipped, norm = clip_by_global_norm(tree, 5.0)
    assert norm == 5.0
    assert clipped is tree


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e100, 1e100)),
    st.floats(1e-3, 1e3),
)
def test_the_clipped_norm_is_at_most_max_norm(g, max_norm):
    clipped, norm = clip_by_global_norm([g], max_norm)
    after = global_norm(clipped)
    # One rounding of the factor, one an entry, and those of the two norms.
    assert after <= max_norm * (1 + 20 * EPS)
    if norm > max_norm:
        assert after >= max_norm * (1 - 20 * EPS)


def test_bad_gradients_show_after_clipping():
    nan, _ = clip_by_global_norm([np.array([np.nan, 1.0])], 1.0)
    assert np.isnan(nan[0]).all()
    infinite, _ = clip_by_global_norm([np.array([np.inf, 1.0])], 1.0)
    assert np.isnan(infinite[0][0])
    assert infinite[0][1] == 0
    assert math.isnan(factor(math.nan, 1.0))


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan, math.inf, None, "1", True])
def test_bad_limits_are_refused(max_norm):
    with pytest.raises(HyperparameterError, match="max_norm: got"):
        clip_by_global_norm([np.ones(3)], max_norm)


def test_integer_gradients_are_refused():
    with pytest.raises(DtypeError, match="a: got a gradient of dtype int64"):
        global_norm({"a": np.ones(3, np.int64)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sparse", [False, True])
def test_an_optimizer_with_max_norm_steps_on_the_clipped_gradients(dtype, sparse):
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((6, 3)).astype(dtype), "b": rng.standard_normal(4).astype(dtype)}
    rule = mo.Adam()
    expected, state = {k: w.copy() for k, w in params.items()}, rule.init(params)
    opt = mo.Optimizer(params, rule, max_norm=0.5)
    for _ in range(4):
        grads = {"a": rng.standard_normal((6, 3)).astype(dtype), "b": rng.standard_normal(4).astype(dtype)}
        if sparse:
            rows = rng.integers(0, 6, 4)
            grads["a"] = RowSparse(rows, grads["a"][rows], (6, 3))
        clipped, norm = clip_by_global_norm(grads, 0.5)
        assert norm > 0.5
        expected, state = rule.update(expected, clipped, state)
        opt.step(grads)
        assert all(params[k].tobytes() == expected[k].tobytes() for k in params)


def test_scale_comes_before_the_norm_and_zeroed_entries_do_not_count():
    w = np.zeros(2)
    opt = mo.Optimizer(w, mo.SGD(learning_rate=1.0), max_norm=5.0, nonfinite="zero")
    opt.step(np.array([6.0, 8.0]), scale=0.5)
    assert w.tolist() == [-3.0, -4.0]
    opt.step(np.array([np.inf, 5.0]))
    assert w.tolist() == [-3.0, -9.0]
