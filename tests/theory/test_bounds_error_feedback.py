"""Error feedback: exact through the virtual iterate, and lost without the buffer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.compressors import Identity, OneBit, ScaledSign, TopK
from memopt_ref.theory import games, problems
from memopt_ref.theory.bounds import error_feedback, get
from memopt_ref.theory.bounds.error_feedback import AnyRate, Quantised, TopKTuned
from memopt_ref.theory.play import play
from memopt_ref.theory.verify import HOLDS, NOT_APPLICABLE, TIGHT, VIOLATED, verify

GAMES = [
    problems.slow_side(2),
    problems.slow_side(10),
    problems.freely(games.rademacher((3,))),
    problems.freely(games.orthogonal()),
    problems.crossed_lines(),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("game", GAMES, ids=lambda g: g.name)
@pytest.mark.parametrize("c", [TopK(k=1), TopK(density=0.5), ScaledSign(), OneBit(), Identity()], ids=repr)
def test_every_link_holds_for_every_compressor(c, game, dtype):
    for kind in (AnyRate, TopKTuned):
        record = verify(kind(compressor=c), game, 60, dtype=dtype)
        assert record.verdict in (HOLDS, TIGHT), record.broken
        assert [name for name, _ in record.links] == ["R_lin", "A", "B", "debts", "C"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=60), st.floats(0.01, 2.0), st.integers(1, 3))
def test_the_regret_is_the_virtual_iterates_for_any_sequence_and_any_comparator(numbers, gamma, k):
    g = np.resize(numbers, (len(numbers) // 3, 3))
    game = problems.freely(games.sequence(g))
    bound = AnyRate(eta=gamma, compressor=TopK(k=k))
    trace = play(bound.rule(game, len(g)), game, len(g), observers=bound.observers(game, len(g)))
    for u in np.random.default_rng(0).normal(size=(5, 3)):
        links = {link.name: link.value for link in bound.chain(trace, u)}
        # Each term is a product of numbers below T: T of them, rounded a few times each.
        assert abs(links["A"] - links["R_lin"]) <= 1e-12 * (1 + len(g)) ** 2 * max(gamma, 1 / gamma)
    assert all(check.holds for check in bound.checks(trace))


def test_fractions_are_exact():
    game = problems.freely(games.sequence([[0.5, -0.25], [1.0, 0.5], [-0.75, 1.0]]))
    bound = AnyRate(eta=0.5, compressor=TopK(k=1))
    trace = play(bound.rule(game, 3), game, 3, observers=bound.observers(game, 3))
    u = np.array([0.25, -0.5])
    links = {link.name: link.value for link in bound.chain(trace, u)}
    # Dyadic numbers: nothing is rounded.
    assert links["A"] == links["R_lin"]


def test_without_compression_it_is_gradient_descent_and_attained():
    game = problems.freely(games.zigzag_run(90, 10))
    record = verify(TopKTuned(compressor=Identity()), game, 100)
    assert record.verdict == TIGHT
    assert record.ratio == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("T", "ratio"), [(100, 2.8183), (1000, 8.8099)])
def test_top_1_without_feedback_has_linear_regret(T, ratio):
    bound, game = get("error_feedback.topk"), problems.slow_side(2)
    record = verify(bound, game, T, bound.rule(game, T).replace(error_bits=0))
    assert record.verdict == VIOLATED
    assert record.ratio == pytest.approx(ratio, abs=1e-4)
    assert any(text.startswith("virtual iterate (round 1)") for text in record.broken)


def test_sign_descent_never_leaves_its_line_and_feedback_does():
    game, T = problems.crossed_lines(), 1000
    stuck = get("error_feedback.none")
    record = verify(stuck, game, T)
    assert record.verdict == VIOLATED
    # f >= 1 at every point with x_1 + x_2 = 2, and the subgradients see the whole of it from u = 0.
    assert record.measured[0] >= T
    trace = play(stuck.rule(game, T), game, T)
    assert np.abs(trace.x_end.sum() - 2.0) < 1e-9
    freed = play(get("error_feedback.sign").rule(game, 4000), game, 4000)
    assert problems.CrossedLines().value(freed.x_end) < 0.2


def test_a_projection_and_an_undeclared_size_are_not_applicable():
    assert verify(get("error_feedback.topk"), games.rademacher((3,)), 10).verdict == NOT_APPLICABLE
    loose = problems.freely(games.gaussian((3,)))
    assert "G" in verify(get("error_feedback.topk"), loose, 10).reason


@pytest.mark.parametrize("seed", range(3))
def test_a_quantised_buffer_keeps_the_bound_in_mean(seed):
    record = verify(Quantised(seed=seed), problems.freely(games.rademacher((64,), seed), 4.0), 150)
    assert record.verdict == HOLDS, record.broken
    names = [name for name, _ in record.links]
    assert names == ["R_lin", "A", "C"]
    # A is exact with the noise that was drawn.
    assert record.links[1][1] == pytest.approx(record.links[0][1], rel=1e-9)


def test_the_gate_of_the_quantised_buffer_knows_its_condition():
    coarse = Quantised(bits=1, compressor=TopK(k=1))
    record = verify(coarse, problems.freely(games.rademacher((64,)), 4.0), 10)
    assert record.verdict == NOT_APPLICABLE
    assert "q_w" in record.reason


def test_nearest_rounding_is_larger_than_the_declared_noise_only_if_it_is_wrong():
    bound, game = Quantised(), problems.freely(games.rademacher((64,)), 4.0)
    wrong = bound.rule(game, 60).replace(bounds_dtype="bfloat16", error_bits=1)
    broken = verify(bound, game, 60, wrong).broken
    assert any(text.startswith("virtual iterate") for text in broken)


def test_the_tuned_constant_is_the_minimum_over_rates():
    bound, game, T = get("error_feedback.topk"), problems.slow_side(10), 100
    tuned = verify(bound, game, T).value
    gamma = bound.gamma(game, T)
    for factor in (0.5, 1.0, 2.0):
        loose = verify(AnyRate(eta=factor * gamma), game, T).value
        assert loose == pytest.approx((factor + 1 / factor) / 2 * tuned)
    q = math.sqrt(0.9)
    assert tuned == pytest.approx(game.G * math.sqrt(T * (1 + q) / (1 - q)))


def test_smooth_losses_that_are_not_convex_have_the_known_figures():
    bound, game = get("error_feedback.nonconvex"), problems.bumps()
    record = verify(bound, game, 1000)
    assert record.verdict == HOLDS
    assert record.measured[0] == pytest.approx(0.686, abs=1e-3)
    blind = verify(bound, game, 1000, bound.rule(game, 1000).replace(error_bits=0))
    assert blind.verdict == VIOLATED
    assert blind.measured[0] == pytest.approx(3.787, abs=1e-3)


def test_a_black_box_is_judged_by_its_endpoints():
    from memopt_ref.rules.sgd import SGD

    bound, game = get("error_feedback.topk"), problems.slow_side(2)
    record = verify(bound, game, 20, SGD(learning_rate=0.1))
    assert [name for name, _ in record.links] == ["R_lin", "C"]


def test_ids_are_of_the_family():
    assert all(b.family == "error_feedback" for b in error_feedback.BOUNDS)
