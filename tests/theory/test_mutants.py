"""Every wrong rule is caught, with its figure and by its link."""

from __future__ import annotations

import pytest

from memopt_ref.theory import mutants
from memopt_ref.theory.bounds import all_bounds
from memopt_ref.theory.verify import HOLDS, TIGHT, UNPROVEN, VIOLATED

TABLE = mutants.table()
#: Thousands of rounds: left to ``memopt verify mutate``. Their links are tested here.
LONG = {m.id for m in TABLE if m.T >= 3000}


@pytest.mark.parametrize("mutant", [m for m in TABLE if m.id not in LONG], ids=lambda m: m.id)
def test_the_ratio_kills(mutant):
    found = mutant.attack()
    if mutant.ratio is None:
        assert found.verdict == UNPROVEN
        return
    assert found.verdict == VIOLATED
    # Figures have four digits.
    assert found.ratio == pytest.approx(mutant.ratio, rel=1e-3)
    if mutant.correct is not None:
        right = mutant.innocent()
        assert right.verdict in (HOLDS, TIGHT), right.broken
        assert right.ratio == pytest.approx(mutant.correct, abs=1e-3)


@pytest.mark.parametrize("mutant", TABLE, ids=lambda m: m.id)
def test_its_link_breaks_on_a_dull_game(mutant):
    broken = mutant.on_dull().broken
    assert any(text.startswith(mutant.link) for text in broken), broken


def test_every_link_check_kills_something():
    links = {m.link.partition(":")[0] for m in TABLE}
    assert links >= {"B <= C", "below", "above", "projection", "monotone", "metric", "Loewner", "R_lin <= A"}
    assert links >= {"virtual iterate", "error", "contraction", "recursion", "Lyapunov"}


def test_names_are_unique_and_bounds_exist():
    assert len({m.id for m in TABLE}) == len(TABLE)
    known = all_bounds()
    assert all(m.bound.id in known for m in TABLE)


def test_random_signs_hide_most_mutants_from_the_ratio():
    hidden = [m for m in TABLE if m.dull is mutants.signs and m.id not in ("ogd x2",)]
    assert all(m.on_dull().ratio < 0.9 for m in hidden)
    assert len(hidden) >= 9
