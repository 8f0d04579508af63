"""FTRL-Proximal and dual averaging: the argmin that defines them, AdaGrad, published values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.ftrl import FTRLProximal

FIRST_THEN_RAMP = [np.full(10, 0.01), *[np.arange(0.1, 1.1, 0.1)] * 4]


class WithoutSigma(FTRLProximal):
    """Wrong: z is not told at which point the gradient was taken."""

    def step(self, w, g, state):
        values = super().step(0 * w, g, state)
        return {**values, "z": state["z"] + g}


class PastRate(FTRLProximal):
    """Wrong: the current gradient is not yet in the learning rate."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        h = (self.beta + np.sqrt(state["n"])) / self.learning_rate
        z = values["z"]
        w = -(z - np.clip(z, -self.l1, self.l1)) / np.where(h + self.l2 == 0, 1, h + self.l2)
        return {**values, "w": w, "h": h}


def trajectory(rule, w, grads):
    state, steps = rule.init(w), []
    for g in grads:
        steps.append(rule.values(w, g, state))
        w, state = rule.update(w, g, state)
    return steps


def gradients(seed, shape=(6,), steps=25):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) * 10.0 ** rng.integers(-1, 2) for _ in range(steps)]


def gap_to_adagrad(rule, seed):
    grads = gradients(seed)
    ours = trajectory(rule, np.zeros(6), grads)[-1]["w"]
    adagrad = trajectory(AdaGrad(learning_rate=rule.learning_rate), np.zeros(6), grads)[-1]["w"]
    return np.max(np.abs(ours - adagrad)) / np.max(np.abs(adagrad))


@pytest.mark.parametrize("seed", range(5))
def test_without_penalties_from_the_origin_it_is_adagrad(seed):
    rule = FTRLProximal(learning_rate=0.1, beta=0.0)
    # z = -h w holds exactly; both sides round a few times a step, 25 steps.
    assert gap_to_adagrad(rule, seed) <= 100 * np.finfo(float).eps
    assert gap_to_adagrad(WithoutSigma(learning_rate=0.1, beta=0.0), seed) > 1e-3
    assert gap_to_adagrad(PastRate(learning_rate=0.1, beta=0.0), seed) > 1e-3


def objective_gap(rule, seed, w1):
    """How much lower than at w the objective gets around w: at most rounding if w is the argmin."""
    grads = gradients(seed, steps=12)
    steps = trajectory(rule, w1, grads)
    points = [w1, *[v["w"] for v in steps]]
    roots = np.sqrt(np.cumsum([g * g for g in grads], axis=0))
    sigma = np.diff(roots, axis=0, prepend=0) / rule.learning_rate

    def objective(x):
        centres = points[:-1] if rule.centre == "iterate" else [w1] * len(grads)
        prox = sum(s * (x - c) ** 2 for s, c in zip(sigma, centres, strict=True)) / 2
        pull = x if rule.centre == "iterate" else x - w1
        prox = prox + rule.beta / rule.learning_rate * pull**2 / 2
        return sum(grads) * x + prox + rule.l1 * np.abs(x) + rule.l2 * x * x / 2

    w = points[-1]
    scale = np.max(np.abs(objective(w))) + 1
    around = [w + sign * delta for sign in (-1, 1) for delta in (1e-4, 1e-2, 1.0)] + [0 * w]
    return max(np.max(objective(w) - objective(x)) for x in around) / scale


PENALTIES = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, 2.0, 0.0), (1.0, 0.0, 3.0), (0.3, 2.0, 3.0)]


@pytest.mark.parametrize(("beta", "l1", "l2"), PENALTIES)
@pytest.mark.parametrize("centre", ["iterate", "origin"])
def test_weights_minimise_the_objective(centre, beta, l1, l2):
    rule = FTRLProximal(learning_rate=0.5, beta=beta, l1=l1, l2=l2, centre=centre)
    w1 = np.linspace(-2, 2, 6)
    # A convex quadratic: rounding of w costs second order; the objective's own sum of 12 terms rounds 1e-15.
    assert objective_gap(rule, 7, w1) <= 1e-13


