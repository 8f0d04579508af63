"""GGT against dense matrices built from singular values, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.rules.ggt import GGT


def problem(shape, seed=0, steps=9, dtype="float64"):
    rng = np.random.default_rng([seed, *shape])
    grads = [rng.standard_normal(shape) for _ in range(steps)]
    return np.asarray(rng.standard_normal(shape), dtype), [np.asarray(g, dtype) for g in grads]


def steps_of(rule, w, grads):
    state = rule.init(w)["leaves"][""]
    for g in grads:
        values = rule.values(w, g, state)
        yield w, g, state, values
        w, state = values["w"], {name: values[name] for name in state}


def dense(history, v, *, window, beta2, eps):
    """[(G G^T)^(1/2) + eps I]^{-1} v with G = [g_t, beta2 g_{t-1}, ...], by a full SVD of G."""
    recent = history[::-1][:window]
    G = np.stack([beta2**age * g.ravel() for age, g in enumerate(recent)], axis=1)
    U, s, _ = np.linalg.svd(G, full_matrices=True)
    root = np.zeros(len(U))
    root[: len(s)] = s
    root[root < 1e-10 * root.max(initial=1e-300)] = 0
    weights = np.where(root + eps > 0, 1 / np.where(root + eps > 0, root + eps, 1), 0)
    return (U @ (weights * (U.T @ v.ravel()))).reshape(v.shape)


def assert_is_dense(rule, shape, steps=9, close=1e-10):
    """Singular values down to 1e-2 and weights up to 1/eps <= 1e4 leave eleven digits and more."""
    w, grads = problem(shape, steps=steps)
    m = np.zeros(shape)
    for t, (old, g, _, values) in enumerate(steps_of(rule, w, grads), start=1):
        m = rule.momentum * m + g
        wanted = dense(grads[:t], m, window=rule.window, beta2=rule.beta2, eps=rule.eps)
        np.testing.assert_allclose(values["u"], wanted, rtol=0, atol=close * np.max(np.abs(wanted)))
        np.testing.assert_allclose(values["w"], old - rule.learning_rate * wanted, rtol=0, atol=close)


@pytest.mark.parametrize("shape", [(), (1,), (12,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("window", [1, 4, 30])
@pytest.mark.parametrize("beta2", [1.0, 0.8])
def test_equals_the_dense_formula(shape, window, beta2):
    for eps in (1e-4, 1e-1):
        assert_is_dense(GGT(window=window, beta2=beta2, eps=eps), shape)


@pytest.mark.parametrize("shape", [(1,), (12,), (4, 5)])
@pytest.mark.parametrize("eps", [1e-2, 0.0])
def test_momentum_equals_the_dense_formula(shape, eps):
    assert_is_dense(GGT(window=4, beta2=0.8, eps=eps, momentum=0.9), shape)


@pytest.mark.parametrize("shape", [(12,), (4, 5)])
def test_eps_zero_takes_the_pseudo_inverse(shape):
    assert_is_dense(GGT(window=4, beta2=0.8, eps=0.0), shape)


class DecaysTheGramAlone(GGT):
    """Decays G^T G but multiplies with the gradients as they came: the torch port."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        t = int(values["t"])
        newest = (t - 1) % self.window
        ages = (newest - np.arange(self.window)) % self.window
        d, V = np.linalg.eigh(values["G"].T @ values["G"])
        coefficients = V @ (V[newest] / (np.sqrt(np.maximum(d, 0)) + self.eps))
        u = ((values["G"] / self.beta2**ages) @ coefficients).reshape(w.shape)
        return {**values, "u": u, "w": w - self.learning_rate * u}


class AgesByPosition(GGT):
    """Takes a row's place in the ring for its age."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        newest = (int(values["t"]) - 1) % self.window
        G = values["window"].T * self.beta2 ** np.arange(self.window)
        d, V = np.linalg.eigh(G.T @ G)
        u = (G @ (V @ (V[newest] / (np.sqrt(np.maximum(d, 0)) + self.eps)))).reshape(w.shape)
        return {**values, "u": u, "w": w - self.learning_rate * u}


class KeepsTheOldest(GGT):
    """Never overwrites the last row."""

    def step(self, w, g, state):
        late = {**state, "t": np.int64(min(int(state["t"]), self.window - 1))}
        return {**super().step(w, g, late), "t": np.int64(int(state["t"]) + 1)}


class RootOfTheWrongSide(GGT):
    """Divides by G G^T, without the root."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        v = np.ravel(g)
        inverse = np.linalg.pinv(values["G"] @ values["G"].T + self.eps * np.eye(g.size))
        return {**values, "w": w - self.learning_rate * (inverse @ v).reshape(w.shape)}


