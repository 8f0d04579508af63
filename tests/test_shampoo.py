"""Shampoo against dense matrices on the flattened tensor, its proof's lemma, and the bugs of its ports."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.roots import assemble, eigen_power, eigenpairs, symmetric_power
from memopt_ref.rules.shampoo import Shampoo, multiply, outer

SHAPES = [(), (1,), (6,), (5, 4), (1, 4), (4, 1), (3, 4, 2), (2, 3, 2, 2)]


def problem(shape, seed=0, steps=5, dtype="float64", rank=None):
    """Gradients with non-diagonal statistics; with ``rank`` every matrix gradient has that rank."""
    rng = np.random.default_rng([seed, *shape])
    grads = [rng.standard_normal(shape) for _ in range(steps)]
    if rank is not None:
        grads = [sum(outer_product(rng, shape) for _ in range(rank)) for _ in range(steps)]
    return np.asarray(rng.standard_normal(shape), dtype), [np.asarray(g, dtype) for g in grads]


def outer_product(rng, shape):
    return functools.reduce(np.multiply.outer, [rng.standard_normal(n) for n in shape], 1.0)


def run(rule, w, grads):
    state = rule.init(w)
    for g in grads:
        w, state = rule.update(w, g, state)
    return w, state["leaves"][""]


def steps_of(rule, w, grads):
    state = rule.init(w)["leaves"][""]
    for g in grads:
        values = rule.values(w, g, state)
        yield w, g, state, values
        w, state = values["w"], {name: values[name] for name in state}


def dense_power(h, p):
    d, q = np.linalg.eigh(h)
    return q @ np.diag(d**p) @ q.T


def algorithm_2(w, grads, *, lr, eps, exponent=None):
    """The paper's Algorithm 2 on the flattened tensor: one Kronecker product of dense powers a step."""
    shape = w.shape or (1,)
    k = len(shape)
    H = [eps * np.eye(n) for n in shape]
    x = w.reshape(-1)
    for g in grads:
        g = g.reshape(shape)
        for a in range(k):
            unfolded = np.moveaxis(g, a, 0).reshape(shape[a], -1)
            H[a] = H[a] + unfolded @ unfolded.T
        P = np.eye(1)
        for h in H:
            P = np.kron(P, dense_power(h, -1 / (2 * k) if exponent is None else exponent))
        x = x - lr * (P @ g.reshape(-1))
    return x.reshape(w.shape)


def assert_is_algorithm_2(rule, shape, rank=None):
    w, grads = problem(shape, rank=rank)
    wanted = algorithm_2(w, grads, lr=rule.learning_rate, eps=rule.eps, exponent=rule.exponent)
    # Directions whose eigenvalue is eps alone amplify rounding of a gradient by eps^-1/2 = 10.
    np.testing.assert_allclose(run(rule, w, grads)[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_algorithm_2_on_the_flattened_tensor(shape, rank):
    assert_is_algorithm_2(Shampoo(learning_rate=0.3, eps=1e-2), shape, rank)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, -0.1, 0.0])
def test_exponent_can_be_set(exponent):
    assert_is_algorithm_2(Shampoo(eps=1e-1, exponent=exponent), (5, 4))


class HalfOfTheRoot(Shampoo):
    """Exponent -1/k, the bug of several ports."""

    def _root(self, a, h, state, exponent, due):
        return super()._root(a, h, state, 2 * exponent, due)


class PreconditionedStatistics(Shampoo):
    """Later axes see the gradient that earlier axes have preconditioned, the other bug of the same ports."""

    def step(self, w, g, state):
        values, G = {}, np.atleast_1d(g)
        for a in range(G.ndim):
            values[f"h_{a}"] = state[f"h_{a}"] + outer(G, a)
            G = multiply(symmetric_power(values[f"h_{a}"], -1 / (2 * np.atleast_1d(g).ndim), self.eps), G, a)
        return {"w": w - self.learning_rate * G.reshape(w.shape), **values}


