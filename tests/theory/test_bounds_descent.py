"""EF21's theorems and the exact rates: never above, and attained."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memopt_ref.parts.compressors import TopK
from memopt_ref.theory import games, problems
from memopt_ref.theory.bounds import ef21, tight_rates
from memopt_ref.theory.bounds.ef21 import Constants, MeanGradient, PolyakLojasiewicz
from memopt_ref.theory.bounds.tight_rates import CompressedRate, EF21Rate, FeedbackRate, Rate, attaining
from memopt_ref.theory.problems import Turn
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, TIGHT, UNPROVEN, VIOLATED, verify
from memopt_ref.theory.wrong_rules import ForgetfulEF21

KINDS = [FeedbackRate, EF21Rate, CompressedRate]
# eps = s^2, mu, eta, rho for L = 1: six digits.
VALUES = [
    (0.01, 0.1, 1.487603, 0.728505),
    (0.25, 0.1, 0.606061, 0.884808),
    (0.5, 0.1, 0.311951, 0.939368),
    (0.9, 0.1, 0.047880, 0.990469),
    (0.5, 0.5, 0.228764, 0.794109),
    (0.5, 0.01, 0.339748, 0.993226),
]


@pytest.mark.parametrize(("eps", "mu", "eta", "rho"), VALUES)
def test_the_rates_have_the_known_figures(eps, mu, eta, rho):
    rate = Rate(math.sqrt(eps), 1.0, mu)
    assert rate.eta == pytest.approx(eta, abs=5e-7)
    assert rate.rho == pytest.approx(rho, abs=5e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("eps", "mu"), [v[:2] for v in VALUES])
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0, 3.0])
def test_every_rate_is_attained_and_never_exceeded(kind, eps, mu, angle):
    bound = kind(compressor=Turn(math.sqrt(eps), angle))
    record = verify(bound, attaining(bound, 1.0, mu), 6)
    assert record.verdict == TIGHT, record.broken
    # Eigenvectors of small matrices: a hundred ulp.
    assert record.ratio == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_no_start_and_no_rotation_exceeds_a_rate(kind):
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(40):
        bound = kind(compressor=Turn(0.5, float(rng.uniform(0, 7))))
        start = {} if kind is CompressedRate else {"e" if kind is FeedbackRate else "d": rng.normal(size=2)}
        record = verify(bound, problems.quadratic([0.1, 1.0], rng.normal(size=2), start), 8)
        assert record.verdict in (HOLDS, TIGHT), record.broken
        worst = max(worst, record.ratio)
    assert worst > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_step_that_is_off_exceeds_the_rate_somewhere(kind, factor):
    verdicts = []
    for angle in (0.4, 2.0):
        for s, mu in ((0.1, 0.1), (0.95, 0.1)):
            bound = kind(compressor=Turn(s, angle))
            game = attaining(bound, 1.0, mu)
            rule = bound.rule(game, 6)
            wrong = rule.replace(learning_rate=factor * rule.learning_rate)
            verdicts.append(verify(bound, game, 6, wrong).verdict)
    assert VIOLATED in verdicts


def test_compressed_descent_alone_is_faster():
    for eps, mu, _, rho in VALUES:
        bound = CompressedRate(compressor=Turn(math.sqrt(eps), 1.0))
        assert bound.claim_of(problems.quadratic([mu, 1.0])) < rho


@pytest.mark.parametrize("k", [1, 5, 10])
def test_ef21_holds_in_the_mean_and_at_every_step(k):
    game = problems.quadratic(np.linspace(0.1, 1.0, 20))
    for kind in (MeanGradient, PolyakLojasiewicz):
        record = verify(kind(compressor=TopK(k=k)), game, 200)
        assert record.verdict == HOLDS, record.broken
        assert verify(kind(compressor=TopK(k=k)), game, 50, dtype="float32").verdict == HOLDS


def test_the_mean_gradient_needs_no_convexity():
    quiet = problems.bumps(noise=0.0)
    assert verify(MeanGradient(), quiet, 300).verdict == HOLDS
    assert verify(MeanGradient(), problems.bumps(), 300).verdict == NOT_APPLICABLE
    assert verify(PolyakLojasiewicz(), quiet, 300).verdict == NOT_APPLICABLE


def test_a_direction_that_forgets_breaks_the_recursion():
    bound, game = PolyakLojasiewicz(), problems.quadratic(np.linspace(0.1, 1.0, 12))
    rule = bound.rule(game, 100)
    wrong = ForgetfulEF21(learning_rate=rule.learning_rate, compressor=rule.compressor)
    record = verify(bound, game, 100, wrong)
    assert record.verdict in (UNPROVEN, VIOLATED)
    assert any(text.startswith("recursion") for text in record.broken)


def test_a_step_twenty_times_too_long_breaks_the_lyapunov_function():
    bound, game = PolyakLojasiewicz(), problems.quadratic(np.linspace(0.1, 1.0, 12))
    rule = bound.rule(game, 120)
    record = verify(bound, game, 120, rule.replace(learning_rate=20 * rule.learning_rate))
    assert record.verdict == VIOLATED
    assert any(text.startswith("Lyapunov") for text in record.broken)


def test_the_constants_are_consistent():
    for alpha in (0.05, 0.5, 1.0):
        of = Constants(alpha)
        assert of.root == pytest.approx((1 + math.sqrt(1 - alpha)) / alpha - 1)
    assert Constants(1.0).beta == 0.0


def test_what_is_no_problem_is_not_applicable():
    for bound in (*ef21.BOUNDS, *tight_rates.BOUNDS):
        assert verify(bound, games.opposite_targets(), 10).verdict == NOT_APPLICABLE
    assert "round" in FeedbackRate().gate(problems.quadratic([0.1, 1.0]), 1)
    assert "odd" in FeedbackRate().gate(problems.quadratic([0.1, 0.5, 1.0]), 5)
