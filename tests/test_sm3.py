"""SM3's invariants hold in float32 with no tolerance, and each check fails on a rule made wrong on purpose.

A check takes the rule's class, so that the mutants at the end of each section go through the very same code.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.parts.covers import AxisCover, HashCover, IndexCover
from memopt_ref.parts.scalar import ratio
from memopt_ref.rules.sm3 import SM3
from tests.test_covers import FirstAxisCover, LargestCover, MeanCover, gradients, random_cover

F = np.float32
ULP = 2.0**-24  # a rounding to float32 changes a number by at most this part of it
RANDOM = settings(max_examples=30, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)


def play(rule, grads, w=None):
    """The values of every step."""
    w = np.zeros_like(grads[0]) if w is None else w
    state, trace = rule.init_leaf(w), []
    for g in grads:
        values = rule.values(w, g, state)
        w, state = values["w"], {name: values[name] for name in state}
        trace.append(values)
    return trace


def sums(grads):
    """gamma_1, gamma_2, ...: AdaGrad's statistic, in the gradients' dtype."""
    return list(itertools.accumulate(g * g for g in grads))


def accumulators(values):
    return np.concatenate([values[name].ravel() for name in sorted(values) if name.startswith("mu")])


def problem(seed, steps=12):
    """A random cover and gradients for it: index sets over a vector, or axes of a tensor."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        return random_cover(rng, 7), gradients(rng, (7,), steps)
    return AxisCover(), gradients(rng, [(4, 3), (2, 3, 2), (1, 5), (2, 1, 3, 2)][rng.integers(4)], steps)


# Sandwich, monotonicity, order of the variants


class NewAccumulators(SM3):
    def sm3_ii(self, g, mu):
        return super().sm3_ii(g, super().sm3_ii(g, mu)[1])


class KeepsOnlySquares(SM3):
    """mu' <- max(mu', max g^2) in place of max nu'."""

    def sm3_ii(self, g, mu):
        nu, _ = super().sm3_ii(g, mu)
        return nu, {r: np.maximum(mu[r], top) for r, top in self.cover.reduce(g * g).items()}


class FirstMember(SM3):
    """The maximum over members is missing: the accumulator is its first member's."""

    def sm3_ii(self, g, mu):
        nu, top = super().sm3_ii(g, mu)
        firsts = np.array([nu.ravel()[members[0]] for members in self.cover.members(nu.shape)], nu.dtype)
        cuts = np.cumsum([array.size for array in top.values()])[:-1]
        return nu, dict(zip(top, np.split(firsts, cuts), strict=True))


class OldAccumulators(SM3):
    """SM3-I with the minimum over the old accumulators."""

    def sm3_i(self, g, mu):
        return self.cover.gather(mu, g.shape), super().sm3_i(g, mu)[1]


class LargestSquare(SM3):
    """SM3-I that replaces the sum of maxima by the maximum."""

    def sm3_i(self, g, mu):
        mu = {r: np.maximum(mu[r], top) for r, top in self.cover.reduce(g * g).items()}
        return self.cover.gather(mu, g.shape), mu


def check_sandwich(one, two, cover, grads):
    trace_one = play(one(variant="I", cover=cover), grads)
    trace_two = play(two(cover=cover), grads)
    last = None
    for gamma, v1, v2 in zip(sums(grads), trace_one, trace_two, strict=True):
        assert v1["nu"].dtype == v2["nu"].dtype == gamma.dtype == F
        assert np.all(gamma <= v2["nu"]), "gamma <= nu'"
        assert np.all(v2["nu"] <= v1["nu"]), "nu' <= nu"
        assert np.all(accumulators(v2) <= accumulators(v1)), "mu' <= mu"
        if last is not None:
            for new, old in zip((v1, v2), last, strict=True):
                assert np.all(new["nu"] >= old["nu"]), "nu non-decreasing"
                assert np.all(accumulators(new) >= accumulators(old)), "mu non-decreasing"
        last = v1, v2


@RANDOM
@given(SEEDS)
def test_gamma_is_below_nu_prime_is_below_nu_and_all_grow(seed):
    check_sandwich(SM3, SM3, *problem(seed))


