"""AMSGrad's bounds, two false forms, and Adam."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memopt_ref.rules.adam import Adam
from memopt_ref.rules.amsgrad import AMSGrad
from memopt_ref.schedules import InverseSqrt
from memopt_ref.theory import games
from memopt_ref.theory.bounds import amsgrad, get
from memopt_ref.theory.play import Game
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, TIGHT, UNPROVEN, VACUOUS, VIOLATED, verify


def random_game(seed):
    rng = np.random.default_rng(seed)
    drift, flip = rng.normal(size=2), rng.random() < 0.5

    def begin(T):
        noise = rng.normal(size=(T, 2))
        return lambda t, x: noise[t - 1] + drift + (3 * games.against_sign(x) if flip else 0)

    base = games.rademacher((2,))
    return Game(f"random {seed}", base.domain, base.x1, begin)


def test_constant_beta_holds_over_many_settings():
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        beta2 = float(rng.choice([0.1, 0.5, 0.9, 0.99, 0.999]))
        beta1 = float(rng.uniform(0, 0.97) * math.sqrt(beta2))
        bound = amsgrad.ConstantBeta(alpha=float(10 ** rng.uniform(-2, 1)), beta1=beta1, beta2=beta2)
        record = verify(bound, random_game(seed), 60)
        assert record.verdict in (HOLDS, TIGHT, VACUOUS), (bound, record.broken)
        worst = max(worst, record.ratio)
    assert worst > 0.2


def test_the_closed_form_is_not_vacuous_where_theorem_4_is():
    game = games.bang_bang()
    sharp = amsgrad.ConstantBeta(alpha=1.0, beta1=0.9, beta2=0.99)
    record = verify(sharp, game, 1000)
    old = amsgrad.Theorem4(alpha=1.0, beta1=0.9, beta2=0.99, decay=1.0)
    assert record.value == pytest.approx(2614, rel=1e-3)
    assert verify(old, game, 200).value > 10 * record.value
    assert record.verdict == VACUOUS
    assert verify(sharp, game, 2500).verdict == HOLDS


def test_bang_bang_has_the_known_ratios():
    options = {"alpha": 2.0, "beta1": 0.0, "beta2": 0.99}
    closed = verify(amsgrad.ConstantBeta(**options), games.bang_bang(), 1000)
    theorem = verify(amsgrad.Theorem4(**options), games.bang_bang(), 1000)
    b = dict(closed.links)["B"]
    found = [closed.measured[0] / b, closed.ratio, theorem.ratio]
    assert found == pytest.approx([0.605, 0.086, 0.043], abs=6e-4)


def test_adam_on_reddis_game():
    bound = amsgrad.ConstantBeta(alpha=0.5, beta1=0.0, beta2=0.1)
    adam = Adam(learning_rate=InverseSqrt(0.5), beta1=0.0, beta2=0.1, eps=0.0, bias_correction="none")
    short = verify(bound, games.reddi3(), 300, adam)
    assert short.ratio == pytest.approx(0.906, abs=6e-4)
    assert short.verdict == UNPROVEN
    links = dict(short.links)
    assert links["A"] > links["B"]
    long = verify(bound, games.reddi3(), 3000, adam)
    assert long.ratio == pytest.approx(2.84, abs=6e-3)
    assert long.verdict == VIOLATED
    # Against level B with Adam's own second moment the figure is the published 2.35.
    right = verify(bound, games.reddi3(), 300)
    assert right.verdict == HOLDS
    assert right.measured[0] / dict(right.links)["B"] == pytest.approx(0.0741, abs=6e-4)


def test_momentum_is_an_identity_that_a_wrong_momentum_breaks():
    bound = amsgrad.ConstantBeta(alpha=1.0, beta1=0.5, beta2=0.9)
    game = games.rademacher((2,))
    assert verify(bound, game, 50).broken == []
    heavier = AMSGrad(learning_rate=InverseSqrt(1.0), beta1=0.6, beta2=0.9)
    record = verify(bound, game, 50, heavier)
    assert any(text.startswith("momentum") for text in record.broken)


def test_the_condition_on_the_betas_is_a_gate():
    bad = amsgrad.ConstantBeta(beta1=0.99, beta2=0.9)
    assert verify(bad, games.bang_bang(), 5).verdict == NOT_APPLICABLE


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_scheduled_betas_hold(decay):
    for seed in range(6):
        bound = amsgrad.Scheduled(alpha=0.3, beta1=0.9, beta2=0.999, decay=decay)
        assert verify(bound, random_game(seed), 80).verdict in (HOLDS, VACUOUS)


def test_theorem_4_without_alpha_is_false():
    record = verify(amsgrad.Theorem4WithoutAlpha(alpha=0.01), games.constant(), 1000)
    assert record.verdict == VIOLATED
    assert record.ratio == pytest.approx(4.18, abs=6e-3)
    true = amsgrad.Theorem4(alpha=0.01, beta1=0.0, beta2=0.9)
    assert verify(true, games.constant(), 1000).verdict in (HOLDS, VACUOUS)


def test_the_abel_step_of_the_published_proof_is_false():
    left, printed, corrected = amsgrad.abel()
    assert printed < left <= corrected
    assert verify(get("amsgrad.abel"), games.constant(), 16).verdict == VIOLATED


def test_adams_own_theorem_is_false():
    assert verify(get("adam.thm41"), games.reddi3(), 1500).verdict == VIOLATED
