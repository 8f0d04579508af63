"""AMSGrad: its four forms, the monotone second moment, and the counter-example on which Adam fails."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.schedule import Schedule
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.amsgrad import AMSGrad

FORMS = ["paper", "torch", "optax", "keras"]


@dataclasses.dataclass(frozen=True)
class Power(Schedule):
    """value * ratio^(step - 1) / step^exponent."""

    value: float
    ratio: float = 1.0
    exponent: float = 0.0

    def __call__(self, step):
        return self.value * self.ratio ** (step - 1) / step**self.exponent


class Forgetful(AMSGrad):
    """Wrong: the maximum is taken with the last v only, so an old one is forgotten."""

    def step(self, w, g, state):
        return super().step(w, g, {**state, "v_hat": state["v"]})


def trajectory(rule, w, grads):
    state, steps = rule.init(w), []
    for g in grads:
        steps.append(rule.at(state["step"] + 1).values(w, g, state["leaves"][""]))
        w, state = rule.update(w, g, state)
    return steps


def gradients(seed, steps=40):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(5) * 10.0 ** rng.integers(-2, 3, 5) for _ in range(steps)]


def falls(rule, grads):
    v_hat = [v["v_hat"] for v in trajectory(rule, np.zeros(5), grads)]
    return any(np.any(b < a) for a, b in pairwise(v_hat))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(FORMS))
def test_second_moment_never_falls(seed, form):
    assert not falls(AMSGrad(form=form, beta2=0.5), gradients(seed))


def test_a_maximum_over_two_steps_only_falls():
    assert falls(Forgetful(beta2=0.5), gradients(0))


def test_maximum_is_at_least_the_second_moment_and_equal_to_some_of_them():
    steps = trajectory(AMSGrad(beta2=0.5), np.zeros(5), gradients(3))
    history = np.array([v["v"] for v in steps])
    assert np.array_equal(steps[-1]["v_hat"], history.max(axis=0))


@pytest.mark.parametrize("form", FORMS)
def test_first_step(form):
    rule = AMSGrad(learning_rate=0.1, beta1=0.9, beta2=0.99, form=form)
    got = rule.values(np.zeros(2), np.array([3.0, -1e-5]), rule.init(np.zeros(2)))["w"]
    # Without bias correction |m / sqrt(v)| = (1 - beta1) / sqrt(1 - beta2), which is 1 here; with it, 1.
    assert np.allclose(got, [-0.1, 0.1], rtol=1e-14)
    paper = rule.replace(beta2=0.999)
    got = paper.values(np.zeros(1), np.ones(1), paper.init(np.zeros(1)))["w"]
    want = 0.1 * (0.1 / math.sqrt(0.001) if form == "paper" else 1.0)
    assert np.allclose(-got, want, rtol=1e-13)


def by_hand(form, grads, lr=0.1, b1=0.9, b2=0.99, eps=1e-3):
    """The forms written out in Python floats."""
    w = m = v = top = 0.0
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        c1, c2 = 1 - b1**t, 1 - b2**t
        top = max(top, v / c2 if form == "optax" else v)
        if form == "paper":
            w -= lr * m / (math.sqrt(top) + eps)
        elif form == "torch":
            w -= lr * (m / c1) / (math.sqrt(top / c2) + eps)
        elif form == "optax":
            w -= lr * (m / c1) / (math.sqrt(top) + eps)
        else:
            w -= lr * math.sqrt(c2) / c1 * m / (math.sqrt(top) + eps)
    return w


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_what_they_say_and_differ(form):
    grads = np.random.default_rng(1).standard_normal(30) * np.linspace(3, 0.1, 30)
    rule = AMSGrad(learning_rate=0.1, beta2=0.99, eps=1e-3, form=form)
    got = trajectory(rule, np.zeros(1), grads[:, None])[-1]["w"][0]
    # 30 steps of about ten roundings on numbers of order 1.
    assert abs(got - by_hand(form, grads)) <= 300 * np.finfo(float).eps
    others = [by_hand(other, grads) for other in FORMS if other != form]
    assert min(abs(got - other) for other in others) > 1e-6


def test_torch_form_has_a_metric_that_falls():
    rule = AMSGrad(form="torch", beta2=0.9, learning_rate=1.0)
    grads = [np.array([3.0])] + [np.array([0.1])] * 5
    denominators = [v["denominator"][0] for v in trajectory(rule, np.zeros(1), grads)]
    assert denominators[-1] < denominators[0]
    paper = [v["denominator"][0] for v in trajectory(rule.replace(form="paper"), np.zeros(1), grads)]
    assert paper == sorted(paper)


def test_reproduces_the_published_values_of_keras():
    rule = AMSGrad(learning_rate=1e-3, eps=1e-7, form="keras")
    grads = [np.full(10, 0.01), *[np.arange(0.1, 1.1, 0.1)] * 4]
    rows = np.array([v["w"] for v in trajectory(rule, np.ones(10), grads)])
    want = np.array([[0.999, 0.9982, 0.9974, 0.9965, 0.9955]]).T
    # Keras prints one number for ten columns that differ by 1.2e-4 at step 5, and compares with 5e-4.
    assert np.max(np.abs(rows - want)) <= 5e-4
    wrong = np.array([v["w"] for v in trajectory(rule.replace(form="paper"), np.ones(10), grads)])
    assert np.max(np.abs(wrong - want)) > 1e-3


def test_beta1_may_decay_as_in_the_paper():
    """beta1_t = beta1 lambda^(t-1) in the first moment."""
    rule = AMSGrad(learning_rate=Power(0.1, exponent=0.5), beta1=Power(0.9, 0.5), beta2=0.99)
    grads, w, m, v, top = [1.0, -2.0, 0.5], 0.0, 0.0, 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        b1 = 0.9 * 0.5 ** (t - 1)
        m, v = b1 * m + (1 - b1) * g, 0.99 * v + 0.01 * g * g
        top = max(top, v)
        w -= 0.1 / math.sqrt(t) * m / math.sqrt(top)
    got = trajectory(rule, np.zeros(1), [np.array([g]) for g in grads])[-1]["w"][0]
    assert math.isclose(got, w, rel_tol=1e-14)


def play(rule, C, T):
    """Theorem 1: C x if t mod 3 = 1, else -x, on [-1, 1], x_1 = 1; x_T, R_T / T and max |x_{3k+1} - 1|."""
    x, state, regret, away = np.ones(1), rule.init(np.ones(1)), 0.0, 0.0
    for t in range(1, T + 1):
        g = C if t % 3 == 1 else -1.0
        if t % 3 == 1:
            away = max(away, abs(x[0] - 1.0))
        regret += g * (x[0] + 1.0)
        x, state = rule.update(x, np.array([g]), state)
        x = np.clip(x, -1.0, 1.0)
    return x[0], regret / T, away


@pytest.mark.parametrize("C", [2.5, 4.0, 10.0])
def test_counter_example_of_theorem_1(C):
    beta2 = 1 / (1 + C * C)
    alpha = 0.5 * math.sqrt(1 - beta2)
    numbers = {"learning_rate": Power(alpha, exponent=0.5), "beta1": 0.0, "beta2": beta2}
    T = 1500
    for correction in ("none", "paper"):
        adam = Adam(eps=0.0, bias_correction=correction, **numbers)
        x, average, away = play(adam, C, T)
        assert away == 0.0  # Adam is thrown back to 1 exactly at every third step
        assert average >= (2 * C - 4) / 3
    # R_T / T falls as 1 / sqrt(T); the published table has 0.0054, 0.0052 and 0.0072 (AMSGrad) at T = 30,000.
    for rule in (AMSGrad(**numbers), AdaGrad(learning_rate=alpha)):
        x, average, _ = play(rule, C, T)
        assert x < -0.97
        assert average < (2 * C - 4) / 3 / 5
