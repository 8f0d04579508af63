"""Row-sparse gradients: duplicates are summed first; a step on rows is the dense step, or says it is not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import RowIndexError, ShapeError
from memopt_ref.nonfinite import prepare
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.slots import Slot
from memopt_ref.rules import rows
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD
from tests.table import all_cases

F32 = np.dtype(np.float32)


@st.composite
def row_gradients(draw, shape=None):
    """Indices with duplicates, rows of small integers (sums of these are exact, in any order)."""
    n, width = shape or (draw(st.integers(1, 8)), draw(st.integers(0, 3)))
    k = draw(st.integers(0, 10))
    indices = draw(st.lists(st.integers(0, n - 1), min_size=k, max_size=k))
    entries = draw(st.lists(st.integers(-9, 9), min_size=k * width, max_size=k * width))
    dtype = draw(st.sampled_from([np.int8, np.int32, np.int64, np.uint8, np.uint64]))
    return RowSparse(np.array(indices, dtype), np.array(entries, np.float32).reshape(k, width), (n, width))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(row_gradients())
def test_coalescing_sorts_and_sums_and_keeps_the_dense_gradient(g):
    dense = np.zeros(g.shape, np.float32)
    for i, row in zip(g.indices, g.rows, strict=True):
        dense[i] += row
    c = g.coalesced()
    assert c.is_coalesced
    assert np.array_equal(c.indices, np.unique(g.indices))
    assert np.array_equal(c.to_dense(), dense)
    assert np.array_equal(g.to_dense(), dense)
    assert c.coalesced() is c
    back = RowSparse.from_dense(dense)
    assert back.is_coalesced
    assert np.array_equal(back.to_dense(), dense)


def test_duplicates_are_added_in_the_order_in_which_they_occur():
    """1 - 1e8 + 1e8 in float32 is 0 or 1, as one adds."""
    column = np.array([[1.0], [-1e8], [1e8]], np.float32)
    assert RowSparse(np.array([3, 3, 3]), column, (4, 1)).coalesced().rows[0, 0] == 0
    assert RowSparse(np.array([3, 3, 3]), column[::-1], (4, 1)).coalesced().rows[0, 0] == 1


def test_rows_are_summed_in_the_compute_dtype():
    """In float16, 2048 + 1 = 2048; the step sums in float32."""
    g = RowSparse(np.array([0] * 5), np.array([[2048.0], *[[1.0]] * 4], np.float16), (2, 1))
    w = np.zeros((2, 1), np.float32)
    new, _ = SGD(learning_rate=1.0).update(w, g, SGD().init(w))
    assert new[0, 0] == -2052


def summed_then_squared(rule, g, w):
    return rule.update(w, g, rule.init(w))[1]["leaves"][""]


def test_duplicates_are_summed_first_and_then_squared():
    g = RowSparse(np.array([1, 1]), np.array([[3.0], [1.0]], np.float32), (2, 1))
    w = np.zeros((2, 1), np.float32)
    rule = AdaGrad(initial_accumulator=0.0)
    (accumulator,) = (v for v in summed_then_squared(rule, g, w).values() if np.shape(v) == (2, 1))
    assert accumulator.ravel().tolist() == [0.0, 16.0]

    class OneByOne(AdaGrad):
        def update(self, params, grads, state):
            for k in range(grads.indices.size):
                one = RowSparse(grads.indices[k : k + 1], grads.rows[k : k + 1], grads.shape)
                params, state = super().update(params, one, state)
            return params, state

    wrong = summed_then_squared(OneByOne(initial_accumulator=0.0), g, w)
    assert all(np.ravel(v).tolist() != [0.0, 16.0] for v in wrong.values())


RESTING = [
    pytest.param(case.rule, shape, id=case.name)
    for case in all_cases()
    if (shape := max((s for s in case.shapes if len(s) == 2 and s[0] > 1), default=None))
    and not case.rule.native_rows
    and (case.rule.rests() or not rows.lazy(case.rule, shape, F32)[0])
]


def assert_rows_equal_dense(rule, g, dense):
    w = np.linspace(-1, 1, g.shape[0] * g.shape[1], dtype=np.float32).reshape(g.shape)
    a, state_a = w, rule.init(w)
    b, state_b = w, rule.init(w)
    for _ in range(2):
        a, state_a = rule.update(a, g, state_a)
        b, state_b = rule.update(b, dense, state_b)
        assert a.tobytes() == b.tobytes()
        for name, slot in state_a["leaves"][""].items():
            assert np.asarray(slot).tobytes() == np.asarray(state_b["leaves"][""][name]).tobytes(), name


@pytest.mark.parametrize(("rule", "shape"), RESTING)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(pick=st.data())
def test_where_the_rule_says_so_a_step_on_rows_has_the_bits_of_the_dense_step(rule, shape, pick):
    g = pick.draw(row_gradients(shape))
    assert_rows_equal_dense(rule, g, g.to_dense())


def test_a_rule_that_claims_to_rest_and_does_not_is_caught():
    class Restless(Adam):
        def rests(self):
            return True

    g = RowSparse(np.array([1]), np.ones((1, 2), np.float32), (3, 2))
    restless = Restless(weight_decay=0.1, weight_decay_mode="decoupled")
    with pytest.raises(AssertionError):
        assert_rows_equal_dense(restless, g, g.to_dense())


class Declares(SGD):
    """A rule with one slot of choice."""

    def slots(self, shape, dtype):
        return {"x": self.slot}


SLOTS = [
    (Slot((4, 3), F32, axes=(0, 1)), True, "equal to the dense step"),
    (Slot((4,), F32, axes=(0,)), True, "equal to the dense step"),
    (Slot((3,), F32, axes=(1,), merge="max"), True, "equal to the dense step"),
    (Slot((3,), F32, axes=(1,), merge="sum"), False, "'x' has neither rows nor joins by maximum"),
    (Slot((3, 4), F32, axes=(1, 0)), False, "'x' has neither rows nor joins by maximum"),
    (Slot((9,), F32), False, "'x' has neither rows nor joins by maximum"),
    (Slot((), np.dtype(np.int64)), True, "equal to the dense step"),
]


@pytest.mark.parametrize(("slot", "by_rows", "sentence"), SLOTS)
def test_whether_a_rule_is_stepped_on_rows_follows_from_its_slots(slot, by_rows, sentence):
    class Rule(Declares):
        pass

    Rule.slot = slot
    found, why = rows.lazy(Rule(), (4, 3), F32)
    assert found is by_rows
    assert sentence in why
    assert sentence in mo.Optimizer(np.zeros((4, 3), np.float32), Rule()).explain()


def test_a_lazy_rule_says_so_and_leaves_untouched_rows_alone():
    w = np.ones((4, 2), np.float32)
    opt = mo.Optimizer(w, SGD(learning_rate=1.0, momentum=0.5))
    assert "lazy" in opt.explain()
    opt.step(RowSparse(np.array([1]), np.ones((1, 2), np.float32), (4, 2)))
    opt.step(RowSparse(np.array([2]), np.ones((1, 2), np.float32), (4, 2)))
    assert w[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_an_empty_row_sparse_gradient_is_a_step_that_moves_no_row():
    w = np.ones((4, 2), np.float32)
    opt = mo.Optimizer(w, Adam(), max_norm=1.0)
    assert opt.step(RowSparse(np.array([], np.int64), np.ones((0, 2)), (4, 2)))
    assert np.all(w == 1)
    assert opt.step_count == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_rows_of_any_float_dtype_step_any_parameter(dtype):
    w = np.ones((4, 2), ml_dtypes.bfloat16)
    mo.Optimizer(w, SGD(learning_rate=0.5)).step(RowSparse(np.array([3, 3]), np.ones((2, 2), dtype), (4, 2)))
    assert w.astype(float)[:, 0].tolist() == [1, 1, 1, 0]


def test_what_was_written_into_a_gradient_since_it_was_made_is_seen_before_a_step():
    def made():
        return RowSparse(np.array([1, 2]), np.arange(4, dtype=np.float32).reshape(2, 2), (4, 2))

    for place, bad in ((0, -1), (1, 4)):
        g = made()
        g.indices[place] = bad
        with pytest.raises(RowIndexError, match=f"got row {bad};"):
            prepare(g, np.dtype(np.float32), 1.0, "propagate")
    g = made()
    object.__setattr__(g, "rows", g.rows.reshape(4, 1))
    with pytest.raises(ShapeError, match=r"got rows of shape \(4, 1\)"):
        prepare(g, np.dtype(np.float32), 1.0, "propagate")
    g = made()
    g.indices[...] = [2, 1]
    ready = prepare(g, np.dtype(np.float32), 1.0, "propagate")
    assert (ready.indices.tolist(), ready.rows.tolist()) == ([1, 2], [[2, 3], [0, 1]])


@pytest.mark.parametrize(
    ("indices", "shape_of_rows", "shape", "message"),
    [
        ([0], (1,), (), r"shape \(\)"),
        ([0, 1], (1, 2), (4, 2), r"rows of shape \(1, 2\)"),
        ([0], (1, 3), (4, 2), r"rows of shape \(1, 3\)"),
        ([0], (1,), (4, 2), r"rows of shape \(1,\)"),
    ],
)
def test_rows_of_another_shape_are_refused(indices, shape_of_rows, shape, message):
    with pytest.raises(ShapeError, match=message):
        RowSparse(np.array(indices), np.ones(shape_of_rows), shape)
