"""What surrounds SM3's algorithms: momentum, averages, the authors' golden values, row-sparse gradients.

As in ``test_sm3``, each check is seen to fail on a rule that is wrong on purpose.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.covers import HashCover
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.scalar import ratio
from memopt_ref.parts.schedule import Schedule
from memopt_ref.rules import rows
from memopt_ref.rules.sm3 import SM3
from tests.test_covers import MeanCover, gradients
from tests.test_sm3 import RANDOM, SEEDS, ULP, F, play

# Momentum and moving averages


class RawMomentum(SM3):
    def step(self, w, g, state):
        values = super().step(w, g, state)
        m = self.momentum * state["m"] + (1 - self.momentum) * g
        return {**values, "m": m, "w": w - self.learning_rate * ratio(m, values["denominator"])}


def check_momentum(rule, grads):
    m, w = np.zeros((4, 3), F), np.zeros((4, 3), F)
    for plain, values in zip(play(SM3(), grads), play(rule(momentum=0.9), grads), strict=True):
        assert np.array_equal(plain["u"], values["u"]), "momentum leaves the accumulators alone"
        m = F(0.9) * m + F(1.0 - 0.9) * plain["u"]
        w = w - F(0.1) * m
        assert np.array_equal(values["m"], m)
        assert np.array_equal(values["w"], w)
        # A fixed point of m <- .9 m + .1 with five roundings a step: 1 + 5 ulp / (1 - .9).
        assert np.all(np.abs(values["m"]) <= 1 + 50 * ULP)


def test_momentum_is_the_mean_of_preconditioned_gradients():
    grads = gradients(np.random.default_rng(3), (4, 3), 40)
    check_momentum(SM3, grads)
    # With constant u = 1 the mean approaches its bound.
    check_momentum(SM3, [np.zeros((4, 3), F), *[np.full((4, 3), F(10.0) ** k) for k in range(0, 19, 2)]])
    with pytest.raises(AssertionError):
        check_momentum(RawMomentum, grads)


def test_first_step_with_momentum_is_a_tenth_of_the_sign():
    (values,) = play(SM3(momentum=0.9, learning_rate=1.0), [np.array([[3.0, -4.0]], F)])
    assert np.array_equal(values["w"], [[-F(1 - 0.9), F(1 - 0.9)]])


def check_averages_are_ordered(overwrite, ratchet, grads, beta2=0.9):
    v = np.zeros_like(grads[0])
    low, high = play(overwrite(beta2=beta2), grads), play(ratchet(beta2=beta2, ema="ratchet"), grads)
    for g, a, b in zip(grads, low, high, strict=True):
        v = F(beta2) * v + F(1 - beta2) * (g * g)
        assert np.all(v <= a["nu"]), "RMSProp's v <= nu(overwrite)"
        assert np.all(a["nu"] <= b["nu"]), "nu(overwrite) <= nu(ratchet)"
        for values in (a, b):
            # Roundings: beta2, g^2, two products, sum; the root halves; quotient.
            assert np.all(np.abs(values["u"]) <= (1 + 5 * ULP) / np.sqrt(1 - beta2))


@RANDOM
@given(SEEDS, st.sampled_from([0.5, 0.9, 0.999]))
def test_rmsprop_is_below_overwrite_is_below_ratchet(seed, beta2):
    rng = np.random.default_rng(seed)
    shape = [(), (6,), (4, 3), (2, 3, 2)][rng.integers(4)]
    check_averages_are_ordered(SM3, SM3, gradients(rng, shape, 12), beta2)


def test_order_of_the_averages_notices_a_mean_and_a_lost_ratchet():
    class Lost(SM3):
        def sm3_ii(self, g, mu):
            nu, top = super().sm3_ii(g, mu)
            return nu, {r: array * F(0.5) for r, array in top.items()}

    grads = gradients(np.random.default_rng(5), (4, 3), 20)
    with pytest.raises(AssertionError, match="RMSProp"):
        check_averages_are_ordered(lambda beta2: SM3(beta2=beta2, cover=MeanCover()), SM3, grads)
    with pytest.raises(AssertionError, match="ratchet"):
        check_averages_are_ordered(SM3, Lost, grads)


@pytest.mark.parametrize(("beta2", "size"), [(0.9, 3.1622777), (0.999, 31.622777)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_first_step_of_the_average_is_not_bias_corrected(beta2, size, shape):
    for ema in ("overwrite", "ratchet"):
        (values,) = play(SM3(beta2=beta2, ema=ema), [np.full(shape, F(-0.3))])
        assert np.allclose(values["u"], -size, rtol=5e-8 + 4 * ULP, atol=0)


def test_the_average_forgets_under_overwrite_and_never_under_ratchet():
    big, small = np.full((2, 2), F(100.0)), np.full((2, 2), F(1.0))
    low = play(SM3(beta2=0.5), [big, *[small] * 40])[-1]
    high = play(SM3(beta2=0.5, ema="ratchet"), [big, *[small] * 40])[-1]
    assert np.allclose(low["nu"], 1.0, rtol=1e-6)
    assert np.all(high["mu_0"] == 5000)
    assert np.all(low["nu"] < low["nu"].max() + 1)
    assert np.any(play(SM3(beta2=0.5), [big, small])[1]["nu"] < play(SM3(beta2=0.5), [big])[0]["nu"]), (
        "not monotone"
    )


def test_sm3_i_with_an_average_is_refused_since_nothing_defines_it():
    with pytest.raises(HyperparameterError, match=r"SM3\.beta2: got 0\.9; wanted 1 with variant='I'"):
        SM3(variant="I", beta2=0.9)
    with pytest.raises(HyperparameterError, match=r"SM3\.momentum"):
        SM3(momentum=1.0)
    with pytest.raises(HyperparameterError, match=r"SM3\.variant"):
        SM3(variant="III")


# The authors' code


def test_golden_values_of_the_authors_two_by_two_test():
    """Float64 runs of the settings in the authors' sm3_test.py; eight printed digits."""
    g = np.array([[0.1, 0.05], [0.03, 0.02]])
    rule = SM3(learning_rate=0.1, momentum=0.9, eps_root=1e-30)
    one, two = play(rule, [g, g], np.full((2, 2), 0.5))
    printed = {"rtol": 0, "atol": 5.1e-9}
    np.testing.assert_allclose(one["nu"], [[0.01, 0.0025], [0.0009, 0.0004]], **printed)
    np.testing.assert_allclose(one["mu_0"], [0.01, 0.0009], **printed)
    np.testing.assert_allclose(one["mu_1"], [0.01, 0.0025], **printed)
    np.testing.assert_allclose(one["m"], np.full((2, 2), 0.1), **printed)
    np.testing.assert_allclose(one["w"], np.full((2, 2), 0.49), **printed)
    np.testing.assert_allclose(two["nu"], [[0.02, 0.005], [0.0018, 0.0013]], **printed)
    np.testing.assert_allclose(two["mu_0"], [0.02, 0.0018], **printed)
    np.testing.assert_allclose(two["mu_1"], [0.02, 0.005], **printed)
    np.testing.assert_allclose(two["m"], [[0.16071068, 0.16071068], [0.16071068, 0.14547002]], **printed)
    np.testing.assert_allclose(two["w"], [[0.47392893, 0.47392893], [0.47392893, 0.475453]], **printed)


