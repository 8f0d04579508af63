"""Gradient descent: attained, and visible to 10 %."""

from __future__ import annotations

import math

import pytest

from memopt_ref.rules.sgd import SGD
from memopt_ref.theory import games
from memopt_ref.theory.bounds import get, ogd
from memopt_ref.theory.mutants import ratio_of_ogd
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, TIGHT, VIOLATED, verify


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_the_tuned_rate_attains_its_bound(k):
    T, m = 4**k, 2**k
    record = verify(get("ogd.tuned"), games.zigzag_run(T - m, m), T)
    assert record.verdict == TIGHT
    assert record.ratio == 1.0
    assert record.broken == []


@pytest.mark.parametrize("c", [0.25, 0.5, 2.0, 4.0])
def test_a_step_off_by_c_has_the_ratio_of_the_formula(c):
    m = round(8 / c)
    player = SGD(learning_rate=c / 8)
    record = verify(get("ogd.tuned"), games.zigzag_run(64 - m, m), 64, player)
    assert record.verdict == VIOLATED
    assert record.ratio == ratio_of_ogd(c)
    assert [text.partition(":")[0] for text in record.broken] == ["B <= C"]


def test_ten_percent_are_visible():
    record = verify(get("ogd.tuned"), games.zigzag_run(995, 29), 1024, SGD(learning_rate=1.1 / 32))
    assert record.verdict == VIOLATED
    assert record.ratio == pytest.approx(1.0041, abs=1e-4)


@pytest.mark.parametrize("bound", ogd.BOUNDS, ids=lambda b: b.id)
@pytest.mark.parametrize("name", ["rademacher", "orthogonal", "opposite_targets", "logistic", "absolute"])
def test_every_bound_holds_or_says_why_not(bound, name):
    record = verify(bound, games.BY_NAME[name](60), 60)
    assert record.verdict in (HOLDS, TIGHT, NOT_APPLICABLE), record.broken
    assert (record.verdict == NOT_APPLICABLE) == bool(record.reason)


def test_the_orthogonal_game_is_tight_for_the_tuned_rate():
    assert verify(get("ogd.tuned"), games.orthogonal(3), 256).verdict == TIGHT


def test_regret_does_not_grow_where_some_point_has_no_loss():
    regrets = [verify(get("ogd.lstar"), games.realizable(), T).measured[0] for T in (50, 400)]
    assert regrets[0] == pytest.approx(regrets[1], abs=1e-9)
    noisy = [verify(get("ogd.lstar"), games.realizable(noise=0.3), T).measured[0] for T in (50, 400)]
    assert noisy[1] > 1.5 * noisy[0]


def test_strongly_convex_losses_pay_for_the_growing_metric():
    good = verify(get("ogd.sc"), games.opposite_targets(), 400)
    assert good.verdict == HOLDS
    assert good.ratio < 0.4
    bad = verify(get("ogd.sc"), games.opposite_targets(), 400, SGD(learning_rate=0.5))
    assert bad.verdict == VIOLATED
    assert any(text.startswith("monotone") for text in bad.broken)


def test_a_gate_does_not_look_at_the_player():
    wild = SGD(learning_rate=100.0)
    assert verify(get("ogd.tuned"), games.bang_bang(), 50, wild).verdict == VIOLATED


def test_the_mutant_constants_fail_where_the_right_ones_hold():
    right = get("ogd.tuned")

    class Half(ogd.Tuned):
        id = "ogd.half"

        def chain(self, trace, u):
            links = super().chain(trace, u)
            return [*links[:-1], type(links[-1])("C", links[-1].value / 2, links[-1].lemma)]

    game = games.zigzag_run(12, 4)
    assert verify(right, game, 16).verdict == TIGHT
    assert verify(Half(), game, 16).verdict == VIOLATED
    assert math.isclose(verify(Half(), game, 16).ratio, 2.0)
