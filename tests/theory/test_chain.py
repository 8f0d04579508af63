"""The exact decomposition of regret, and what its parts notice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memopt_ref.parts.metric import Metric
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adagrad_forms import AdaGradNorm, FullMatrixAdaGrad
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.amsgrad import AMSGrad
from memopt_ref.rules.sgd import SGD
from memopt_ref.rules.shampoo import Shampoo
from memopt_ref.rules.sm3 import SM3
from memopt_ref.schedules import InverseSqrt
from memopt_ref.theory import games
from memopt_ref.theory.chain import Link, broken_links
from memopt_ref.theory.geometry import Box, Everywhere, L2Ball
from memopt_ref.theory.leaders import LeaderLedger
from memopt_ref.theory.ledger import Ledger, dense
from memopt_ref.theory.play import Game, play
from memopt_ref.theory.wrong_rules import LongAdaGrad


def ledgered(rule, game, T, **options):
    direction = "m_hat" if isinstance(rule, AMSGrad | Adam) else "g"
    ledger = Ledger(game.domain, game.comparators, direction)
    return play(rule, game, T, observers=[ledger], **options), ledger


RUNS = {
    "sgd": (SGD(learning_rate=InverseSqrt(1.0)), games.gaussian((3,))),
    "norm": (AdaGradNorm(learning_rate=1.0), games.gaussian((3,), domain=L2Ball(1.0, (3,)))),
    "adagrad": (AdaGrad(learning_rate=1.4), games.tiny_kick(20, 20, 2.0, 0.01)),
    "full": (FullMatrixAdaGrad(learning_rate=1.4), games.tiny_kick(20, 20, 1.5, 0.1)),
    "sm3": (SM3(learning_rate=2.0), games.sparse_iid(4, 3, 0.4)),
    "shampoo": (Shampoo(learning_rate=1.4), games.fixed_direction(4, 3)),
    "amsgrad": (AMSGrad(learning_rate=InverseSqrt(1.0), beta1=0.9, beta2=0.99), games.gaussian((3,))),
    "adam": (Adam(learning_rate=InverseSqrt(0.5), beta1=0.0, beta2=0.1, eps=0.0), games.reddi3()),
}


@pytest.mark.parametrize("norm", ["metric", "euclid"])
@pytest.mark.parametrize("name", RUNS)
def test_the_four_parts_sum_to_the_regret_of_any_play(name, norm):
    rule, game = RUNS[name]
    T = 40 if name in ("adagrad", "full") else 60
    trace, ledger = ledgered(rule, game, T, norm=norm)
    rng = np.random.default_rng(0)
    for u in [trace.hindsight().u, *rng.uniform(-1, 1, (5, *game.shape))]:
        # Nothing but rounding separates the two sides, right or wrong: T sums of the ledger's magnitudes.
        off = trace.linear_regret(u) - sum(ledger.parts(u).values())
        assert abs(off) <= trace.rounding(ledger.mass)


def test_an_unprojected_run_is_an_identity():
    game = Game(
        "free", Everywhere((3,)), np.zeros(3), games.gaussian((3,)).begin, against=Box.symmetric((3,))
    )
    trace, ledger = ledgered(AdaGrad(learning_rate=0.3), game, 100)
    u = trace.hindsight().u
    parts = ledger.parts(u)
    assert parts["contraction"] == parts["projection"] == 0
    assert trace.linear_regret(u) == pytest.approx(parts["A"], abs=trace.rounding(ledger.mass))


def test_the_table_of_the_decomposition():
    rule = AdaGrad(learning_rate=math.sqrt(2))
    game = games.tiny_kick(20, 20, 2.0, 0.01)
    for norm, regret, a, contraction, projection in (
        ("metric", 6.532, 8.804, -2.272, 0.0),
        ("euclid", 20.750, 7.668, -2.800, 15.882),
    ):
        trace, ledger = ledgered(rule, game, 40, norm=norm)
        u = trace.hindsight().u
        found = [float(trace.linear_regret(u)), *map(float, ledger.parts(u).values())]
        # The figures are rounded to three decimals.
        wanted = [regret, a, contraction, projection, 0.0]
        assert found == pytest.approx(wanted, abs=6e-4)
    trace, ledger = ledgered(Shampoo(learning_rate=math.sqrt(2)), games.fixed_direction(4, 3), 300)
    u = trace.hindsight().u
    found = [float(trace.linear_regret(u)), *map(float, ledger.parts(u).values())]
    assert found[:4] == pytest.approx([23.476, 23.829, -0.061, -0.293], abs=6e-4)


def test_a_euclidean_projection_is_reported_with_its_round():
    rule, game = RUNS["adagrad"]
    _, ledger = ledgered(rule, game, 40, norm="euclid")
    check = ledger.projected.check()
    assert not check.holds
    assert check.worst > 0.1
    assert ledgered(rule, game, 40)[1].projected.check().holds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_that_steps_too_far_is_caught_at_its_first_step(dtype):
    game = games.rademacher((4,), seed=5)
    _, right = ledgered(AdaGrad(learning_rate=1.0), game, 200, dtype=dtype)
    assert all(check.holds for check in right.checks())
    _, wrong = ledgered(LongAdaGrad(learning_rate=1.0), game, 200, dtype=dtype)
    assert wrong.honest.check().step == 1


def test_the_slack_of_a_float32_run_is_small_and_its_own():
    game = games.gaussian((3,), seed=1)
    _, ledger = ledgered(AdaGrad(learning_rate=1.4), game, 500, dtype="float32")
    _, finer = ledgered(AdaGrad(learning_rate=1.4), game, 500)
    assert 0 < ledger.slack < 1e-3
    assert finer.slack < 1e-8 * ledger.slack * 2**10


def test_a_metric_that_falls_is_noticed():
    _, adam = ledgered(*RUNS["adam"], 60)
    assert not adam.monotone.check().holds
    _, ams = ledgered(*RUNS["amsgrad"], 60)
    assert ams.monotone.check().holds


def test_level_b_pairs_a_scalar_metric_with_the_euclidean_diameter():
    T, d = 256, 3
    G = math.sqrt(d)
    game = games.rademacher((d,))
    trace, ledger = ledgered(SGD(learning_rate=game.domain.diameter("l2") / (G * math.sqrt(T))), game, T)
    D = game.domain.diameter("l2")
    paired = ledger.potential(D, "l2") + ledger.dual
    as_diagonal = float(np.sum(ledger.last.weights)) * D**2 / 2 + ledger.dual
    closed = D * G * math.sqrt(T)
    assert paired == pytest.approx(closed, abs=trace.rounding(ledger.mass))
    assert as_diagonal == pytest.approx(closed * (d + 1) / 2, abs=d * trace.rounding(ledger.mass))


def test_a_leader_that_is_none_breaks_stability():
    game = games.gaussian((2,), seed=2)
    ledger = LeaderLedger("iterate", game.x1)
    play(AdaGrad(learning_rate=1.0), game, 60, observers=[ledger])
    assert not ledger.stable.check().holds


def test_broken_links_name_their_lemma():
    links = [Link("R", 1.0, ""), Link("A", 2.0, "projection"), Link("B", 1.5, "monotone")]
    assert broken_links(links, 0.0) == ["A <= B: monotone"]
    assert broken_links(links, 0.5) == []
    assert broken_links([Link("R", 1.0, ""), Link("A", float("nan"), "x")], 0.0) == ["R <= A: x"]


def test_a_metric_as_a_matrix_is_what_it_multiplies_by():
    rng = np.random.default_rng(3)
    bases = [np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (3, 2)]
    metric = Metric.kronecker([np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0])], bases)
    x = rng.normal(size=(3, 2))
    assert dense(metric) @ x.ravel() == pytest.approx(metric.mul(x).ravel(), abs=1e-13)
    flat = Metric.diagonal(np.array([1.0, 2.0]))
    assert np.array_equal(dense(flat), np.diag([1.0, 2.0]))