def test_golden_values_of_the_authors_scalar_and_vector_tests():
    rule = SM3(learning_rate=0.1, momentum=0.9, eps_root=1e-30)
    for w, g in [(0.5, 0.1), ([0.5, 0.3], [0.1, 0.1])]:
        one, two = play(rule, [np.array(g)] * 2, np.array(w))
        # u is 1, then 1 / sqrt(2): closed form, a few roundings of numbers below 1.
        np.testing.assert_allclose(one["w"], np.array(w) - 0.01, rtol=0, atol=1e-15)
        np.testing.assert_allclose(
            two["m"], np.full(np.shape(w), 0.09 + 0.1 / np.sqrt(2)), rtol=0, atol=1e-15
        )
        np.testing.assert_allclose(two["mu_0"], np.full(np.shape(w), 0.02), rtol=1e-15)


def test_golden_values_of_the_authors_sparse_test():
    g = RowSparse(np.array([1, 3]), np.array([[0.1, 0.05], [0.01, 1.5]]), (4, 2))
    w = np.full((4, 2), 0.5)
    rule = SM3(learning_rate=0.1, eps_root=1e-30)
    values = rule.values(w, g, rule.init_leaf(w))
    np.testing.assert_allclose(values["mu_0"], [0, 0.01, 0, 2.25], rtol=1e-15)
    np.testing.assert_allclose(values["w"], [[0.5, 0.5], [0.4, 0.4], [0.5, 0.5], [0.4, 0.4]], rtol=1e-15)