def test_objective_check_catches_wrong_rules():
    w1 = np.linspace(-2, 2, 6)
    for wrong in (WithoutSigma, PastRate):
        assert objective_gap(wrong(learning_rate=0.5, beta=1.0, l1=0.5), 7, w1) > 1e-6


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.floats(0, 5), st.floats(0, 5), st.sampled_from(["iterate", "origin"]))
def test_l1_gives_exact_zeros_where_the_sum_is_small(seed, l1, l2, centre):
    rule = FTRLProximal(l1=l1, l2=l2, centre=centre)
    values = trajectory(rule, np.zeros(6), gradients(seed, steps=8))[-1]
    pull = values["z"] if centre == "iterate" else values["h"] * values["y"]
    inside = np.abs(pull) < l1
    assert np.all(values["w"][inside] == 0)
    assert np.all(values["w"][np.abs(pull) > l1 * (1 + 1e-12)] != 0)


def test_dual_averaging_returns_from_the_initial_point_and_ignores_the_iterate():
    grads, w1 = gradients(2), np.linspace(-1, 1, 6)
    rule = FTRLProximal(learning_rate=0.3, beta=2.0, centre="origin")
    steps = trajectory(rule, w1, grads)
    total, squares = sum(grads), sum(g * g for g in grads)
    want = w1 - 0.3 * total / (2.0 + np.sqrt(squares))
    assert np.allclose(steps[-1]["w"], want, rtol=1e-13, atol=1e-15)
    elsewhere = rule.values(w1 + 5, grads[0], rule.init_leaf(w1))["w"]
    assert np.array_equal(elsewhere, steps[0]["w"])
    moved = FTRLProximal(learning_rate=0.3, beta=2.0)
    assert not np.allclose(trajectory(moved, w1, grads)[-1]["w"], want)


def test_a_table_row_without_gradient_keeps_its_start_in_dual_averaging_and_goes_to_zero_otherwise():
    w1, g = np.ones(2), np.array([1.0, 0.0])
    assert (
        FTRLProximal(centre="origin").advance(w1, g, FTRLProximal(centre="origin").init_leaf(w1))[0][1] == 1.0
    )
    assert FTRLProximal().advance(w1, g, FTRLProximal().init_leaf(w1))[0][1] == 0.0


# Keras counts l2, l2_shrinkage twice.
KERAS = FTRLProximal(
    learning_rate=0.05, lr_power=-0.2, initial_accumulator=0.4, l1=0.05, l2=0.3, l2_shrinkage=0.02, beta=0.3
)


def test_reproduces_the_published_values_of_keras():
    printed = {
        1: [0.0] * 10,
        2: [-0.0034, -0.0077, -0.0118, -0.0157, -0.0194, -0.023, -0.0263, -0.0294, -0.0325, -0.0354],
        5: [-0.0164, -0.0328, -0.0481, -0.0623, -0.0753, -0.0875, -0.099, -0.1098, -0.1201, -0.1299],
    }
    steps = trajectory(KERAS, np.ones(10), FIRST_THEN_RAMP)
    for step, want in printed.items():  # printed with four decimals
        assert np.max(np.abs(steps[step - 1]["w"] - want)) <= 5.01e-5
    single = FTRLProximal(learning_rate=0.5, beta=0.0, initial_accumulator=0.1)
    w = np.array([1.0, 2.0, 3.0, 4.0])
    got = single.values(w, np.array([1.0, 6.0, 7.0, 2.0]), single.init(w))["w"]
    assert np.max(np.abs(got - [0.2218, 1.3954, 2.3651, 2.8814])) <= 5.01e-5


@pytest.mark.parametrize("change", [{"l2": 30.0}, {"l2_shrinkage": 0.5}, {"lr_power": -0.5}, {"beta": 0.0}])
def test_published_values_notice_a_wrong_convention(change):
    steps = trajectory(KERAS.replace(**change), np.ones(10), FIRST_THEN_RAMP)
    assert abs(steps[-1]["w"][-1] - -0.1299) > 5.01e-5


def test_power_one_half_and_square_root_agree():
    grads = gradients(5)
    root = trajectory(FTRLProximal(l1=0.1), np.zeros(6), grads)[-1]["w"]
    near = trajectory(FTRLProximal(l1=0.1, lr_power=-0.5 - 1e-15), np.zeros(6), grads)[-1]["w"]
    assert np.allclose(root, near, rtol=1e-11)


def test_dual_averaging_refuses_another_power():
    with pytest.raises(HyperparameterError, match="lr_power"):
        FTRLProximal(centre="origin", lr_power=-0.4)
