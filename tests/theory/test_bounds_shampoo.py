"""Shampoo: traces of roots, and the lemma in the Loewner order."""

from __future__ import annotations

import pytest

from memopt_ref.theory import games, suites, verify
from memopt_ref.theory.bounds import get, shampoo
from memopt_ref.theory.geometry import L2Ball
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, VACUOUS

BALLS = {shape: L2Ball(1.0, shape) for shape in ((4,), (3, 2), (2, 3, 2))}


@pytest.mark.parametrize("bound", shampoo.BOUNDS, ids=lambda b: b.id)
@pytest.mark.parametrize("shape", [(4,), (3, 2)])
def test_chains_hold(bound, shape):
    for game in (games.rademacher(shape, domain=BALLS[shape]), games.bang_bang(shape, domain=BALLS[shape])):
        record = verify.verify(bound, game, 60)
        assert record.verdict in (HOLDS, VACUOUS), record.broken
        assert "Loewner" in [name for name, _, _ in record.checks]


def test_a_tensor_of_order_three():
    record = verify.verify(get("shampoo.tuned"), suites.small_tensor(), 40)
    assert record.verdict in (HOLDS, VACUOUS), record.broken


def test_a_fixed_direction_has_the_known_figures():
    record = verify.verify(get("shampoo.tuned"), games.fixed_direction(4, 3), 300)
    assert record.measured[0] == pytest.approx(23.476, abs=6e-4)
    assert record.value == pytest.approx(50.868, abs=6e-3)
    assert record.ratio == pytest.approx(0.462, abs=6e-4)


def test_the_rank_must_be_declared():
    game = games.sparse_iid(3, 2)
    assert verify.verify(get("shampoo.tuned"), game, 5).verdict == NOT_APPLICABLE


def test_the_lemma_fails_for_a_smaller_root():
    game = games.fixed_direction(4, 3)
    bound = get("shampoo.tuned")
    weak = bound.rule(game, 50).replace(exponent=-0.125)
    record = verify.verify(bound, game, 50, weak)
    assert any(text.startswith("Loewner") for text in record.broken)
    # The lemma's violation at eigenvalue t^(1/2) against t: close to the whole norm, relative to which it is
    # measured as (t^(1/2) - t) / t^(1/2).
    assert {name: worst for name, worst, _ in record.checks}["Loewner"] > 1
