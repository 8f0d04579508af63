"""Count-min AdaGrad: a certificate for every hash."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.fixed_hashes import TableHash
from memopt_ref.theory import games
from memopt_ref.theory.bounds import get
from memopt_ref.theory.bounds.count_sketch import CountMinAdaGrad
from memopt_ref.theory.verify import HOLDS, UNPROVEN, VACUOUS, verify


@pytest.mark.parametrize("conservative", [False, True])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_chains_hold_for_every_hash(conservative, seed, dtype):
    bound = CountMinAdaGrad(depth=1 + seed % 3, width=3, hash_seed=seed, conservative=conservative)
    for game in (games.sparse_iid(7, 2, 0.3, seed), games.power_law(9)):
        record = verify(bound, game, 40, dtype=dtype)
        assert record.verdict in (HOLDS, VACUOUS), record.broken
        names = [name for name, _ in record.links]
        assert names == ["R_lin", "A", "B", "certificate", "C"]


def test_without_collisions_it_is_adagrad():
    game = games.gaussian((6,), seed=1)
    identity = CountMinAdaGrad(depth=1, width=6)
    rule = identity.rule(game, 60).replace(hash=TableHash.identity(6))
    dense = verify(get("adagrad.mirror"), game, 60)
    assert verify(identity, game, 60, rule).measured == dense.measured


def test_the_median_of_signed_counters_has_no_certificate():
    bound, game = CountMinAdaGrad(depth=3, width=2), games.gaussian((6,), seed=2)
    assert verify(bound, game, 60).verdict in (HOLDS, VACUOUS)
    signs = np.random.default_rng(1).integers(0, 2, (3, 6)) * 2 - 1
    signed = TableHash(bound.buckets(game), signs)
    record = verify(bound, game, 60, bound.rule(game, 60).replace(combine="median", hash=signed))
    assert record.verdict == UNPROVEN
    assert any(text.startswith("below") for text in record.broken)


def test_cleaning_breaks_monotonicity():
    bound, game = CountMinAdaGrad(depth=1, width=2), games.gaussian((4,), seed=2)
    record = verify(bound, game, 60, bound.rule(game, 60).replace(clean_every=10))
    assert any(text.startswith("monotone (round 10)") for text in record.broken)


def test_one_bucket_for_two_rows_has_the_known_figures():
    record = verify(CountMinAdaGrad(depth=1, width=1), games.bang_bang((2,)), 1000)
    assert record.measured[0] == pytest.approx(62.4, abs=0.06)