def test_sandwich_holds_for_long_on_hashed_covers():
    for of in ("entries", "rows"):
        grads = gradients(np.random.default_rng(4), (20, 3), 60)
        check_sandwich(SM3, SM3, HashCover(2, 7, of=of), grads)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (SM3, NewAccumulators),
        (SM3, KeepsOnlySquares),
        (SM3, FirstMember),
        (OldAccumulators, SM3),
        (LargestSquare, SM3),
    ],
)
def test_sandwich_notices_wrong_accumulators(one, two):
    grads = gradients(np.random.default_rng(0), (4, 3), 30)
    with pytest.raises(AssertionError):
        check_sandwich(one, two, AxisCover(), grads)


@pytest.mark.parametrize("wrong", [MeanCover(), LargestCover()])
def test_sandwich_notices_a_mean_or_the_largest_accumulator(wrong):
    grads = gradients(np.random.default_rng(0), (4, 3), 30)
    with pytest.raises(AssertionError):
        check_sandwich(SM3, lambda cover: SM3(cover=wrong), AxisCover(), grads)


# Special covers


@pytest.mark.parametrize("variant", ["I", "II"])
@pytest.mark.parametrize("shape", [(), (6,), (6, 1), (1, 6), (6, 1, 1)])
def test_vectors_scalars_and_tensors_with_one_long_axis_are_adagrad_bit_for_bit(variant, shape):
    grads = gradients(np.random.default_rng(8), shape, 20)
    by_index = IndexCover([(i,) for i in range(grads[0].size)])
    w = np.zeros(shape, F)
    traces = [play(SM3(variant=variant, cover=cover), grads) for cover in (AxisCover(), by_index)]
    for g, gamma, by_axis, by_set in zip(grads, sums(grads), *traces, strict=True):
        w = w - F(0.1) * ratio(g, np.sqrt(gamma))
        for values in (by_axis, by_set):
            assert values["nu"].tobytes() == gamma.tobytes()
            assert values["w"].tobytes() == w.tobytes()


@pytest.mark.parametrize("mutant", [NewAccumulators, KeepsOnlySquares])
def test_equality_with_adagrad_notices_wrong_accumulators(mutant):
    grads = gradients(np.random.default_rng(8), (6,), 20)
    assert any(np.any(v["nu"] != gamma) for v, gamma in zip(play(mutant(), grads), sums(grads), strict=True))


def test_one_set_keeps_the_sum_of_largest_squares():
    grads = gradients(np.random.default_rng(1), (5,), 20)
    cover = IndexCover((tuple(range(5)),))
    one, two = play(SM3(variant="I", cover=cover), grads), play(SM3(cover=cover), grads)
    before = F(0)
    for g, v1, v2 in zip(grads, one, two, strict=True):
        after = before + np.max(g * g)
        assert np.all(v1["nu"] == after)
        assert np.all(v2["nu"] == before + g * g)
        assert v1["mu"] == v2["mu"] == after
        before = after


def check_refinement(rule, variant, coarse, fine, grads):
    traces = [play(rule(variant=variant, cover=cover), grads) for cover in (coarse, fine)]
    for a, b in zip(*traces, strict=True):
        assert np.all(b["nu"] <= a["nu"])


@RANDOM
@given(SEEDS)
def test_adding_a_set_never_raises_nu(seed):
    rng = np.random.default_rng(seed)
    grads, cover = gradients(rng, (7,), 12), random_cover(rng, 7)
    fine = IndexCover((*cover.sets, tuple(rng.permutation(7)[: rng.integers(1, 8)])))
    for variant in ("I", "II"):
        check_refinement(SM3, variant, cover, fine, grads)


class LargestOfSets(IndexCover):
    def gather(self, mu, shape):
        return -super().gather({"mu": -mu["mu"]}, shape)


def test_refinement_notices_the_largest_accumulator():
    grads = gradients(np.random.default_rng(3), (7,), 12)
    coarse, fine = (
        LargestOfSets(sets) for sets in (((0, 1, 2, 3), (4, 5, 6)), ((0, 1, 2, 3), (4, 5, 6), (3, 4)))
    )
    with pytest.raises(AssertionError):
        check_refinement(SM3, "II", coarse, fine, grads)


def row_constant(rng, steps, *, sparse):
    """Matrices whose magnitude is constant along rows; with ``sparse`` most rows are zero."""
    for g in gradients(rng, (9, 1), steps):
        kept = rng.random((9, 1)) < 0.3 if sparse else True
        yield (g * kept * rng.choice([-1, 1], (9, 4))).astype(F)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_constant_rows_cost_nothing_against_adagrad(sparse):
    grads = list(row_constant(np.random.default_rng(6), 40, sparse=sparse))
    for variant in ("I", "II"):
        for gamma, values in zip(sums(grads), play(SM3(variant=variant), grads), strict=True):
            assert np.array_equal(values["nu"], gamma)
    uneven = [g * np.array([1, 1, 1, 2], F) for g in grads]
    assert np.any(play(SM3(), uneven)[-1]["nu"] != sums(uneven)[-1]), "rows that are not constant do cost"


