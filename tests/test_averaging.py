"""Averages of iterates: their own state, the right weights, the right points."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.averaging import OnlineToBatch, Polyak
from memopt_ref.errors import DtypeError, HyperparameterError, ShapeError, StructureError
from memopt_ref.schedules import Function, Linear


def run(average, points, start=None):
    state = average.init(points[0] if start is None else start)
    for w in points:
        state = average.update(state, w)
    return average.average(state)


def test_polyak_is_the_recursion_from_the_starting_point():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((6, 3))
    shadow = points[0].copy()
    for w in points[1:]:
        shadow = 0.9 * shadow + (1 - 0.9) * w
    assert np.array_equal(run(Polyak(decay=0.9), points[1:], start=points[0]), shadow)


def test_num_updates_makes_the_first_decays_smaller():
    """min(d, (1 + n)/(10 + n)): 2/11, 3/12, ... and d from n = (10 d - 1)/(1 - d) on."""
    state = (polyak := Polyak(decay=0.5, num_updates=True)).init(np.zeros(1))
    kept = []
    for _ in range(12):
        before = state["average"][0]
        state = polyak.update(state, np.full(1, before + 1.0))
        kept.append(1.0 - (state["average"][0] - before))
    expected = [min(0.5, (1 + n) / (10 + n)) for n in range(1, 13)]
    # The average stays below 12, so each of three roundings is at most 8 ulp of 1.
    assert np.allclose(kept, expected, rtol=0, atol=24 * np.finfo(float).eps)
    assert kept[0] < 0.2
    assert expected[-1] == 0.5


def test_polyak_of_a_constant_is_that_constant():
    w = np.array([1.0, -2.0])
    # Each update rounds (d w + (1 - d) w) three times at most.
    assert np.allclose(run(Polyak(decay=0.999), [w] * 50), w, rtol=150 * np.finfo(float).eps, atol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.integers(0, 2))
def test_online_to_batch_is_the_weighted_mean_of_what_it_was_fed(points, power):
    mean = run(OnlineToBatch(weight=Function(lambda t: float(t**power))), [np.array([w]) for w in points])[0]
    weights = [Fraction(t) ** power for t in range(1, len(points) + 1)]
    exact = sum(a * Fraction(w) for a, w in zip(weights, points, strict=True)) / sum(weights)
    # Each update rounds four times, relative to at most twice the largest point.
    largest = max(map(abs, points))
    assert abs(float(exact) - mean) <= 8 * len(points) * np.finfo(float).eps * largest


def test_online_to_batch_means_the_points_where_losses_were_paid_and_not_the_last_one():
    w = np.array([8.0])
    opt, mean = mo.Optimizer(w, mo.SGD(learning_rate=0.5)), OnlineToBatch()
    state, played = mean.init(w), []
    for _ in range(3):
        state = mean.update(state, opt.params)
        played.append(w[0])
        opt.step(w.copy())
    assert played == [8.0, 4.0, 2.0]
    assert w[0] == 1.0
    before_the_step = sum(played) / 3
    assert abs(mean.average(state)[0] - before_the_step) <= 4 * np.finfo(float).eps * before_the_step
    after_the_step = sum([4.0, 2.0, 1.0]) / 3
    assert abs(mean.average(state)[0] - after_the_step) > 1, "feeding it after the step is another average"


def test_before_the_first_point_the_average_is_the_start():
    assert run(OnlineToBatch(), [], start=np.array([3.0]))[0] == 3.0
    assert run(Polyak(), [], start=np.array([3.0]))[0] == 3.0


def test_a_decay_schedule_is_taken_at_the_number_of_the_update():
    points = [np.array([1.0]), np.array([2.0])]
    assert run(Polyak(decay=Linear(0.0, 0.5, 1)), points, start=np.zeros(1))[0] == 0.5 * 1.0 + 0.5 * 2.0


EACH = [Polyak(decay=0.5), Polyak(decay=0.9, num_updates=True), OnlineToBatch(), OnlineToBatch(weight=0.25)]


@pytest.mark.parametrize("average", EACH)
def test_trees_in_trees_out_and_the_state_is_a_copy(average):
    params = {"a": np.ones((2, 3), np.float32), "b": [np.ones(4, ml_dtypes.bfloat16), np.ones(())]}
    state = average.init(params)
    for w in (params["a"], *params["b"]):
        w[...] = 3
    before = state["average"]["a"].copy()
    after = average.update(state, params)
    assert np.array_equal(state["average"]["a"], before), "update writes nothing that came in"
    assert np.all(before == 1), "init took a copy"
    found = average.average(after)
    assert [x.dtype.name for x in (found["a"], *found["b"])] == ["float32", "float32", "float64"]
    assert [x.shape for x in (found["a"], *found["b"])] == [(2, 3), (4,), ()]
    assert average.nbytes(state) == 4 * 6 + 4 * 4 + 8
    rounded = average.average(after, like=params)
    assert [x.dtype.name for x in (rounded["a"], *rounded["b"])] == ["float32", "bfloat16", "float64"]
    found["a"][...] = 7
    assert not np.any(after["average"]["a"] == 7), "the caller may write into what it got"
    assert after["count"] == 1


@pytest.mark.parametrize("average", EACH)
def test_no_average_leaks_to_float64_in_float32(average):
    points = [np.full((), k, np.float32) for k in range(4)]
    state = average.init(points[0])
    for w in points:
        state = average.update(state, w)
        assert state["average"].dtype == np.float32
        assert isinstance(state["average"], np.ndarray)


@pytest.mark.parametrize("average", EACH)
def test_other_trees_are_refused(average):
    state = average.init({"a": np.ones(3), "b": np.ones(2)})
    with pytest.raises(StructureError, match="missing 'b'"):
        average.update(state, {"a": np.ones(3)})
    with pytest.raises(ShapeError, match=r"b: got shape \(3,\); wanted shape \(2,\)"):
        average.update(state, {"a": np.ones(3), "b": np.ones(3)})
    with pytest.raises(DtypeError, match="b: got a parameter of dtype int64"):
        average.update(state, {"a": np.ones(3), "b": np.ones(2, np.int64)})


@pytest.mark.parametrize(
    "make", [lambda: Polyak(decay=1.0), lambda: Polyak(decay=-0.1), lambda: OnlineToBatch(weight=0)]
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(HyperparameterError):
        make()