# Row-sparse gradients


def sparse_gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        k = int(rng.integers(0, shape[0] + 1))
        yield RowSparse(rng.integers(0, shape[0], k), rng.standard_normal((k, *shape[1:])).astype(F), shape)


def check_sparse_equals_dense(rule, shape, steps=200):
    """Returns the share of steps after which every bit agrees."""
    w = np.random.default_rng(1).standard_normal(shape).astype(F)
    (a, state_a), (b, state_b), equal = (w, rule.init_leaf(w)), (w, rule.init_leaf(w)), 0
    for g in sparse_gradients(shape, steps):
        a, state_a = rule.advance(a, g, state_a)
        b, state_b = rule.advance(b, g.to_dense(), state_b)
        equal += a.tobytes() == b.tobytes() and all(
            state_a[name].tobytes() == state_b[name].tobytes() for name in state_a
        )
    return equal / steps


@pytest.mark.parametrize("shape", [(11,), (11, 4), (11, 1), (1, 4), (7, 2, 3)])
@pytest.mark.parametrize(
    "rule",
    [SM3(), SM3(variant="I"), SM3(beta2=0.9, ema="ratchet"), SM3(eps_root=1e-30, eps=1e-8)],
    ids=["II", "I", "ratchet", "eps"],
)
def test_rows_alone_equal_the_dense_step_in_200_of_200_steps(rule, shape):
    assert rule.rests()
    assert rows.lazy(rule, shape, F) == (True, "touched rows only, equal to the dense step")
    assert check_sparse_equals_dense(rule, shape) == 1.0


@pytest.mark.parametrize(
    "rule", [SM3(beta2=0.9), SM3(cover=HashCover(2, 5)), SM3(cover=HashCover(2, 3, of="rows"), beta2=0.9)]
)
def test_a_matrix_whose_accumulators_forget_or_are_not_by_axes_is_stepped_densely(rule):
    assert rows.lazy(rule, (11, 4), F)[0] is False
    assert check_sparse_equals_dense(rule, (11, 4)) == 1.0


class JoinsAnyway(SM3):
    """Overwrite with joined column maxima: columns never forget, untouched rows neither."""

    def slots(self, shape, dtype):
        return self.cover.slots(shape, dtype, "max")

    def rests(self):
        return True


def test_equality_of_rows_and_dense_notices_a_wrong_join():
    assert rows.lazy(JoinsAnyway(beta2=0.9), (11, 4), F)[0] is True
    assert check_sparse_equals_dense(JoinsAnyway(beta2=0.9), (11, 4)) < 0.1


def test_rules_that_move_untouched_entries_do_not_claim_to_rest():
    assert not SM3(momentum=0.9).rests()
    assert not SM3(weight_decay=0.1).rests()
    assert not SM3(beta2=0.9).rests()


def test_momentum_on_rows_is_lazy_but_accumulators_stay_those_of_the_dense_step():
    rule, shape = SM3(momentum=0.9), (11, 4)
    a = b = np.zeros(shape, F)
    state_a, state_b = rule.init_leaf(a), rule.init_leaf(b)
    for g in sparse_gradients(shape, 50):
        a, state_a = rule.advance(a, g, state_a)
        b, state_b = rule.advance(b, g.to_dense(), state_b)
        assert state_a["mu_0"].tobytes() == state_b["mu_0"].tobytes()
        assert state_a["mu_1"].tobytes() == state_b["mu_1"].tobytes()
    assert "lazy" in rows.lazy(rule, shape, F)[1]


class Forgetful(SM3):
    """torch-SM3's defect on sparse gradients: the dense maximum overwrites the rows that were not touched."""

    def advance(self, w, g, state):
        new, after = super().advance(w, g, state)
        kept = np.isin(np.arange(w.shape[0]), g.indices)
        return new, {**after, "mu_0": np.where(kept, after["mu_0"], F(0))}