# Symmetries


class NoRoot(SM3):
    def step(self, w, g, state):
        values = super().step(w, g, state)
        u = ratio(g, values["nu"])
        return {**values, "u": u, "w": w - self.learning_rate * u}


class EpsInside(SM3):
    """optax's default."""

    def step(self, w, g, state):
        return SM3.step(self.replace(eps_root=1e-8) if self.eps_root == 0 else self, w, g, state)


def check_scale_invariance(rule, grads):
    plain = play(rule(), grads)
    for power in (-20, 13):
        c = F(2.0**power)
        for a, b in zip(plain, play(rule(), [c * g for g in grads]), strict=True):
            assert a["w"].tobytes() == b["w"].tobytes()
            assert np.array_equal(a["nu"] * c * c, b["nu"])


def test_scaling_all_gradients_by_a_power_of_two_changes_no_bit_of_the_weights():
    check_scale_invariance(SM3, gradients(np.random.default_rng(2), (4, 3), 15))


@pytest.mark.parametrize("mutant", [NoRoot, EpsInside])
def test_scale_invariance_notices_a_missing_root_and_an_eps(mutant):
    with pytest.raises(AssertionError):
        check_scale_invariance(mutant, gradients(np.random.default_rng(2), (4, 3), 15))


def check_equivariance(rule, grads, move):
    for a, b in zip(play(rule, grads), play(rule, [move(g) for g in grads]), strict=True):
        assert np.array_equal(move(a["w"]), b["w"])


@pytest.mark.parametrize("variant", ["I", "II"])
def test_permuting_an_axis_or_the_axes_commutes_with_the_step(variant):
    rng = np.random.default_rng(7)
    grads = gradients(rng, (4, 3, 5), 12)
    for axis, n in enumerate((4, 3, 5)):
        order = rng.permutation(n)
        check_equivariance(SM3(variant=variant), grads, lambda g, o=order, a=axis: np.take(g, o, axis=a))
    for axes in itertools.permutations(range(3)):
        check_equivariance(SM3(variant=variant), grads, lambda g, axes=axes: np.transpose(g, axes))


def test_equivariance_notices_a_forgotten_axis():
    with pytest.raises(AssertionError):
        check_equivariance(
            SM3(cover=FirstAxisCover()), gradients(np.random.default_rng(7), (4, 3), 5), np.transpose
        )


# Size of the step


@RANDOM
@given(SEEDS)
def test_no_entry_moves_further_than_the_learning_rate(seed):
    """sqrt(g^2) rounds to |g| and nu >= g^2, so |u| <= 1 in floating point, too."""
    cover, grads = problem(seed)
    for variant in ("I", "II"):
        for values in play(SM3(variant=variant, cover=cover), grads):
            assert np.all(np.abs(values["u"]) <= 1)


@RANDOM
@given(SEEDS)
def test_first_step_is_the_sign_in_sm3_ii_and_relative_to_the_least_maximum_in_sm3_i(seed):
    cover, (g, *_) = problem(seed)
    assert np.array_equal(play(SM3(cover=cover), [g])[0]["u"], np.sign(g))
    least = cover.gather(cover.reduce(np.abs(g)), g.shape)
    assert np.array_equal(play(SM3(variant="I", cover=cover), [g])[0]["u"], ratio(g, least))


def test_bounds_notice_an_accumulator_without_the_new_square():
    class Late(SM3):
        def sm3_ii(self, g, mu):
            return self.cover.gather(mu, g.shape), super().sm3_ii(g, mu)[1]

    grads = gradients(np.random.default_rng(1), (4, 3), 6)
    assert any(np.any(np.abs(values["u"]) > 1) for values in play(Late(), grads))
    assert not np.array_equal(play(Late(), grads)[0]["u"], np.sign(grads[0]))


