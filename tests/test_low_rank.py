"""Adam with a rank-one second moment, against its own definition and against Adam where both agree."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.low_rank import LowRankAdam


def test_estimate_is_the_outer_product_of_the_means():
    rng = np.random.default_rng(0)
    rule, w = LowRankAdam(learning_rate=0.1), rng.standard_normal((6, 4))
    state, r, c, m = rule.init(w), np.zeros(6), np.zeros(4), np.zeros((6, 4))
    for t in range(1, 8):
        g = rng.standard_normal((6, 4))
        m = 0.9 * m + (1 - 0.9) * g
        r = 0.999 * r + (1 - 0.999) * (g * g + 1e-30).mean(axis=1)
        c = 0.999 * c + (1 - 0.999) * (g * g + 1e-30).mean(axis=0)
        v = np.outer(r, c) / r.mean()
        expected = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        values = rule.values(w, g, state)
        # Sums of at most 24 terms in another order, then five roundings.
        assert np.allclose(values["v"], v, rtol=1e-14, atol=0)
        assert np.allclose(values["w"], expected, rtol=1e-13, atol=1e-14)
        # Row and column means of the estimate are r and c (mean(r) = mean(c) exactly, up to rounding).
        assert np.allclose(values["v"].mean(axis=1), values["r"], rtol=1e-13, atol=0)
        assert np.allclose(values["v"].mean(axis=0), values["c"], rtol=1e-13, atol=0)
        w, state = rule.update(w, g, state)


def test_squares_of_rank_one_give_adam_itself():
    rng = np.random.default_rng(1)
    rows, columns = rng.random((5, 1)) + 0.1, rng.random((1, 7)) + 0.1
    pair = LowRankAdam(), Adam()
    w = [np.zeros((5, 7))] * 2
    states = [rule.init(w[0]) for rule in pair]
    for _ in range(10):
        # The same pattern at every step: a sum of rank-one matrices is of rank one only then.
        g = rng.standard_normal() * rows * columns * rng.choice([-1, 1], (5, 7))
        for k, rule in enumerate(pair):
            w[k], states[k] = rule.update(w[k], g, states[k])
    assert np.allclose(w[0], w[1], rtol=1e-12, atol=0)
    mixed = LowRankAdam().update(np.zeros((2, 2)), np.diag([1.0, 2.0]), LowRankAdam().init(np.zeros((2, 2))))[
        0
    ]
    assert not np.allclose(
        mixed, Adam().update(np.zeros((2, 2)), np.diag([1.0, 2.0]), Adam().init(np.zeros((2, 2))))[0]
    )


def test_tiny_gradients_do_not_underflow_in_float32():
    # g^2 = 1e-24; r c^T of that order squared is below the smallest float32, r / mean(r) is not.
    g = np.full((3, 2), 1e-12, np.float32)
    values = LowRankAdam(bias_correction="none").values(g, g, LowRankAdam().init(g))
    assert np.allclose(values["v"], 1e-27, rtol=1e-2, atol=0)
    r, c = values["r"], values["c"]
    with np.errstate(under="ignore"):
        assert not (np.outer(r, c) / r.mean()).any()


@pytest.mark.parametrize("shape", [(), (4,)])
def test_below_two_axes_it_is_adam(shape):
    rng = np.random.default_rng(2)
    ours, adam = LowRankAdam(), Adam()
    w = v = rng.standard_normal(shape)
    state, other = ours.init(w), adam.init(v)
    for _ in range(4):
        g = rng.standard_normal(shape)
        w, state = ours.update(w, g, state)
        v, other = adam.update(v, g, other)
    assert np.array_equal(w, v)


def test_more_axes_are_flattened_and_bytes_are_n_plus_d():
    rng = np.random.default_rng(3)
    g = rng.standard_normal((3, 2, 5))
    tensor = LowRankAdam().update(np.zeros_like(g), g, LowRankAdam().init(g))[0]
    matrix = LowRankAdam().update(np.zeros((3, 10)), g.reshape(3, 10), LowRankAdam().init(g.reshape(3, 10)))[
        0
    ]
    assert np.array_equal(tensor.reshape(3, 10), matrix)
    slots = LowRankAdam(beta1=0.0).slots((33_278, 256), np.dtype("float32"))
    assert {name: slot.nbytes for name, slot in slots.items()} == {"r": 4 * 33_278, "c": 4 * 256, "t": 8}


def test_a_row_sparse_gradient_is_stepped_as_a_dense_one():
    w = np.ones((5, 2))
    g = RowSparse(np.array([3, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]), w.shape)
    rule = LowRankAdam()
    sparse, dense = rule.update(w, g, rule.init(w)), rule.update(w, g.to_dense(), rule.init(w))
    assert np.array_equal(sparse[0], dense[0])
    assert all(
        np.array_equal(sparse[1]["leaves"][""][name], array) for name, array in dense[1]["leaves"][""].items()
    )