def check_rows_persist(rule):
    w = np.zeros((4, 2), F)
    state = rule.init_leaf(w)
    for indices in ([1, 3], [0]):
        g = RowSparse(np.array(indices), np.full((len(indices), 2), F(2)), (4, 2))
        w, state = rule.advance(w, g, state)
    assert state["mu_0"].tolist() == [4, 4, 0, 4]


def test_accumulators_of_untouched_rows_persist():
    check_rows_persist(SM3())
    check_rows_persist(SM3(variant="I"))
    with pytest.raises(AssertionError):
        check_rows_persist(Forgetful())


def test_duplicate_rows_are_summed_once_before_they_are_squared():
    g = RowSparse(np.array([1, 0, 1]), np.array([[1.0], [3.0], [1.0]], F), (3, 1))
    rule = SM3(learning_rate=1.0)
    values = rule.values(np.zeros((3, 1), F), g, rule.init_leaf(np.zeros((3, 1), F)))
    assert values["w"].ravel().tolist() == [-1, -1, 0], "a step of -2 in row 1 would be the port's defect"
    assert values["mu_0"].tolist() == [9, 4, 0], "(1 + 1)^2, not 1 + 1"


# State, metric, schedules


@pytest.mark.parametrize(
    ("shape", "plain", "with_momentum"),
    [((30, 20), 200, 2600), ((4, 5, 6), 60, 540), ((6,), 24, 48), ((), 4, 8)],
)
def test_state_is_one_number_an_index_of_an_axis(shape, plain, with_momentum):
    for rule, expected in [(SM3(), plain), (SM3(variant="I"), plain), (SM3(momentum=0.9), with_momentum)]:
        assert sum(slot.nbytes for slot in rule.slots(shape, F).values()) == expected
    assert sum(slot.nbytes for slot in SM3(cover=HashCover(3, 10)).slots(shape, F).values()) == 120


def test_metric_is_the_root_of_nu_over_the_learning_rate_and_missing_with_momentum():
    grads = gradients(np.random.default_rng(9), (4, 3), 5)
    for variant in ("I", "II"):
        rule = SM3(learning_rate=0.5, variant=variant)
        values = play(rule, grads)[-1]
        metric = rule.metric(values)
        assert metric.kind == "diagonal"
        assert np.array_equal(metric.weights, np.sqrt(values["nu"]) / F(0.5))
        # H u = g / lr up to the roundings of root, quotient, product and division by lr = 1/2 (exact).
        np.testing.assert_allclose(metric.mul(0.5 * values["u"]), grads[-1], rtol=3 * ULP, atol=0)
    rule = SM3(momentum=0.9)
    assert rule.metric(play(rule, grads)[-1]) is None


@dataclasses.dataclass(frozen=True)
class Inverse(Schedule):
    """1 / step, or 1 - 1 / step."""

    rising: bool = False

    def __call__(self, step):
        return 1 - 1 / step if self.rising else 1 / step


def test_a_scheduled_average_adds_where_the_schedule_gives_one():
    rule, (first, second) = SM3(beta2=Inverse()), gradients(np.random.default_rng(2), (4, 3), 2)
    w, state = rule.update(np.zeros((4, 3), F), first, rule.init(first))
    (added,) = play(SM3(), [first])
    assert np.array_equal(added["w"], w)
    half = SM3(beta2=0.5).values(w, second, state["leaves"][""])
    assert np.array_equal(rule.update(w, second, state)[0], half["w"])


@pytest.mark.parametrize("rule", [SM3(beta2=Inverse()), SM3(momentum=Inverse(rising=True))])
def test_a_schedule_that_reaches_the_neutral_value_keeps_the_layout_on_row_sparse_gradients(rule):
    """At the first step beta2 is 1 and momentum 0; the slots stay those of the rule as built."""
    w, state = np.zeros((11, 4), F), rule.init(np.zeros((11, 4), F))
    b, state_b = w, state
    layout = {name: array.shape for name, array in state["leaves"][""].items()}
    for g in sparse_gradients((11, 4), 5):
        w, state = rule.update(w, g, state)
        b, state_b = rule.update(b, g.to_dense(), state_b)
        assert {name: array.shape for name, array in state["leaves"][""].items()} == layout
        for name in ("mu_0", "mu_1"):
            assert np.array_equal(state["leaves"][""][name], state_b["leaves"][""][name])
