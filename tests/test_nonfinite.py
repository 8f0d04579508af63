"""NaN and infinity in gradients: raise, skip, zero or propagate."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import NonFiniteError, TornError
from memopt_ref.nonfinite import bad_entries, prepare
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD
from tests.numba_cpu.inputs import same_bits
from tests.table import all_cases

MATRICES = [
    pytest.param(case, shape, id=case.name)
    for case in all_cases()
    if (shape := next((s for s in case.shapes if len(s) == 2 and min(s) > 1), None))
]
POISON = {"NaN": np.nan, "negative NaN": -np.nan, "infinity": np.inf, "negative infinity": -np.inf}


def fingerprint(opt) -> object:
    leaves = {p: {n: np.asarray(v).tobytes() for n, v in s.items()} for p, s in opt.state["leaves"].items()}
    return [w.tobytes() for w in opt.params.values()], leaves, opt.state["step"]


def problem(shape, rule, nonfinite, max_norm=None):
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name in "ab"}
    grads = {name: rng.standard_normal(shape).astype(np.float32) for name in "ab"}
    opt = mo.Optimizer(params, rule, nonfinite=nonfinite, max_norm=max_norm)
    opt.step(copy.deepcopy(grads))
    return opt, grads


def assert_skips_without_a_trace(optimizer_type, rule, shape, poison):
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name in "ab"}
    grads = {name: rng.standard_normal(shape).astype(np.float32) for name in "ab"}
    opt = optimizer_type(params, rule, nonfinite="skip")
    opt.step(grads)
    before = fingerprint(opt)
    bad = copy.deepcopy(grads)
    bad["b"][-1, -1] = poison
    assert opt.step(bad) is False
    assert fingerprint(opt) == before
    assert opt.step(grads) is True


@pytest.mark.parametrize(("case", "shape"), MATRICES)
def test_skip_moves_neither_weights_nor_state_nor_either_clock(case, shape):
    assert_skips_without_a_trace(mo.Optimizer, case.rule, shape, np.nan)


class CountsSkips(mo.Optimizer):
    def step(self, grads, learning_rate=None, scale=1.0):
        applied = super().step(grads, learning_rate, scale)
        self._state["step"] += not applied
        return applied


class LooksAtTheFirstLeafOnly(mo.Optimizer):
    def step(self, grads, learning_rate=None, scale=1.0):
        if not np.all(np.isfinite(grads["a"])):
            return False
        self._nonfinite = "propagate"
        return super().step(grads, learning_rate, scale)


@pytest.mark.parametrize("wrong", [CountsSkips, LooksAtTheFirstLeafOnly])
def test_the_check_of_skip_catches_wrong_optimizers(wrong):
    with pytest.raises(AssertionError):
        assert_skips_without_a_trace(wrong, Adam(), (3, 2), np.nan)


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
@pytest.mark.parametrize("sparse", [False, True])
def test_raise_names_leaf_and_count_and_changes_nothing(poison, sparse):
    opt, grads = problem((4, 3), Adam(), "raise")
    before = fingerprint(opt)
    grads["b"][2, :2] = poison
    if sparse:
        grads["b"] = RowSparse.from_dense(grads["b"])
    with pytest.raises(NonFiniteError) as caught:
        opt.step(grads)
    assert caught.value.where == "b"
    assert "2 of 12 entries" in caught.value.got
    assert ("2 NaN" in caught.value.got) == bool(np.isnan(poison))
    assert fingerprint(opt) == before


def test_raise_counts_the_other_bad_leaves():
    opt, grads = problem((4, 3), Adam(), "raise")
    grads["a"][0, 0] = grads["b"][0, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"a: got a gradient with 1 of 12 .* and 1 more leaves like it"):
        opt.step(grads)


@pytest.mark.parametrize(("case", "shape"), MATRICES)
def test_zero_steps_as_if_the_bad_entries_were_zeros(case, shape):
    opt, grads = problem(shape, case.rule, "zero")
    other, clean = problem(shape, case.rule, "raise")
    grads["b"][0, 0], grads["b"][-1, -1] = np.nan, -np.inf
    clean["b"][0, 0] = clean["b"][-1, -1] = 0
    assert opt.step(grads) is True
    other.step(clean)
    assert fingerprint(opt) == fingerprint(other)
    assert np.isnan(grads["b"][0, 0]), "the caller's gradient stays as it was"


@pytest.mark.parametrize(("case", "shape"), MATRICES)
def test_propagate_steps_as_update_does(case, shape):
    opt, grads = problem(shape, case.rule, "propagate")
    start = copy.deepcopy(opt.params)
    grads["b"][0, 0] = np.nan
    try:
        expected, state = case.rule.update(start, grads, copy.deepcopy(opt.state))
    except np.linalg.LinAlgError:
        # A decomposition has no NaN to hand on: the reference raises, so does the step, and b is torn.
        with pytest.raises(np.linalg.LinAlgError):
            opt.step(grads)
        with pytest.raises(TornError, match="b: got a step that was interrupted"):
            opt.step(grads)
        return
    assert opt.step(grads) is True
    # No processor promises the sign of a NaN that an operation makes.
    assert all(same_bits(opt.params[name], w) for name, w in expected.items())
    assert opt.step_count == state["step"]
    assert np.isfinite(opt.params["a"]).all()


def test_overflow_in_the_cast_the_scale_or_the_sum_of_duplicates_counts_too():
    w = np.zeros((2, 2), np.float32)
    opt = mo.Optimizer(w, SGD())
    with pytest.raises(NonFiniteError):
        opt.step(np.full((2, 2), 1e39))
    with pytest.raises(NonFiniteError):
        opt.step(np.full((2, 2), 1e38, np.float32), scale=1e5)
    with pytest.raises(NonFiniteError):
        opt.step(RowSparse(np.array([1, 1]), np.full((2, 2), 3e38, np.float32), (2, 2)))
    assert opt.step(np.full((2, 2), 1e39), scale=1e-5)


def test_a_bad_row_that_cancels_is_still_bad():
    g = RowSparse(np.array([1, 1]), np.array([[np.inf], [-np.inf]], np.float32), (2, 1))
    with pytest.raises(NonFiniteError, match="1 NaN"):
        mo.Optimizer(np.zeros((2, 1), np.float32), SGD()).step(g)


def test_a_missing_gradient_is_finite():
    opt, _ = problem((2, 2), SGD(), "raise")
    assert opt.step({"a": None, "b": None})


FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(width=16), max_size=9),
    st.sampled_from(FLOATS),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1.0, 0.5, 3.0]),
)
def test_prepared_gradients_are_counted_and_zeroed_entry_by_entry(entries, dtype, parameter, scale):
    g = np.array(entries, np.float64).astype(dtype)
    kept = prepare(g, np.dtype(parameter), scale, "propagate")
    nan, infinite, size = bad_entries(kept)
    assert (nan, size) == (int(np.isnan(g.astype(float)).sum()), len(entries))
    assert infinite == int(
        np.isinf(g.astype(float)).sum()
    )  # half-width entries times 3 stay far from overflow
    zeroed = prepare(g, np.dtype(parameter), scale, "zero")
    wide = g.astype(np.float64) * scale
    assert np.array_equal(zeroed, np.where(np.isfinite(wide), wide, 0).astype(parameter))
    assert kept.dtype == zeroed.dtype == parameter


def test_what_needs_no_change_is_not_copied():
    g = np.ones(3, np.float32)
    assert prepare(g, np.dtype(np.float32), 1.0, "zero") is g
    assert prepare(g, np.dtype(ml_dtypes.bfloat16), 1.0, "raise") is g
