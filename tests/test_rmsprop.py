"""RMSProp: its conventions against each other, against Adam, and against published values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from memopt_ref.parts.schedule import Schedule
from memopt_ref.rules import rmsprop
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.rmsprop import RMSProp

ULP = np.finfo(np.float64).eps


@dataclasses.dataclass(frozen=True)
class Steps(Schedule):
    """One value a step."""

    values: tuple[float, ...]

    def __call__(self, step):
        return self.values[step - 1]


def final(rule, w, grads):
    state = rule.init(w)
    for g in grads:
        w, state = rule.update(w, g, state)
    return w, state["leaves"][""]


def gradients(shape=(4, 3), steps=20, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for _ in range(steps)]


def test_is_adam_without_first_moment():
    w = np.ones((4, 3))
    for ours, theirs in ((False, "none"), (True, "paper")):
        rule = RMSProp(learning_rate=0.1, beta2=0.9, eps=1e-3, eps_root=1e-4, bias_correction=ours)
        adam = Adam(learning_rate=0.1, beta1=0.0, beta2=0.9, eps=1e-3, eps_root=1e-4, bias_correction=theirs)
        assert np.array_equal(final(rule, w, gradients())[0], final(adam, w, gradients())[0])


def test_bias_correction_is_felt():
    grads = gradients(steps=2)
    plain = final(RMSProp(), np.ones((4, 3)), grads)[0]
    assert not np.allclose(plain, final(RMSProp(bias_correction=True), np.ones((4, 3)), grads)[0])


def test_reproduces_the_published_values_of_keras():
    rule = RMSProp(learning_rate=1e-3, beta2=0.9, eps=0.0, eps_root=1e-7, centered=True, rate_inside=True)
    w, state, rows = np.ones(10), rule.init(np.ones(10)), []
    for g in [np.full(10, 0.01), *[np.arange(0.1, 1.1, 0.1)] * 4]:
        w, state = rule.update(w, g, state)
        rows.append(w)
    # Printed with four decimals.
    assert np.max(np.abs(np.array(rows) - np.array([[0.9967, 0.9933, 0.9908, 0.9885, 0.9864]]).T)) <= 5.01e-5
    outside = final(rule.replace(eps=1e-1, eps_root=0.0), np.ones(10), [np.full(10, 0.01)])[0]
    assert np.max(np.abs(outside - rows[0])) > 5.01e-5


def test_learning_rate_inside_the_momentum_matters_only_when_it_changes():
    grads, w = gradients(), np.ones((4, 3))
    inside, outside = (RMSProp(momentum=0.9, rate_inside=flag) for flag in (True, False))
    # Two products by the rate per step in another order, 20 steps, movement of order 1.
    assert np.max(np.abs(final(inside, w, grads)[0] - final(outside, w, grads)[0])) <= 200 * ULP
    rates = Steps((0.1, 0.001))
    a = final(inside.replace(learning_rate=rates), w, grads[:2])[0]
    b = final(outside.replace(learning_rate=rates), w, grads[:2])[0]
    assert np.max(np.abs(a - b)) > 1e-3


def test_nesterov_takes_the_next_momentum_step_ahead():
    grads, w = gradients(steps=3), np.zeros((4, 3))
    rule = RMSProp(momentum=0.5, nesterov=True, learning_rate=0.1)
    state, m = rule.init(w), np.zeros((4, 3))
    for g in grads:
        values = rule.values(w, g, state)
        m = 0.5 * m + values["u"]
        assert np.allclose(values["w"], w - 0.1 * (values["u"] + 0.5 * m), rtol=1e-14, atol=1e-16)
        w, state = rule.update(w, g, state)


def test_momentum_scheduled_to_start_at_zero_keeps_its_slot():
    rule = RMSProp(momentum=Steps((0.0, 0.5, 0.9)), rate_inside=True)
    _, leaf = final(rule, np.ones((4, 3)), gradients(steps=3))
    assert np.any(leaf["m"] != 0)


def negative_variances(steps=400):
    """Constant gradients: v - a^2 is 0 in exact arithmetic at late steps, and of either sign in float32."""
    w, g = np.zeros(500, np.float32), np.random.default_rng(0).standard_normal(500).astype(np.float32)
    rule = RMSProp(beta2=0.9, centered=True, eps=1e-3)
    state = rule.init(w)
    for _ in range(steps):
        w, state = rule.update(w, g, state)
    leaf = state["leaves"][""]
    return rule, w, g, leaf


def test_variance_that_rounds_below_zero_makes_no_nan(monkeypatch):
    rule, w, g, leaf = negative_variances()
    assert np.any(leaf["v"] - leaf["a"] * leaf["a"] < 0)
    assert np.all(np.isfinite(rule.values(w, g, leaf)["w"]))
    monkeypatch.setattr(rmsprop, "maximum", lambda x, floor: x)
    assert np.any(np.isnan(rule.values(w, g, leaf)["w"]))


def test_nan_in_the_gradient_stays_visible():
    rule = RMSProp(centered=True)
    g = np.array([1.0, np.nan])
    assert np.isnan(rule.values(np.zeros(2), g, rule.init(np.zeros(2)))["w"]).tolist() == [False, True]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_metric_exists_without_momentum_only(momentum):
    rule, w = RMSProp(momentum=momentum), np.zeros(3)
    values = rule.values(w, np.ones(3), rule.init(w))
    assert (rule.metric(values) is None) == (momentum > 0)
