"""Schedules: in the right direction, pure, composable, and taken at the optimizer's own count of steps."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import HyperparameterError
from memopt_ref.schedules import (
    Constant,
    CoolDown,
    Cosine,
    Exponential,
    Function,
    InverseSqrt,
    InverseTime,
    Linear,
    Piecewise,
    Product,
    Schedule,
    WarmUp,
)

EACH = [
    Constant(0.25),
    WarmUp(0.1, 20),
    WarmUp(0.1, 20, power=1),
    CoolDown(0.1, 200),
    CoolDown(0.1, 200, fraction=0.5),
    InverseSqrt(0.1),
    InverseTime(0.1, 0.01),
    Linear(0.0, 0.1, 50),
    Exponential(0.1, 0.5, 30),
    Cosine(0.1, 100, 0.01),
    Piecewise((10, 50), (0.1, 0.05, 0.01)),
    WarmUp(0.1, 20) * CoolDown(1.0, 200),
    2 * InverseSqrt(0.05),
]
NAMES = [type(s).__name__ + str(k) for k, s in enumerate(EACH)]


def published_warm_up(value, steps, power):
    """The formula as that README prints it, with t and W the wrong way round."""
    return lambda t: value * min(1.0, (steps / t) ** power)


def assert_warms_up(schedule, value, steps):
    values = [schedule(t) for t in range(1, 2 * steps + 1)]
    assert values[0] < value, "the first step is already at full size"
    assert all(a < b for a, b in pairwise(values[:steps])), "it does not rise"
    assert set(values[steps - 1 :]) == {value}, "it does not stay"


@pytest.mark.parametrize("power", [1, 2])
def test_warm_up_rises_to_its_value_and_stays_there(power):
    assert_warms_up(WarmUp(0.3, 20, power), 0.3, 20)
    assert WarmUp(1.0, 20, power)(5) == 0.25**power


@pytest.mark.parametrize("power", [1, 2])
def test_the_published_warm_up_formula_is_inverted(power):
    with pytest.raises(AssertionError, match="full size"):
        assert_warms_up(published_warm_up(0.3, 20, power), 0.3, 20)
    assert published_warm_up(0.3, 20, power)(40) == 0.3 * 0.5**power, (
        "and it decays where it should be constant"
    )


def test_cool_down_is_constant_then_falls_linearly_and_the_last_step_moves_nothing():
    values = [CoolDown(1.0, 50, fraction=0.2)(t) for t in range(1, 53)]
    assert values[:40] == [1.0] * 40
    assert np.allclose(np.diff(values[39:50]), -0.1, rtol=0, atol=4 * np.finfo(float).eps)
    assert values[49:] == [0.0, 0.0, 0.0]
    assert CoolDown(1.0, 51, fraction=0.2)(50) > 0


def test_warm_up_times_cool_down_is_the_combined_formula():
    """min(1, (t/W)^2) min(1, (T - t)/(0.1 T)); equal to the smaller of the two while W < 0.9 T."""
    both = WarmUp(0.1, 20) * CoolDown(1.0, 400)
    for t in range(1, 401):
        expected = 0.1 * min(1.0, (t / 20) ** 2, (400 - t) / 40)
        assert math.isclose(both(t), expected, rel_tol=4 * np.finfo(float).eps)


def test_closed_forms():
    t = 7
    assert InverseSqrt(0.3)(t) == 0.3 / math.sqrt(7)
    assert InverseTime(0.3, 0.5)(t) == 0.3 / 4.0  # torch: lr / (1 + (t - 1) lr_decay)
    assert [Linear(1.0, 3.0, 2)(t) for t in (1, 2, 3, 4)] == [1.0, 2.0, 3.0, 3.0]
    assert Exponential(8.0, 0.5)(4) == 1.0
    assert [Cosine(1.0, 2, 0.5)(t) for t in (1, 3, 4)] == [1.0, 0.5, 0.5]
    assert math.isclose(Cosine(1.0, 2, 0.5)(2), 0.75)
    assert [Piecewise((2, 3), (1, 2, 3))(t) for t in (1, 2, 3, 4)] == [1, 1, 2, 3]
    assert Piecewise((), (5.0,))(9) == 5.0
    assert Function(lambda t: 1 / t)(4) == 0.25


@pytest.mark.parametrize("schedule", EACH, ids=NAMES)
def test_a_schedule_is_a_value_without_memory(schedule):
    first = [schedule(t) for t in range(1, 300)]
    assert all(type(v) is float and math.isfinite(v) and v >= 0 for v in first)
    assert [schedule(t) for t in range(299, 0, -1)] == first[::-1]
    assert schedule == dataclasses.replace(schedule)
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.value = 1.0


@pytest.mark.parametrize(
    "schedule", [s for s in EACH if not isinstance(s, Product)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("step", [0, -1, math.nan])
def test_steps_count_from_one(schedule, step):
    with pytest.raises(HyperparameterError, match="Steps count from 1"):
        schedule(step)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*EACH, 0.5, 3]), min_size=2, max_size=5), st.integers(1, 300))
def test_products_associate_and_multiply_values(factors, step):
    left, right = factors[0], factors[-1]
    for f in factors[1:]:
        left = left * f
    for f in factors[-2::-1]:
        right = f * right
    if any(isinstance(f, Schedule) for f in factors[:2]) and any(
        isinstance(f, Schedule) for f in factors[-2:]
    ):
        assert left == right
        expected = math.prod(f(step) if isinstance(f, Schedule) else f for f in factors)
        # At most five factors, each a product of at most three: 15 roundings on either side.
        assert math.isclose(left(step), expected, rel_tol=30 * np.finfo(float).eps)


def test_numpy_numbers_multiply_to_a_schedule_and_arrays_do_not():
    for product in (np.float64(2) * WarmUp(1.0, 4), WarmUp(1.0, 4) * np.float32(2)):
        assert isinstance(product, Product)
        assert product(4) == 2.0
        assert all(type(f) is not np.float64 for f in product.factors)
    for other in (np.ones(3), "2", None, True, math.nan):
        with pytest.raises(HyperparameterError, match="Product"):
            WarmUp(1.0, 4) * other


BAD = [
    (lambda: WarmUp(0.1, 0), r"WarmUp\.steps: got 0"),
    (lambda: WarmUp(0.1, 2.5), r"WarmUp\.steps: got 2\.5"),
    (lambda: WarmUp(math.inf, 2), r"WarmUp\.value: got inf"),
    (lambda: WarmUp(0.1, 2, 0), r"WarmUp\.power: got 0"),
    (lambda: WarmUp(Constant(1.0), 2), r"WarmUp\.value: got Constant"),
    (lambda: CoolDown(0.1, 100, 0.0), r"CoolDown\.fraction: got 0"),
    (lambda: CoolDown(0.1, 100, 1.5), r"CoolDown\.fraction: got 1\.5"),
    (lambda: InverseTime(0.1, -1.0), r"InverseTime\.decay: got -1"),
    (lambda: Exponential(0.1, 0.0), r"Exponential\.factor: got 0"),
    (lambda: Piecewise((5, 5), (1, 2, 3)), r"Piecewise\.boundaries: got \(5, 5\)"),
    (lambda: Piecewise((5,), (1,)), "got 1 values; wanted 2"),
    (lambda: Piecewise((5,), (1, "x")), r"Piecewise\.values: got 'x'"),
    (lambda: Function(3), "Function: got 3"),
    (lambda: Function(float), "Function: got <class"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_arguments_are_refused_when_the_schedule_is_made(make, message):
    with pytest.raises(HyperparameterError, match=message):
        make()


@pytest.mark.parametrize("schedule", EACH, ids=NAMES)
def test_a_rule_with_a_schedule_takes_its_value_at_the_count_of_steps(schedule):
    w = np.zeros(1)
    opt = mo.Optimizer(w, mo.SGD(learning_rate=schedule))
    for t in range(1, 8):
        before = w[0]
        opt.step(np.ones(1))
        assert w[0] == before - schedule(t)


def test_a_value_outside_the_hyper_parameters_range_is_refused_before_the_step():
    w = np.zeros(1)
    opt = mo.Optimizer(w, mo.Adam(beta1=Linear(0.5, 1.5, 2)))
    opt.step(np.ones(1))
    before = w.copy()
    with pytest.raises(HyperparameterError, match=r"Adam\.beta1: got 1\.0"):
        opt.step(np.ones(1))
    assert w == before
    assert opt.step_count == 1


def test_a_function_of_the_step_is_accepted_in_use():
    w = np.zeros(1)
    mo.Optimizer(w, mo.SGD(learning_rate=Function(lambda t: 0.5 / t))).step(np.ones(1))
    assert w[0] == -0.5
