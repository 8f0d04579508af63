"""Statements over all hashes, signs or sequences: exact, so an error of one part is an error."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from memopt_ref.parts.fixed_hashes import TableHash
from memopt_ref.theory import games, problems
from memopt_ref.theory.bounds import get, online_to_batch
from memopt_ref.theory.bounds.count_sketch import LemmaB2, OneStep, loads, table_hash
from memopt_ref.theory.bounds.online_to_batch import Ahead, InMean, LastIterate, Tail
from memopt_ref.theory.bounds.point_queries import MedianTail, MinQuery, OneHeavy, OneHeavyMin, Query, tail
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, TIGHT, UNPROVEN, VIOLATED, verify

ONE = games.constant()


def test_one_row_is_unbiased_with_the_variance_of_its_pairs():
    _, second = Query().moments()
    assert second == [Fraction(5, 2), Fraction(13, 2), Fraction(5)]
    assert verify(Query(), ONE, 1).verdict == TIGHT
    assert verify(MinQuery(), ONE, 1).verdict == TIGHT


def test_without_signs_a_count_sketch_is_biased_and_with_a_minimum_it_underestimates():
    @dataclass(frozen=True, kw_only=True)
    class Signless(Query):
        def errors(self):
            return MinQuery().errors()

    @dataclass(frozen=True, kw_only=True)
    class Signed(MinQuery):
        def errors(self):
            return Query().errors()

    assert verify(Signless(), ONE, 1).verdict in (UNPROVEN, VIOLATED)
    broken = verify(Signless(), ONE, 1).broken
    assert any(text.startswith("unbiased") for text in broken)
    assert any(text.startswith("below") for text in verify(Signed(), ONE, 1).broken)


@pytest.mark.parametrize(
    ("depth", "width", "probability"), [(1, 4, 0.25), (3, 4, 0.0859375), (3, 3, 4 / 27), (1, 16, 0.0625)]
)
def test_one_heavy_item_is_taken_for_another_as_often_as_the_formula_says(depth, width, probability):
    bound = OneHeavy(depth=depth, width=width)
    assert float(bound.formula()[0]) == pytest.approx(probability)
    assert bound.hits() == bound.formula()[0]
    assert OneHeavyMin(depth=depth, width=width).hits() == Fraction(1, width**depth)


def test_the_binomial_tails_are_the_known_ones():
    third = Fraction(1, 3)
    assert [float(tail(v, third)) for v in (1, 3, 5)] == pytest.approx([0.33333, 0.25926, 0.20988], abs=1e-5)
    record = verify(MedianTail(), ONE, 1)
    assert record.verdict == HOLDS
    assert 0 < record.measured[0] < record.value


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (1, 4), (2, 3), (3, 4), (1, 6)])
@pytest.mark.parametrize("seed", range(2))
def test_the_step_inequality_holds_for_every_hash(depth, width, seed):
    bound = OneStep(depth=depth, width=width, hash_seed=seed)
    record = verify(bound, problems.cosh_wells(6, 0.3, seed), 25)
    assert record.verdict == HOLDS, record.broken
    assert [name for name, _, _ in record.checks] == ["below", "above", "step"]


@pytest.mark.parametrize(
    ("change", "link"),
    [
        ({"decay": "lazy"}, "below"),
        ({"clean_every": 10}, "below (round 10)"),
        ({"learning_rate": 1.0}, "step"),
    ],
)
def test_what_the_step_inequality_needs(change, link):
    bound, game = OneStep(), problems.cosh_wells()
    record = verify(bound, game, 40, bound.rule(game, 40).replace(**change))
    assert record.verdict == UNPROVEN
    assert any(text.startswith(link) for text in record.broken), record.broken


def test_signed_counters_break_both_lemmas():
    bound, game = OneStep(), problems.cosh_wells()
    signs = np.random.default_rng(3).integers(0, 2, (2, 6)) * 2 - 1
    signed = TableHash(table_hash(2, 3, 6, 0), signs)
    record = verify(bound, game, 20, bound.rule(game, 20).replace(combine="median", hash=signed))
    names = {text.partition(" ")[0] for text in record.broken}
    assert {"below", "above"} <= names


def test_the_gate_asks_for_the_declared_conditions():
    assert verify(OneStep(beta=0.9), problems.cosh_wells(), 5).verdict == NOT_APPLICABLE
    assert verify(OneStep(), games.rademacher((6,)), 5).verdict == NOT_APPLICABLE


def test_kappa_and_nbar_bound_what_shares_a_bucket():
    rng = np.random.default_rng(0)
    assert loads(np.array([[0, 0, 0], [0, 1, 1]])) == (2, 4)
    for depth in (1, 2, 3):
        buckets, square = rng.integers(0, 3, (depth, 7)), rng.random(7)
        nbar, kappa = loads(buckets)
        others = np.stack([row[:, None] == row[None, :] for row in buckets]) & ~np.eye(7, dtype=bool)
        # Any row may have given an item's minimum: the worst choice for each item.
        assert np.max(others @ square, axis=0).sum() <= kappa * square.sum() + 1e-12
        assert np.min((others @ np.ones(7)).astype(int) + 1, axis=0).max() == nbar


@pytest.mark.parametrize(("depth", "verdict"), [(3, HOLDS), (5, VIOLATED), (7, VIOLATED)])
def test_lemma_b2_fails_more_often_than_it_claims(depth, verdict):
    record = verify(LemmaB2(depth=depth), problems.three_heavy(), 100)
    assert record.verdict == verdict
    # One row can only grow by what falls into it: the first claim is Markov's inequality.
    assert record.ratio < 0.6 or depth > 3


def test_the_claimed_size_of_v_is_below_v():
    record = verify(get("count_sketch.size"), games.constant(1.0, (2,)), 50)
    assert record.verdict == VIOLATED
    assert record.ratio > 10


@pytest.mark.parametrize("T", [2, 6, 10])
@pytest.mark.parametrize("p", [0.5, 0.7, 0.9])
def test_regret_becomes_risk(T, p):
    linear = verify(InMean(), problems.all_sequences(T, p), T)
    assert linear.measured[0] == pytest.approx(linear.value, abs=1e-13)
    curved = verify(InMean(), problems.all_sequences(T, p, curved=True), T)
    assert curved.verdict == HOLDS
    assert curved.measured[0] < curved.value


def test_reading_the_loss_after_the_step_says_nothing():
    for curved in (False, True):
        assert verify(Ahead(), problems.all_sequences(8, 0.9, curved), 8).verdict == VIOLATED


def test_the_last_iterate_is_worse_than_the_regret_where_nothing_drifts():
    for T, ratio in ((4, 1.69), (10, 1.43)):
        record = verify(LastIterate(), problems.all_sequences(T, 0.5, curved=True), T)
        assert record.verdict == VIOLATED
        assert record.ratio == pytest.approx(ratio, abs=0.01)
    # With a drift it does better, so one friendly game says nothing.
    assert verify(LastIterate(), problems.all_sequences(10, 0.9, curved=True), 10).ratio < 0.5


@pytest.mark.parametrize("delta", [0.5, 0.2, 0.05])
def test_the_tail_is_at_most_delta_exactly(delta):
    for p in (0.5, 0.8):
        record = verify(Tail(delta=delta), problems.all_sequences(10, p), 10)
        assert record.verdict == HOLDS
        assert record.measured[0] <= delta


def test_a_radius_that_is_too_short_is_beyond_delta():
    class Short(Tail):
        def chain(self, trace, u):
            object.__setattr__(trace.game, "span", 0.3)
            return super().chain(trace, u)

    assert verify(Short(delta=0.2), problems.all_sequences(10, 0.5), 10).verdict == VIOLATED


def test_sequences_of_another_length_are_not_applicable():
    game = problems.all_sequences(4)
    assert "4 rounds" in verify(InMean(), game, 5).reason
    assert all(b.gate(ONE, 4) for b in online_to_batch.BOUNDS)
