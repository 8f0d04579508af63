"""Verdicts and their order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.sgd import SGD
from memopt_ref.theory import games, suites
from memopt_ref.theory.bounds import adagrad, all_bounds, get
from memopt_ref.theory.geometry import Everywhere
from memopt_ref.theory.play import Game, play
from memopt_ref.theory.players import FollowTheLeader
from memopt_ref.theory.verify import (
    HOLDS,
    NOT_APPLICABLE,
    TIGHT,
    UNPROVEN,
    VACUOUS,
    VERDICTS,
    VIOLATED,
    judge,
    verify,
)


def test_an_assumption_that_is_not_met_comes_first():
    free = Game("free", Everywhere((1,)), np.zeros(1), games.bang_bang().begin, games.bang_bang().domain)
    record = verify(get("adagrad.mirror"), free, 10, SGD(learning_rate=1e6))
    assert record.verdict == NOT_APPLICABLE
    assert "diameter" in record.reason


def test_a_violation_comes_before_a_broken_link():
    game, T = games.sequence([1.0, -1.0] * 30 + [1.0] * 4), 64
    record = verify(get("ogd.tuned"), game, T, SGD(learning_rate=0.25))
    assert record.broken
    assert record.verdict == VIOLATED


def test_a_broken_link_comes_before_a_vacuous_bound():
    bound, game = get("adagrad.mirror"), games.bang_bang()
    assert verify(bound, game, 2).verdict == VACUOUS
    rule = bound.rule(game, 2)
    assert verify(bound, game, 2, rule.replace(learning_rate=50.0)).verdict == UNPROVEN


def test_tight_is_99_percent():
    bound = get("ogd.tuned")
    assert verify(bound, games.zigzag_run(12, 4), 16).verdict == TIGHT
    # A run of two: 2 + 16 / 8 - 4 / 8 = 3.5, of 4.
    short = verify(bound, games.zigzag_run(14, 2), 16)
    assert short.ratio == 3.5 / 4
    assert short.verdict == HOLDS
    assert set(VERDICTS) >= {TIGHT, HOLDS}


def test_a_player_without_a_metric_is_judged_by_its_endpoints():
    game = games.leader_trap()
    for name in ("adagrad.mirror", "ftrl.proximal", "ogd.adanorm", "adagrad.dual", "amsgrad.constant"):
        record = verify(get(name), game, 800, FollowTheLeader(game.domain))
        assert record.reason == "a black box: endpoints only"
        assert [link for link, _ in record.links] in (["R_lin", "C"], ["R_lin", "C", "paper"])
        assert np.isfinite(record.slack)
        assert record.measured[0] == pytest.approx(799.5)
        if name != "amsgrad.constant":
            assert record.verdict == VIOLATED


def test_regret_against_any_other_comparator_is_smaller_and_bounded():
    game, T = games.gaussian((2,), seed=4), 60
    bound = adagrad.DualAveraging(delta=50.0, eta=1.0)
    declared = dataclasses.replace(game, G_inf=50.0)
    trace = play(bound.rule(declared, T), declared, T, observers=bound.observers(declared, T))
    best = judge(bound, trace)
    rng = np.random.default_rng(0)
    for u in rng.uniform(-1, 1, (50, 2)):
        links = {link.name: link.value for link in bound.chain(trace, u)}
        assert links["R_lin"] <= best.measured[0]
        assert links["R_lin"] <= links["A"] <= links["B"] <= links["C"] <= links["paper"]


def test_a_record_is_plain_data():
    record = verify(get("sm3.II"), games.sparse_iid(3, 2), 20)
    fields = record.to_dict()
    assert fields["ok"] is True
    assert all(not isinstance(value, np.ndarray) for value in fields.values())
    assert type(fields["ratio"]) is float


def test_every_bound_plays_the_rule_it_names():
    for bound in all_bounds().values():
        made = {"experts": games.heaviest(), "shampoo": games.fixed_direction(3, 2)}
        game = made.get(bound.family, games.opposite_targets())
        if not bound.gate(game, 8):
            rule = bound.rule(game, 8)
            assert verify(bound, game, 8).player == rule.name


def test_entries_say_what_they_expect():
    assert all(entry.expected for entry in suites.full())
    assert all(VIOLATED in e.expected for e in suites.known_false())
    assert AdaGrad().name == "AdaGrad"