def test_two_spikes_off_target_poison_an_entry_and_one_never_does():
    M, delta = F(7), F(0.5)
    target = np.zeros((3, 3), F)
    target[0, 0] = delta

    def spiked(*places):
        g = np.zeros((3, 3), F)
        for place in places:
            g[place] = M
        return g

    for variant in ("I", "II"):
        values = play(SM3(variant=variant), [spiked((0, 1), (1, 0)), target])[-1]
        assert values["nu"][0, 0] == F(49.25)
        assert values["u"][0, 0] == delta / np.sqrt(F(49.25))
        assert values["u"][0, 0] == pytest.approx(0.07124705, rel=1e-7)  # seven digits
        for place in itertools.product(range(3), range(3)):
            if place != (0, 0):
                assert play(SM3(variant=variant), [spiked(place), target])[-1]["u"][0, 0] == 1
        singleton = IndexCover([*AxisCover().members((3, 3)), (0,)])
        rule = SM3(variant=variant, cover=singleton)
        assert play(rule, [spiked((0, 1), (1, 0)), target])[-1]["u"][0, 0] == 1
    only_rows = SM3(cover=FirstAxisCover())
    assert play(only_rows, [spiked((0, 1)), target])[-1]["u"][0, 0] < 1, "without columns one spike is enough"


# Zeros, tiny gradients, NaN


@pytest.mark.parametrize("variant", ["I", "II"])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (4, 3), (0, 3), (4, 1), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_zero_gradients_change_nothing_at_any_rank(variant, shape, momentum):
    w = np.full(shape, -0.0, F)
    rule = SM3(variant=variant, momentum=momentum)
    for values in play(rule, [np.zeros(shape, F)] * 3, w):
        assert values["w"].tobytes() == w.tobytes()
        assert not accumulators(values).any()
        assert not np.any(values["u"])
        assert not np.any(values.get("m", 0))


def test_zero_gradients_later_keep_accumulators_and_weights():
    grads = gradients(np.random.default_rng(0), (4, 3), 5)
    for rule in (SM3(), SM3(variant="I"), SM3(beta2=0.9, ema="ratchet")):
        trace = play(rule, [*grads, np.zeros((4, 3), F)])
        assert trace[-1]["w"].tobytes() == trace[-2]["w"].tobytes()
        assert accumulators(trace[-1]).tobytes() == accumulators(trace[-2]).tobytes()


def test_tiny_gradients_step_fully_under_the_mask_and_fade_under_the_authors_eps():
    def first(g, **options):
        return float(play(SM3(**options), [np.array([g], F)])[0]["u"][0])

    # Six roundings (g, g^2, eps, sum, root, quotient) and the four printed digits of the expected values.
    for g, damped in [(1e-10, 1.0), (1e-14, 0.99504), (1e-15, 0.70711), (1e-16, 0.099504), (1e-20, 1e-5)]:
        assert first(g, eps_root=1e-30) == pytest.approx(damped, rel=5e-5)
        # Below 1e-19 g^2 is subnormal: spacing 1.4e-45, rounded by half of that, which the root halves again.
        assert first(g) == pytest.approx(1.0, rel=1.4e-45 / 4 / min(g, 1e-15) ** 2 + 6 * ULP)
    assert first(1e-24) == 0, "g^2 underflows to 0: 0/0 = 0"


def test_half_precision_parameters_keep_float32_accumulators_so_no_eps_underflows():
    w = np.ones((2, 2), np.float16)
    rule = SM3(eps_root=1e-30)
    (values,) = play(rule, [np.zeros((2, 2), np.float16)], w)
    assert values["w"].dtype == np.float16
    assert values["mu_0"].dtype == F
    assert np.array_equal(values["w"], w)


class Swallowing(SM3):
    """``u if nu > 0 else 0`` hides a NaN from the weights."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        u = np.where(values["nu"] > 0, values["u"], F(0))
        return {**values, "u": u, "w": w - self.learning_rate * u}


def check_nan(rule):
    for nan in (np.nan, -np.nan):
        g = np.ones((3, 4), F)
        g[1, 2] = nan
        for variant in ("I", "II"):
            first, second = play(rule(variant=variant), [g, np.ones((3, 4), F)])
            assert np.isnan(first["mu_0"]).tolist() == [False, True, False]
            assert np.isnan(first["mu_1"]).tolist() == [False, False, True, False]
            if variant == "II":
                assert np.array_equal(np.isnan(first["w"]), np.isnan(g))
            everywhere = np.zeros((3, 4), bool)
            everywhere[1] = everywhere[:, 2] = True
            for name in ("nu", "u", "w"):
                assert np.array_equal(np.isnan(second[name]), everywhere), name


def test_nan_reaches_accumulators_nu_u_and_weights():
    check_nan(SM3)


def test_nan_check_notices_a_mask_that_swallows():
    with pytest.raises(AssertionError):
        check_nan(Swallowing)
