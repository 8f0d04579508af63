"""Plays: closed forms, projections, long runs, exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.amsgrad import AMSGrad
from memopt_ref.rules.ftrl import FTRLProximal
from memopt_ref.rules.sgd import SGD
from memopt_ref.schedules import Exponential, InverseSqrt
from memopt_ref.theory import exact, games
from memopt_ref.theory.geometry import Box
from memopt_ref.theory.ledger import Ledger
from memopt_ref.theory.play import Game, play


@pytest.mark.parametrize(
    ("n", "m", "denominator"), [(56, 8, 8), (60, 4, 4), (48, 16, 16), (14, 2, 8), (30, 3, 8)]
)
def test_zigzag_run_has_its_closed_form_in_fractions(n, m, denominator):
    game = games.zigzag_run(n, m)
    g = exact.array([Fraction(v) for v in [1, -1] * (n // 2) + [1] * m], Fraction).reshape(-1, 1)
    box = Box(exact.array(["-1"], Fraction), exact.array(["1"], Fraction))
    fair = Game("exact", box, exact.array(["0"], Fraction), lambda T: lambda t, x: g[t - 1])
    trace = play(SGD(learning_rate=1 / denominator), fair, n + m, dtype=object)
    eta = Fraction(1, denominator)
    closed = m + eta * (n + m) / 2 - eta * m * m / 2
    assert trace.regret()[0].value == closed
    printed = m + eta * n / 2 - eta * m * m / 2
    assert closed - printed == eta * m / 2
    # Every number here is dyadic, so that floats are exact too.
    assert play(SGD(learning_rate=1 / denominator), game, n + m).regret()[0] == float(closed)


def test_the_regret_of_the_tuned_step_is_eight():
    trace = play(SGD(learning_rate=0.125), games.zigzag_run(56, 8), 64)
    assert trace.regret() == (8.0, 8.0)


def test_example_of_tran_and_phong():
    rule = AMSGrad(learning_rate=InverseSqrt(0.001), beta1=Exponential(0.9, 0.001), beta2=0.999)
    trace = play(rule, games.reddi101(x1=1.0), 2)
    assert [round(float(x[0]), 6) for x in trace.x] == [1.0, 0.996838, 0.997057]


def test_a_leader_that_is_projected_minimises_its_objective():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(12, 1))
    alpha = 0.7
    trace = play(FTRLProximal(learning_rate=alpha, beta=0.0), games.sequence(g), 12)
    grid = np.linspace(-1, 1, 4001)
    n, total, objective = 0.0, 0.0, np.zeros_like(grid)
    for t in range(12):
        sigma = (np.sqrt(n + g[t, 0] ** 2) - np.sqrt(n)) / alpha
        n, total = n + g[t, 0] ** 2, total + g[t, 0]
        objective = objective + g[t, 0] * grid + sigma / 2 * (grid - trace.x[t][0]) ** 2
        # The nearest grid point to the minimiser is within half a spacing.
        assert abs(grid[np.argmin(objective)] - trace.x[t + 1][0]) <= 0.00025 + 1e-12


def test_long_runs_keep_sums_and_nothing_else():
    game, observers = games.gaussian((3,)), lambda: [Ledger(game.domain, game.comparators)]
    whole = play(AdaGrad(), game, 200, observers=observers())
    lean = play(AdaGrad(), game, 200, observers=observers(), keep=False)
    assert lean.x is None
    assert lean.g is None
    assert lean.regret() == whole.regret()
    u = whole.hindsight().u
    assert lean.observers["Ledger"].parts(u) == whole.observers["Ledger"].parts(u)


def test_a_game_that_breaks_its_word_is_caught():
    honest = games.bang_bang()
    liar = Game("liar", honest.domain, honest.x1, honest.begin, G=0.5)
    with pytest.raises(AssertionError, match="liar"):
        play(SGD(), liar, 3)


def test_every_named_game_starts():
    for name, make in games.BY_NAME.items():
        game = make(16)
        trace = play(SGD(learning_rate=0.01), game, 16, norm="euclid")
        low, high = trace.regret()
        assert low <= high, name


def test_games_are_the_same_every_time():
    for make in (games.rademacher, games.gaussian, games.sparse_iid, games.row_active):
        one, two = (make((2,)) if make in (games.rademacher, games.gaussian) else make(3, 2) for _ in "ab")
        first, second = (play(AdaGrad(), game, 20).S for game in (one, two))
        assert np.array_equal(first, second)


def test_the_orthogonal_game_forces_its_value_on_any_player():
    for rule in (SGD(learning_rate=0.05), SGD(learning_rate=0.5), AdaGrad()):
        low, _ = play(rule, games.orthogonal(3), 100).regret()
        # Each g has norm 1 to a few ulp and is orthogonal to them.
        assert low == pytest.approx(10.0, abs=100 * 16 * 2.0**-53)


def test_roots_of_fractions_are_exact_or_refused():
    assert exact.Exact(Fraction(9, 16)).sqrt() == Fraction(3, 4)
    with pytest.raises(ArithmeticError, match="irrational"):
        exact.Exact(Fraction(2)).sqrt()
    one = exact.array([0.1], Fraction)[0]
    assert one.value == Fraction(0.1)
    assert one * 10 > 1 > 2 - one * 10 - 1
