"""Searches and witnesses."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from memopt_ref.errors import FileFormatError, HyperparameterError
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.amsgrad import AMSGrad
from memopt_ref.rules.ftrl import FTRLProximal
from memopt_ref.rules.sgd import SGD
from memopt_ref.schedules import InverseSqrt
from memopt_ref.theory import arenas, games, search
from memopt_ref.theory.bounds import all_bounds, get
from memopt_ref.theory.play import play
from memopt_ref.theory.search import exhaustive, game_value, hill
from memopt_ref.theory.verify import HOLDS, TIGHT, VACUOUS, VIOLATED, verify
from memopt_ref.theory.witness import Witness, replay, shorten


@pytest.mark.parametrize(
    "rule",
    [
        AdaGrad(learning_rate=math.sqrt(2)),
        SGD(learning_rate=InverseSqrt(1.0)),
        AMSGrad(learning_rate=InverseSqrt(0.7), beta1=0.5, beta2=0.9),
        FTRLProximal(learning_rate=1.0, beta=0.0),
    ],
    ids=lambda r: r.name,
)
@pytest.mark.parametrize("T", [2, 3, 7])
def test_shared_prefixes_find_what_playing_every_sequence_finds(rule, T):
    found = exhaustive(rule, T)
    every = [
        float(play(rule, games.sequence([float(s) for s in signs]), T).regret()[0])
        for signs in itertools.product([1, -1], repeat=T)
    ]
    assert found.regret == max(every)
    again = play(rule, games.sequence([float(s) for s in found.signs]), T)
    assert again.regret()[0] == found.regret


def test_blocks_do_not_change_the_result(monkeypatch):
    rule = AdaGrad(learning_rate=math.sqrt(2))
    whole = exhaustive(rule, 12)
    monkeypatch.setattr(search, "SHARED", 5)
    monkeypatch.setattr(search, "BLOCK", 3)
    assert exhaustive(rule, 12).regret == whole.regret


def test_all_signs_of_twenty_rounds():
    found = exhaustive(AdaGrad(learning_rate=math.sqrt(2)), 20)
    assert found.regret == pytest.approx(7.7463, abs=6e-5)
    assert found.regret / (2 * math.sqrt(2 * 20)) == pytest.approx(0.6124, abs=6e-5)
    assert found.regret > game_value(20)


def test_the_value_of_the_game():
    assert game_value(4) / 2 == 0.75
    assert game_value(16) / 4 == pytest.approx(0.7855, abs=6e-5)
    assert game_value(20) == pytest.approx(3.5239, abs=6e-5)
    mean = np.mean([abs(sum(s)) for s in itertools.product([1, -1], repeat=7)])
    assert game_value(7) == mean
    # No player is below the value: it is the mean over random signs for every player.
    for rule in (SGD(learning_rate=0.4), AdaGrad(learning_rate=1.0)):
        assert exhaustive(rule, 10).regret >= game_value(10)


def test_climbing_finds_what_signs_cannot_and_stays_below_the_bound():
    ratio, g = hill(get("adagrad.mirror"), 16, generations=150)
    signs = exhaustive(AdaGrad(learning_rate=math.sqrt(2)), 16).regret / (2 * math.sqrt(2 * 16))
    assert signs < ratio < 1
    assert hill(get("adagrad.mirror"), 16, generations=150)[0] == ratio
    assert play(search.player(get("adagrad.mirror"), 16), games.sequence(g), 16).regret()[0] == pytest.approx(
        ratio * 2 * math.sqrt(2 * np.sum(g**2)), rel=1e-12
    )


def test_climbing_breaks_a_doubled_step():
    ratio, g = hill(get("adagrad.mirror"), 32, factor=2.0, generations=300)
    assert ratio > 1
    witness = shorten(get("adagrad.mirror"), g, 2.0)
    assert max(len(s) for s in witness.gradients) <= 6
    assert replay(witness).violated


def test_climbing_attains_the_bound_of_gradient_descent():
    assert hill(get("ogd.tuned"), 9, generations=200)[0] == pytest.approx(1.0, abs=1e-3)


def test_signs_are_tried_on_an_interval_only():
    assert (
        search.all_signs(get("adagrad.mirror"), 8).regret
        == exhaustive(AdaGrad(learning_rate=2**0.5), 8).regret
    )
    with pytest.raises(HyperparameterError, match="on an interval"):
        search.all_signs(get("sm3.II"), 4)


ATTACKED = [b for b in all_bounds().values() if not arenas.why_not(b)]


def test_a_bound_has_an_arena_or_a_reason():
    for bound in all_bounds().values():
        assert bool(arenas.why_not(bound)) != (bound in ATTACKED)
    families = {b.family for b in ATTACKED}
    assert families >= {"ogd", "momentum", "adagrad", "ftrl", "sm3", "shampoo", "amsgrad", "adam"}
    assert families >= {"error_feedback", "microadam", "count_sketch", "experts"}
    assert all(len(reason) > 20 for reason in arenas.REASONS.values())


@pytest.mark.parametrize("bound", ATTACKED, ids=lambda b: b.id)
def test_every_arena_finds_a_witness_that_replays(bound):
    """What the search scored is what playing says, and a right theorem is not violated."""
    ratio, numbers = hill(bound, 4, generations=2, population=6)
    game, rule = arenas.arena(bound).game(numbers), search.player(bound, 4)
    record = verify(bound, game, 4, rule)
    assert record.ratio == pytest.approx(ratio, rel=1e-9, abs=1e-12)
    again = replay(shorten(bound, numbers))
    assert again.violated == (again.record.verdict == VIOLATED)
    assert again.record.verdict in (HOLDS, TIGHT, VACUOUS) or bound.known_false, again.record.broken
    assert again.kind == ("float64" if not arenas.arena(bound).exact else again.kind)
    assert float(again.ratio) == pytest.approx(shorten(bound, numbers).ratio, rel=1e-9, abs=1e-12)


def test_climbing_breaks_a_rule_without_feedback_in_the_plane():
    bound = get("error_feedback.none")
    ratio, numbers = hill(bound, 20, generations=20, population=16)
    assert ratio > 1
    witness = shorten(bound, numbers)
    again = replay(witness)
    assert (again.kind, again.violated) == ("50 digits", True)
    assert any(text.startswith("virtual iterate") for text in again.record.broken)
    assert witness.rounds == 20
    assert len(witness.gradients) == 40


def test_a_value_for_many_games_is_the_value_of_each():
    rng = np.random.default_rng(0)
    for bound in ATTACKED:
        place = arenas.arena(bound)
        sequences = place.limit(rng.uniform(-1, 1, (3, 6, *place.shape)))
        quick = bound.separately(place.game(sequences[0]), np.sum(sequences**2, axis=(1, 2)), 6)
        if quick is not None and place.separable:
            rule = search.player(bound, 6)
            slow = [search.ends(bound, rule, place.game(rows), 6)[1] for rows in sequences]
            np.testing.assert_allclose(quick, slow, rtol=1e-14)


def test_the_player_is_hidden_from_the_value():
    """A wrong accumulator must not certify itself: C is the same whoever plays."""
    rng = np.random.default_rng(1)
    for name in ("sm3.II", "adagrad.full", "amsgrad.constant", "count_sketch.adagrad", "shampoo.tuned"):
        bound = get(name)
        place = arenas.arena(bound)
        game = place.game(place.limit(rng.uniform(-1, 1, (7, *place.shape))))
        right, wrong = search.player(bound, 7), search.player(bound, 7, 3.0)
        assert search.ends(bound, right, game, 7)[1] == search.ends(bound, wrong, game, 7)[1]


def test_a_replay_in_fractions_is_exact():
    signs = ["1", "-1"] * 28 + ["1"] * 8
    found = replay(Witness("ogd.tuned", 1.0, tuple(signs), 1.0))
    assert (found.kind, found.regret, found.violated) == ("fractions", "8", False)
    longer = replay(Witness("ogd.tuned", 2.0, tuple(["1", "-1"] * 30 + ["1"] * 4), 1.25))
    assert (longer.regret, longer.violated) == ("10", True)
    assert longer.record.broken == ["B <= C: |g_t| <= G and the tuned rate"]


def test_a_replay_with_roots_has_fifty_digits():
    found = replay(Witness("adagrad.mirror", 2.0, tuple(map(str, games.W2)), 1.016))
    assert found.kind == "50 digits"
    assert found.violated
    assert found.ratio.startswith("1.016041873245375")
    assert len(found.ratio) > 45
    innocent = replay(Witness("adagrad.mirror", 1.0, tuple(map(str, games.W2)), 0.5))
    assert not innocent.violated
    assert innocent.ratio.startswith("0.511665838459513")
    assert innocent.record.broken == []


def test_witnesses_are_kept_in_files(tmp_path):
    witness = Witness("adagrad.mirror", 2.0, ("0.5", "-1"), 0.25, "hand")
    witness.save(tmp_path / "w.json")
    assert Witness.load(tmp_path / "w.json") == witness


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format="other"),
        lambda d: d.update(gradients=["2"]),
        lambda d: d.update(gradients=["x"]),
        lambda d: d.update(gradients=[]),
        lambda d: d.update(gradients=["NaN"]),
        lambda d: d.update(factor=-1),
        lambda d: d.pop("bound"),
        lambda d: d.update(bound="ogd.lstar"),
        lambda d: d.update(bound="point_queries.median"),
    ],
)
def test_a_damaged_witness_is_refused(tmp_path, damage):
    file = tmp_path / "w.json"
    Witness("adagrad.mirror", 2.0, ("0.5", "-1"), 0.25).save(file)
    fields = json.loads(file.read_text())
    damage(fields)
    file.write_text(json.dumps(fields))
    with pytest.raises(FileFormatError):
        Witness.load(file)
    with pytest.raises(FileFormatError):
        Witness.load(tmp_path / "none.json")
