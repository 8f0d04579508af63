"""SM3: the certificate, both sides of nu, and the paper's constant."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.covers import AxisCover, HashCover, IndexCover
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.sm3 import SM3
from memopt_ref.theory import games
from memopt_ref.theory.bounds import get, sm3
from memopt_ref.theory.play import play
from memopt_ref.theory.verify import HOLDS, UNPROVEN, VACUOUS, verify

COVERS = [
    AxisCover(),
    IndexCover(((0, 1, 2, 3), (2, 3, 4, 5), (6, 7, 8, 9, 10, 11), (0, 11))),
    HashCover(2, 5),
]


@pytest.mark.parametrize("bound", [sm3.SM3I, sm3.SM3II, sm3.SM3IEta, sm3.SM3IIEta])
@pytest.mark.parametrize("cover", COVERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_chains_hold_over_any_cover(bound, cover, dtype):
    for game in (games.sparse_iid(4, 3, 0.3), games.bang_bang((4, 3))):
        record = verify(bound(cover=cover), game, 60, dtype=dtype)
        assert record.verdict in (HOLDS, VACUOUS), record.broken
        names = [name for name, _ in record.links]
        assert names == ["R_lin", "A", "B", "certificate", "C", "paper"]


@pytest.mark.parametrize("cover", COVERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("variant", ["I", "II"])
def test_the_estimates_from_gradients_equal_the_rules_to_the_last_bit(cover, variant):
    rng = np.random.default_rng(0)
    rule, w = SM3(variant=variant, cover=cover), np.zeros((4, 3))
    state, sums = rule.init_leaf(w), sm3.CoverSums(cover, (4, 3))
    for _ in range(40):
        g = rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-3, 4, (4, 3))
        values = rule.values(w, g, state)
        state = {name: values[name] for name in state}
        sums.add(g)
        assert np.array_equal(sums.nu[variant], values["nu"])


def test_one_hot_entry_costs_what_adagrad_pays():
    record = verify(get("sm3.I"), games.single_hot(20, 20), 100)
    assert record.measured[0] == pytest.approx(18.14, abs=6e-3)
    assert record.value == pytest.approx(30.0)
    same = play(AdaGrad(learning_rate=2.0), games.single_hot(20, 20), 100)
    assert same.regret()[0] == record.measured[0]


def test_a_false_accumulator_cannot_certify_itself():
    class Tiny(SM3):
        def sm3_ii(self, g, mu):
            nu, mu = super().sm3_ii(g, mu)
            return nu / 4, mu

    game = games.sparse_iid(4, 3, 0.3)
    bound = get("sm3.II")
    record = verify(bound, game, 60, Tiny(learning_rate=2.0))
    assert record.verdict == UNPROVEN
    assert record.value == verify(bound, game, 60).value
    assert any(text.startswith("below (round 1)") for text in record.broken)


def test_a_good_cover_costs_nothing():
    fit = verify(get("sm3.II"), games.row_active(5, 4), 100)
    miss = verify(get("sm3.II"), games.sparse_iid(5, 4, 0.2), 100)
    for record, limit in ((fit, 1.0), (miss, 1.2)):
        links = dict(record.links)
        ratio = links["C"] / (1.5 * 2 * _adagrad_root(record))
        assert (ratio == pytest.approx(1.0, abs=1e-12)) if limit == 1.0 else (ratio > limit)


def _adagrad_root(record):
    game = games.row_active(5, 4) if record.game.startswith("row") else games.sparse_iid(5, 4, 0.2)
    return float(np.sum(np.sqrt(play(SM3(learning_rate=2.0), game, record.T).gamma)))
