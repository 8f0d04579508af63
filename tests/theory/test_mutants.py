"""Every wrong rule is caught, with its figure and by its link."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from memopt_ref.theory import mutants
from memopt_ref.theory.bounds import all_bounds
from memopt_ref.theory.report_sheets import link_name
from memopt_ref.theory.verify import HOLDS, TIGHT, UNPROVEN, VIOLATED

TABLE = mutants.table()
#: Thousands of rounds: left to ``memopt verify mutate``. Their links are tested here.
LONG = {m.id for m in TABLE if m.T >= 3000}


#: Mutants compare by identity, so each is played once.
attacked, dull = cache(mutants.Mutant.attack), cache(mutants.Mutant.on_dull)


@pytest.mark.parametrize("mutant", [m for m in TABLE if m.id not in LONG], ids=lambda m: m.id)
def test_the_ratio_kills(mutant):
    found = attacked(mutant)
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
    broken = dull(mutant).broken
    assert any(text.startswith(mutant.link) for text in broken), broken


def test_every_check_kills_something(core):
    """What no play can break is listed with its reason; a statement that is false breaks links too."""
    plays = [dull(m) for m in TABLE] + [attacked(m) for m in TABLE if m.id not in LONG]
    killed = {link_name(text) for record in plays for text in record.broken}
    killed |= {link_name(text) for record in core for text in record.broken}
    seen = set()
    for record in core:
        names = [name for name, _ in record.links]
        seen |= {f"{before} <= {after}" for before, after in pairwise(names)}
        seen |= {name for name, _, _ in record.checks}
    assert seen - killed - set(mutants.FORMULAS) == set()
    assert not killed & set(mutants.FORMULAS)
    assert set(mutants.FORMULAS) <= seen


def test_names_are_unique_and_bounds_exist():
    assert len({m.id for m in TABLE}) == len(TABLE)
    known = all_bounds()
    assert all(m.bound.id in known for m in TABLE)


def test_random_signs_hide_most_mutants_from_the_ratio():
    hidden = [m for m in TABLE if m.dull is mutants.signs and m.id not in ("ogd x2",)]
    assert all(dull(m).ratio < 0.9 for m in hidden)
    assert len(hidden) >= 9