@pytest.mark.parametrize("wrong", [DecaysTheGramAlone, AgesByPosition, KeepsTheOldest, RootOfTheWrongSide])
def test_check_catches_wrong_rules(wrong):
    with pytest.raises(AssertionError):
        assert_is_dense(wrong(window=4, beta2=0.8, eps=1e-2), (12,))


def test_window_of_one_divides_by_the_norm():
    w, grads = problem((4, 5))
    for _, g, _, values in steps_of(GGT(window=1, eps=0.5), w, grads):
        np.testing.assert_allclose(values["u"], g / (np.linalg.norm(g) + 0.5), rtol=1e-13)


def test_window_that_holds_everything_is_full_matrix_adagrad():
    w, grads = problem((5,))
    total = np.zeros((5, 5))
    for _, g, _, values in steps_of(GGT(window=20, eps=1e-2), w, grads):
        total += np.outer(g, g)
        d, q = np.linalg.eigh(total)
        wanted = (q / (np.sqrt(np.maximum(d, 0)) + 1e-2)) @ q.T @ g
        # eigh(total) knows a root of zero to 1e-8 only, against eps = 1e-2; u has none of that error.
        np.testing.assert_allclose(values["u"], wanted, rtol=0, atol=1e-5)


def test_older_gradients_leave_the_window_for_good():
    w, grads = problem((12,), steps=10)
    rule = GGT(window=3, beta2=0.9)
    long = [values["u"] for *_, values in steps_of(rule, w, grads)][-1]
    short = [values["u"] for *_, values in steps_of(rule, w, grads[-3:])][-1]
    np.testing.assert_allclose(long, short, rtol=0, atol=1e-12)


def test_repeated_and_zero_gradients_are_harmless():
    w, (g, *_) = problem((4, 5), dtype="float32")
    for eps in (0.0, 1e-4):
        rule = GGT(window=3, eps=eps)
        for t, (_, now, _, values) in enumerate(steps_of(rule, w, [g, g, 0 * g, 0 * g, 0 * g, g]), start=1):
            assert np.all(np.isfinite(values["u"])), t
            if not now.any():
                assert not values["u"].any()
        np.testing.assert_allclose(values["u"], g / np.linalg.norm(g), rtol=1e-3)


@given(st.integers(-30, 30), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_step_without_eps_does_not_depend_on_the_unit_of_the_gradient(power, seed):
    w, grads = problem((4, 5), seed, steps=5)
    rule = GGT(window=3, eps=0.0, beta2=0.5)
    plain = [values["u"] for *_, values in steps_of(rule, w, grads)]
    scaled = [values["u"] for *_, values in steps_of(rule, w, [2.0**power * g for g in grads])]
    np.testing.assert_allclose(plain, scaled, rtol=0, atol=1e-11)


def test_float32_step_is_the_float64_step_of_the_stored_gradients_rounded_once():
    w, grads = problem((12,), dtype="float32")
    rule = GGT(window=4, beta2=0.5, eps=1e-4)
    wide = steps_of(rule, w.astype(np.float64), [g.astype(np.float64) for g in grads])
    for (_, _, _, narrow), (_, _, _, exact) in zip(steps_of(rule, w, grads), wide, strict=True):
        assert narrow["u"].dtype == narrow["window"].dtype == np.float32
        assert narrow["u"].tobytes() == exact["u"].astype(np.float32).tobytes()


def test_metric_is_the_dense_matrix():
    w, grads = problem((3, 2))
    rule = GGT(window=3, beta2=0.8, eps=1e-2)
    for t, (old, g, _, values) in enumerate(steps_of(rule, w, grads), start=1):
        np.testing.assert_allclose(rule.metric(values).solve(g), old - values["w"], rtol=0, atol=1e-12)
        probe = np.arange(6.0).reshape(3, 2)
        wanted = dense(grads[:t], probe, window=3, beta2=0.8, eps=1e-2)
        np.testing.assert_allclose(rule.metric(values).solve(probe), rule.learning_rate * wanted, rtol=1e-9)


@pytest.mark.parametrize("shape", [(6,), (30, 20), ()])
def test_state_is_the_window(shape):
    slots = GGT(window=7).slots(shape, "float32")
    assert sum(s.nbytes for s in slots.values() if not s.is_counter) == 4 * 7 * math.prod(shape)
    heavy = GGT(window=7, momentum=0.9).slots(shape, "float32")
    assert heavy["m"].nbytes == 4 * math.prod(shape)