class OneAxisTwice(Shampoo):
    """The statistics of the first axis everywhere (square matrices hide it from shape checks)."""

    def step(self, w, g, state):
        return super().step(w, g, {**state, "h_1": state["h_0"]})


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("wrong", [HalfOfTheRoot, PreconditionedStatistics])
def test_check_catches_the_bugs_of_ports(wrong, shape):
    for rank in (None, 1):
        with pytest.raises(AssertionError):
            assert_is_algorithm_2(wrong(learning_rate=0.3, eps=1e-2), shape, rank)


def test_check_catches_the_wrong_exponent_on_vectors_and_a_shared_statistic():
    with pytest.raises(AssertionError):
        assert_is_algorithm_2(HalfOfTheRoot(eps=1e-2), (6,))
    with pytest.raises(AssertionError):
        assert_is_algorithm_2(OneAxisTwice(eps=1e-2), (4, 4))


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_vector_is_stepped_by_full_matrix_adagrad(eps):
    w, grads = problem((6,), steps=9)
    G = eps * np.eye(6)
    x = w
    for g in grads:
        G = G + np.outer(g, g)
        d, q = np.linalg.eigh(G)
        power = np.where(d > 1e-10, np.maximum(d, 1e-300) ** -0.5, 0.0)
        x = x - 0.1 * (q * power) @ q.T @ g
    # The smallest kept eigenvalue is about 0.1 or eps: rounding is amplified by less than 100.
    np.testing.assert_allclose(run(Shampoo(eps=eps), w, grads)[0], x, rtol=0, atol=1e-12)


def test_first_step_without_eps_is_the_orthogonal_factor():
    w, (g, *_) = problem((5, 4))
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    values = Shampoo(eps=0.0).values(w, g, Shampoo(eps=0.0).init(w))
    np.testing.assert_allclose(values["u"], u @ vt, rtol=0, atol=1e-12)


