"""Projections, linear oracles and diameters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.metric import Metric
from memopt_ref.theory import games, suites
from memopt_ref.theory.bounds import get
from memopt_ref.theory.comparators import Polytope, SpectralBall
from memopt_ref.theory.geometry import Box, Everywhere, L2Ball, Simplex
from memopt_ref.theory.verify import HOLDS, verify


def metrics(rng, d):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    h = 10.0 ** rng.uniform(-3, 3, d)
    return [Metric.scalar(2.0, (d,)), Metric.diagonal(h), Metric.full(h, basis)]


def gap(domain, y, metric, z):
    """max_u <H (z - y), z - u> over ||H (z - y)||: 0 for the projection, and for nothing else."""
    q = metric.mul(z - y)
    return (np.sum(q * z) - domain.least(q)) / max(np.abs(q).sum(), 1e-300)


@pytest.mark.parametrize("kind", ["box", "ball", "simplex"])
@pytest.mark.parametrize("seed", range(12))
def test_projections_meet_their_variational_inequality(kind, seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 6))
    domain = {
        "box": Box(-rng.uniform(0.1, 1, d), rng.uniform(0.1, 1, d)),
        "ball": L2Ball(1.0, (d,), rng.normal(size=d)),
        "simplex": Simplex(d),
    }[kind]
    y = 2 * rng.normal(size=d)
    for metric in metrics(rng, d):
        if kind == "simplex" and metric.kind == "full":
            with pytest.raises(HyperparameterError, match="positive diagonal"):
                domain.project(y, metric)
            continue
        z = domain.project(y, metric)
        # Bounded least squares stops at a relative optimality of 1e-15 per multiplier; the others round a few
        # times. 64 d half ulps cover both on these conditionings, whose roots are at most 1e3.
        assert gap(domain, y, metric, z) <= 64 * d * 1e3 * 2.0**-53
        # Feasible: the projection of a member is the member, to the rounding of a norm.
        assert np.allclose(domain.project(z, metric), z, rtol=0, atol=8 * d * 2.0**-53)


def test_the_inequality_notices_a_clip_where_the_metric_is_full():
    rng = np.random.default_rng(0)
    box, y = Box.symmetric((3,)), np.array([2.0, 1.5, -0.2])
    metric = metrics(rng, 3)[2]
    assert gap(box, y, metric, np.clip(y, -1, 1)) > 1e-3


def test_a_general_solver_agrees():
    rng = np.random.default_rng(1)
    ball, y = L2Ball(1.0, (3,)), 3 * rng.normal(size=3)
    metric = metrics(rng, 3)[1]
    z = ball.project(y, metric)
    inside = {"type": "ineq", "fun": lambda v: 1.0 - np.sum(v * v)}
    scale = float(metric.trace())
    other = minimize(lambda v: metric.quad(v - y) / scale, z / 2, constraints=[inside], method="SLSQP")
    assert metric.quad(z - y) <= metric.quad(other.x - y) * (1 + 1e-6)


def test_a_frobenius_ball_is_rotated_by_both_bases():
    rng = np.random.default_rng(2)
    bases = [np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (3, 2)]
    metric = Metric.kronecker([np.array([1.0, 4.0, 9.0]), np.array([1.0, 100.0])], bases, 0.5)
    ball, y = L2Ball(1.0, (3, 2)), 2 * rng.normal(size=(3, 2))
    z = ball.project(y, metric)
    assert np.sum(z * z) == pytest.approx(1.0, abs=8 * 6 * 2.0**-53)
    assert gap(ball, y, metric, z) <= 64 * 6 * 2.0**-53


def test_directions_without_weight_give_way():
    ball = L2Ball(1.0, (2,))
    none = ball.project(np.array([0.8, 0.9]), Metric.diagonal(np.array([1.0, 0.0])))
    little = ball.project(np.array([0.8, 0.9]), Metric.diagonal(np.array([1.0, 1e-9])))
    assert none == pytest.approx([0.8, 0.6], abs=1e-15)
    assert little == pytest.approx(none, abs=1e-8)


def test_linear_oracles_and_diameters():
    c = np.array([1.0, -2.0])
    assert Box.symmetric((2,)).least(c) == -3.0
    assert L2Ball(2.0, (2,)).least(c) == pytest.approx(-2 * np.sqrt(5))
    assert Simplex(2).least(c) == -2.0
    box = Box(np.zeros(2), np.array([3.0, 4.0]))
    assert (box.diameter("l2"), box.diameter("linf")) == (5.0, 4.0)
    assert box.radius(np.array([0.0, 0.0])) == 5.0
    assert box.breadth(c) == 3 + 8 == -box.least(c) - box.least(-c)
    assert box.spread(c, np.zeros(2)) == 8.0
    assert Simplex(3).diameter("l2") == np.sqrt(2.0)
    with pytest.raises(HyperparameterError, match="comparator"):
        Everywhere((2,)).argmin(c)


def test_the_spectral_ball_is_minimised_by_the_singular_vectors():
    rng = np.random.default_rng(0)
    ball, c = SpectralBall(1.5, (4, 3)), rng.normal(size=(4, 3))
    u = ball.argmin(c)
    assert np.linalg.norm(u, 2) <= 1.5 * (1 + 1e-12)
    assert ball.least(c) == pytest.approx(-1.5 * np.linalg.norm(c, "nuc"), rel=1e-12)
    for _ in range(50):
        x = rng.normal(size=(4, 3))
        x *= 1.5 / np.linalg.norm(x, 2)
        assert np.sum(c * x) >= ball.least(c)
        assert np.linalg.norm(x) <= ball.radius(np.zeros((4, 3))) * (1 + 1e-12)


def test_a_polytope_is_certified_by_its_multipliers():
    rng = np.random.default_rng(1)
    rows, tops = rng.normal(size=(3, 4)), rng.uniform(0.1, 1.0, 3)
    polytope = Polytope(-np.ones(4), np.ones(4), rows, tops)
    for _ in range(10):
        c = rng.normal(size=4)
        u = polytope.argmin(c)
        assert np.all(rows @ u <= tops + 1e-9)
        assert polytope.gap(c, u) < 1e-9
        # Another member is not the minimum, and the certificate says by how much.
        assert polytope.gap(c, np.zeros(4)) == pytest.approx(-float(np.sum(c * u)), abs=1e-9)
    with pytest.raises(HyperparameterError, match="projection"):
        polytope.project(np.zeros(4))


def test_regret_against_a_polytope_is_an_interval():
    game = suites.halfspace(40)
    record = verify(get("ogd.const"), game, 40)
    assert record.verdict == HOLDS
    low, high = record.measured
    assert low <= high < low + 1e-9
    # The whole cube is a harder comparator than half of it.
    assert verify(get("ogd.const"), games.rademacher((3,)), 40).measured[0] >= low
