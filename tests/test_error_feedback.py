"""Error feedback keeps the virtual iterate and a bounded error, exactly or quantised."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from memopt_ref.parts.compressors import Compressor, Identity, ScaledSign, TopK
from memopt_ref.rules.error_feedback import ErrorFeedbackSGD
from memopt_ref.rules.sgd import SGD
from tests.steps import normal, trajectory
from tests.test_compressors import COMPRESSORS


class NoRate(ErrorFeedbackSGD):
    """The error kept in units of the gradient but added in units of w."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "e": values["e"] * 2}


class Drops(ErrorFeedbackSGD):
    """No feedback."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "e": 0 * values["e"]}


def assert_virtual_iterate_is_gradient_descent(kind) -> None:
    """w - e, in fractions: no tolerance."""
    rng = np.random.default_rng(0)

    def exact():
        return np.array([Fraction(int(v), 8) for v in rng.integers(-20, 21, 6)], dtype=object)

    w = exact()
    gradients = [exact() for _ in range(30)]
    virtual = w
    rule = kind(learning_rate=1, compressor=ScaledSign())
    for values, g in zip(trajectory(rule, w, gradients), gradients, strict=True):
        virtual = virtual - g
        assert np.array_equal(values["w"] - values["e"], virtual)


def test_the_virtual_iterate_takes_the_steps_of_gradient_descent_exactly():
    assert_virtual_iterate_is_gradient_descent(ErrorFeedbackSGD)


@pytest.mark.parametrize("mutant", [NoRate, Drops])
def test_the_virtual_iterate_catches(mutant):
    with pytest.raises(AssertionError):
        assert_virtual_iterate_is_gradient_descent(mutant)


@pytest.mark.parametrize("c", COMPRESSORS, ids=repr)
def test_the_virtual_iterate_holds_to_rounding_for_every_compressor(c):
    gradients = normal(100, 6, 4, seed=1)
    rate, w = 0.1, normal(6, 4)
    *_, last = trajectory(ErrorFeedbackSGD(learning_rate=rate, compressor=c), w, gradients)
    # Each of 100 steps rounds three times numbers below 16.
    assert np.abs(last["w"] - last["e"] - (w - rate * gradients.sum(axis=0))).max() < 300 * 2.0**-53 * 16


def worst_gradients(rule, d: int, steps: int):
    """Gradients of norm 1 that make the error long: along the error, flattened so that Top-K gains least."""
    rng = np.random.default_rng(0)
    w, state = np.zeros(d), rule.init_leaf(np.zeros(d))
    for t in range(steps):
        along = np.sign(state["e"]) + (t % 2) * rng.standard_normal(d)
        g = along / max(np.linalg.norm(along), 1e-300)
        values = rule.values(w, g, state)
        yield values
        w, state = values["w"], {name: values[name] for name in state}


def assert_error_is_bounded(kind, c: Compressor) -> None:
    """||e|| <= q gamma G / (1 - q) at every step."""
    d, rate = 12, 0.3
    q = math.sqrt(1 - c.contraction(d))
    for values in worst_gradients(kind(learning_rate=rate, compressor=c), d, 500):
        assert np.linalg.norm(values["e"]) <= q * rate / (1 - q) * (1 + 1e-12)


@pytest.mark.parametrize("c", COMPRESSORS[1:], ids=repr)
def test_the_error_is_bounded_surely(c):
    assert_error_is_bounded(ErrorFeedbackSGD, c)


def test_the_bound_of_the_error_catches_an_error_in_other_units():
    with pytest.raises(AssertionError):
        assert_error_is_bounded(NoRate, TopK(k=3))


def kinked(x):
    """f(x) = |x1 + x2| / 2 + |x1 - x2| and a subgradient."""
    s, d = x[0] + x[1], x[0] - x[1]
    a, b = (0.5 if s >= 0 else -0.5), (1.0 if d >= 0 else -1.0)
    return 0.5 * abs(s) + abs(d), np.array([a + b, a - b])


@dataclasses.dataclass(frozen=True)
class Step(Compressor):
    """The sign itself: signSGD with a step size instead of a scale."""

    def __call__(self, x):
        return np.sign(x) * np.abs(x).max()

    def contraction(self, shape):
        return 1.0


def descend(rule, steps: int = 1000):
    """Best value and last point with the rate 0.1 / sqrt(t), from (1, 1)."""
    w, state, best = np.ones(2), rule.init_leaf(np.ones(2)), math.inf
    for t in range(1, steps + 1):
        values = rule.replace(learning_rate=0.1 / math.sqrt(t)).values(w, kinked(w)[1], state)
        w, state = values["w"], {name: values[name] for name in state}
        best = min(best, kinked(w)[0])
    return best, w


def test_error_feedback_leaves_the_line_on_which_the_sign_is_stuck():
    """The counter-example of Karimireddy et al.: signs are +-(1, -1) for ever, so x1 + x2 never moves."""
    stuck, w = descend(ErrorFeedbackSGD(compressor=Step(), error_bits=0))
    assert abs(w.sum() - 2) < 1e-12
    assert stuck >= 1 - 1e-12
    scaled, w = descend(ErrorFeedbackSGD(compressor=ScaledSign(), error_bits=0))
    assert abs(w.sum() - 2) < 1e-12
    assert scaled >= 1 - 1e-12
    freed, _ = descend(ErrorFeedbackSGD(compressor=ScaledSign()))
    assert freed < 0.01


def test_without_compression_it_is_gradient_descent_bit_for_bit():
    w, gradients = normal(5, 3, dtype=np.float32), normal(8, 5, 3, seed=1, dtype=np.float32)
    plain = trajectory(SGD(learning_rate=0.3), w, gradients)
    for rule in (ErrorFeedbackSGD(learning_rate=0.3, compressor=Identity()),):
        for a, b in zip(trajectory(rule, w, gradients), plain, strict=True):
            assert np.array_equal(a["w"], b["w"])


def test_no_error_bits_is_compressed_descent():
    w, gradients = normal(9), normal(5, 9, seed=1)
    c = TopK(k=2)
    for values, g in zip(
        trajectory(ErrorFeedbackSGD(learning_rate=0.3, compressor=c, error_bits=0), w, gradients),
        gradients,
        strict=True,
    ):
        w = w - c(0.3 * g)
        assert np.array_equal(values["w"], w)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_quantised_buffer_is_off_by_at_most_one_unit(rounding):
    """What the buffer gives back differs from p - D by u/2 (nearest) or u (stochastic) of its bucket."""
    rule = ErrorFeedbackSGD(
        compressor=TopK(density=0.1), error_bits=4, bucket=16, rounding=rounding, bounds_dtype="float64"
    )
    for values in trajectory(rule, np.zeros(50), normal(20, 50)):
        kept = rule.error.load(values, np.zeros(50))
        u = np.repeat((values["e_max"] - values["e_min"]) / 15, 16)[:50]
        off = np.abs(kept - values["residual"])
        assert np.all(off <= u * (0.5 if rounding == "nearest" else 1) * (1 + 1e-12))
    assert off.max() > 0.1 * u.max()


def test_a_quantised_buffer_is_a_small_part_of_an_exact_one():
    def nbytes(rule):
        return sum(s.nbytes for s in rule.slots((1000, 100), np.dtype(np.float32)).values())

    assert nbytes(ErrorFeedbackSGD()) == 400_000
    assert nbytes(ErrorFeedbackSGD(error_bits=4)) == 50_000 + 4 * 1563