@given(st.integers(0, 10**6), st.sampled_from([(4, 3), (3, 2, 4)]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_rotating_an_axis_of_the_gradients_rotates_the_step(seed, shape):
    w, grads = problem(shape, seed, steps=3)
    rng = np.random.default_rng(seed)
    for a, n in enumerate(shape):
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        rule = Shampoo(learning_rate=1.0, eps=1e-2)
        turned = run(rule, multiply(q, w, a), [multiply(q, g, a) for g in grads])[0]
        np.testing.assert_allclose(turned, multiply(q, run(rule, w, grads)[0], a), rtol=0, atol=1e-11)


# The lemma of the regret proof


def assert_lemma(rule, shape, rank, seed):
    """eps I + (1/r) sum vec(G) vec(G)^T <= (H_1^(1/2k) (x) ... )^2, by the metric of the rule."""
    w, grads = problem(shape, seed, steps=6, rank=rank)
    total = rule.eps * np.eye(math.prod(shape))
    for _, g, _, values in steps_of(rule, w, grads):
        total = total + np.outer(g, g) / rank
        metric = rule.metric(values)
        H = rule.learning_rate * np.array(
            [metric.mul(e.reshape(shape)).ravel() for e in np.eye(math.prod(shape))]
        )
        gap = np.linalg.eigvalsh(H @ H - total)
        assert gap[0] >= -1e-13 * np.linalg.norm(H @ H, 2)


@pytest.mark.parametrize(
    ("shape", "rank"), [((5, 4), 1), ((5, 4), 3), ((4, 4), 2), ((6,), 1), ((3, 2, 2), 1)]
)
def test_loewner_lemma_of_the_proof_holds(shape, rank):
    for seed in range(5):
        assert_lemma(Shampoo(eps=1e-3), shape, rank, seed)


def test_loewner_lemma_fails_for_a_smaller_exponent():
    with pytest.raises(AssertionError):
        assert_lemma(Shampoo(eps=1e-3, exponent=-1 / 8), (5, 4), 1, 0)


# Options


def test_roots_are_taken_at_the_first_step_and_every_interval():
    w, grads = problem((5, 4), steps=7)
    rule = Shampoo(interval=3)
    fresh = [f"q_{0}" in values for _, _, _, values in steps_of(rule, w, grads)]
    assert fresh == [True, False, False, True, False, False, True]
    for t, (_, g, state, values) in enumerate(steps_of(rule, w, grads), start=1):
        if fresh[t - 1]:
            assert values["root_0"].tobytes() == symmetric_power(values["h_0"], -0.25, rule.eps).tobytes()
        else:
            assert values["root_0"].tobytes() == state["root_0"].tobytes()
        np.testing.assert_allclose(values["u"], values["root_0"] @ g @ values["root_1"], rtol=0, atol=1e-11)
        assert np.any(values["u"] != 0)


@pytest.mark.parametrize("interval", [1, 3])
def test_metric_belongs_to_the_roots_that_were_used(interval):
    w, grads = problem((5, 4), steps=6)
    rule = Shampoo(interval=interval, eps=1e-2)
    for old, g, _, values in steps_of(rule, w, grads):
        np.testing.assert_allclose(rule.metric(values).solve(g), old - values["w"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (6,), (5, 4), (3, 4, 2)])
def test_a_long_axis_keeps_the_diagonal_of_its_statistic(shape):
    w, grads = problem(shape)
    rule = Shampoo(max_axis=0, eps=1e-2)
    k = max(len(shape), 1)
    sums = [np.full(n, 1e-2) for n in shape or (1,)]
    for old, g, _, values in steps_of(rule, w, grads):
        u = g.reshape(shape or (1,))
        for a in range(k):
            others = tuple(b for b in range(k) if b != a)
            sums[a] = sums[a] + np.sum(g.reshape(shape or (1,)) ** 2, axis=others)
        for a in range(k):
            u = u * (sums[a] ** (-1 / (2 * k))).reshape([-1 if b == a else 1 for b in range(k)])
        np.testing.assert_allclose(values["w"], old - 0.1 * u.reshape(shape), rtol=0, atol=1e-13)


def test_a_skipped_axis_does_not_count_in_the_exponent():
    w, grads = problem((5, 3))
    L = 1e-2 * np.eye(3)
    for old, g, state, values in steps_of(Shampoo(max_axis=3, long_axes="skip", eps=1e-2), w, grads):
        assert set(state) == {"h_1"}
        L = L + g.T @ g
        np.testing.assert_allclose(values["w"], old - 0.1 * g @ dense_power(L, -0.5), rtol=0, atol=1e-12)


def test_without_any_preconditioned_axis_the_step_is_the_gradient():
    w, (g, *_) = problem((5, 3))
    rule = Shampoo(max_axis=2, long_axes="skip")
    assert rule.slots(w.shape, w.dtype) == {}
    assert run(rule, w, [g])[0].tobytes() == (w - 0.1 * g).tobytes()


def test_beta2_below_one_averages_the_statistics():
    w, grads = problem((5, 4))
    L = 0.0
    for _, g, _, values in steps_of(Shampoo(beta2=0.9), w, grads):
        L = 0.9 * L + (1 - 0.9) * g @ g.T
        np.testing.assert_allclose(values["h_0"], L, rtol=0, atol=1e-14)


def test_momentum_of_the_gradient_takes_its_place_and_leaves_the_statistics():
    w, grads = problem((5, 4))
    m = 0.0
    plain = [values["h_0"] for *_, values in steps_of(Shampoo(), w, grads)]
    heavy = steps_of(Shampoo(momentum=0.9, dampening=0.1), w, grads)
    for (old, g, _, values), h in zip(heavy, plain, strict=True):
        m = 0.9 * m + 0.9 * g
        assert values["h_0"].tobytes() == h.tobytes()
        wanted = values["root_0"] @ m @ values["root_1"]
        np.testing.assert_allclose(old - values["w"], 0.1 * wanted, rtol=0, atol=1e-12)


def test_momentum_of_the_update_collects_preconditioned_gradients():
    w, grads = problem((5, 4))
    m = 0.0
    rule = Shampoo(momentum=0.9, momentum_of="update")
    for old, g, _, values in steps_of(rule, w, grads):
        m = 0.9 * m + values["root_0"] @ g @ values["root_1"]
        np.testing.assert_allclose(old - values["w"], 0.1 * m, rtol=0, atol=1e-12)
        assert rule.metric(values) is None


@pytest.mark.parametrize(
    ("shape", "interval", "floats"),
    [
        ((30, 20), 1, 1300),
        ((30, 20), 2, 2600),
        ((4, 5, 6), 1, 77),
        ((4, 5, 6), 2, 154),
        ((6,), 1, 36),
        ((), 1, 1),
    ],
)
def test_state_is_a_square_an_axis(shape, interval, floats):
    slots = Shampoo(interval=interval).slots(shape, "float32").values()
    assert sum(s.nbytes for s in slots if not s.is_counter) == 4 * floats


def test_statistics_of_two_streams_join_by_addition():
    w, grads = problem((5, 4), steps=6)
    both, first, second = (run(Shampoo(), w, part)[1] for part in (grads, grads[:3], grads[3:]))
    for name, slot in Shampoo().slots(w.shape, w.dtype).items():
        assert slot.merge == "sum"
        np.testing.assert_allclose(first[name] + second[name], both[name], rtol=0, atol=1e-13)


# Roots


def ill_conditioned(n=12, decades=6, seed=0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return ((q * np.logspace(-decades, 0, n)) @ q.T).astype(np.float32)


def assert_root_of_a_float32_matrix_is_exact(power):
    """The root of the very matrix that float32 stores, to half an ulp of its largest entry and a little."""
    h = ill_conditioned(decades=4)
    d, q = np.linalg.eigh(h.astype(np.longdouble).astype(np.float64))
    wanted = (q * (d + 1e-6) ** -0.25) @ q.T
    got = power(h, -0.25, 1e-6)
    assert got.dtype == np.float32
    assert np.max(np.abs(got - wanted)) <= np.finfo(np.float32).eps * np.max(np.abs(wanted))


def test_root_of_a_float32_matrix_is_computed_in_float64_and_rounded_once():
    assert_root_of_a_float32_matrix_is_exact(symmetric_power)

    def in_float32(h, p, eps):
        d, q = np.linalg.eigh(h + np.float32(eps) * np.eye(len(h), dtype=np.float32))
        return (q * d ** np.float32(p)) @ q.T

    with pytest.raises(AssertionError):
        assert_root_of_a_float32_matrix_is_exact(in_float32)


@pytest.mark.parametrize("p", [-1.0, -0.5, -0.25, -1 / 6, 0.5, 1.0])
def test_powers_multiply_back(p):
    h = ill_conditioned(decades=2).astype(np.float64)
    root = symmetric_power(h, p)
    assert root.tobytes() == root.T.copy().tobytes()
    np.testing.assert_allclose(symmetric_power(root, 1 / p), h, rtol=0, atol=1e-12)


def test_power_of_a_rank_deficient_matrix_is_its_pseudo_inverse():
    x = np.random.default_rng(0).standard_normal((6, 2))
    for dtype in (np.float64, np.float32):
        h = (x @ x.T).astype(dtype)
        tolerance = 1e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(symmetric_power(h, -1.0), np.linalg.pinv(x @ x.T), rtol=0, atol=tolerance)
    assert np.all(symmetric_power(np.zeros((3, 3)), -0.5) == 0)
    assert symmetric_power(np.zeros((0, 0)), -0.5).shape == (0, 0)
    assert symmetric_power(np.zeros((2, 2)), 0.0).tolist() == np.eye(2).tolist()


def test_eps_is_added_to_the_eigenvalues_and_negative_rounding_is_cut():
    d, q = eigenpairs(np.diag([-1e-18, 4.0]), eps=0.5)
    assert d.tolist() == [0.5, 4.5]
    np.testing.assert_allclose(assemble(d, q), np.diag([0.5, 4.5]), rtol=1e-15)
    assert eigen_power(np.array([0.0, 4.0]), -0.5).tolist() == [0.0, 0.5]
