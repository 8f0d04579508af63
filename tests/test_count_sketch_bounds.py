"""What holds of sketched second moments and lazy decay, and the options under which it stops to hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt_ref.errors import StabilityError
from memopt_ref.parts.covers import HashCover
from memopt_ref.parts.fixed_hashes import TableHash
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.count_sketch import CountSketchAdaGrad, CountSketchMomentum
from memopt_ref.rules.count_sketch_adam import CountSketchAdam, CountSketchRMSProp
from memopt_ref.rules.sm3 import SM3
from tests.sketch_runs import D, N, row_gradients

QUICK = settings(max_examples=25, deadline=None, derandomize=True)

# Second moments: bounds, and where they end


@QUICK
@given(
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(0, 999),
    st.booleans(),
    st.sampled_from(["batched", "sequential"]),
)
def test_count_min_adagrad_is_monotone_and_at_least_the_sum(depth, width, seed, conservative, order):
    rule = CountSketchAdaGrad(depth=depth, width=width, seed=seed, conservative=conservative, order=order)
    rng = np.random.default_rng(seed)
    truth, previous = np.zeros((N, D)), np.zeros((N, D))
    w, state = np.zeros((N, D)), rule.init(np.zeros((N, D)))
    for _ in range(6):
        g = rng.integers(-3, 4, (N, D)) * (rng.random((N, 1)) < 0.5).astype(float)
        truth += g * g
        values = rule.values(w, g, state)
        w, state = rule.update(w, g, state)
        sketch = rule.sketch("V", values)
        estimate = sketch.query(range(N))
        # Small integers: exact.
        assert np.all(estimate >= truth)
        assert np.all(estimate >= previous)
        assert np.all(sketch.table >= 0)
        assert np.all(values["v"] >= truth) or order == "sequential"
        assert np.all((values["v"] >= truth)[g.any(axis=1)])
        previous = estimate


def test_signs_cleaning_and_lazy_decay_break_the_bound_that_count_min_has():
    def underestimates(rule, decay):
        low, truth = 0, np.zeros((N, D))
        w, state = np.zeros((N, D)), rule.init(np.zeros((N, D)))
        for g in row_gradients(60, active=3, seed=2):
            values = rule.values(w, g, state)
            w, state = rule.update(w, g, state)
            truth = decay * truth
            truth[g.indices] += (1.0 if decay == 1 else 1.0 - decay) * g.rows**2
            low += int(np.sum(values["v"] < truth[g.indices] * (1 - 1e-12)))
        return low

    assert underestimates(CountSketchAdaGrad(width=3), 1.0) == 0
    assert underestimates(CountSketchAdaGrad(width=3, combine="median"), 1.0) > 0
    assert underestimates(CountSketchAdaGrad(width=3, clean_every=5), 1.0) > 0
    assert underestimates(CountSketchRMSProp(width=3, beta2=0.9, decay="global"), 0.9) == 0
    assert underestimates(CountSketchRMSProp(width=3, beta2=0.9, decay="global", conservative=True), 0.9) == 0


def test_lazy_decay_underestimates_a_good_part_of_the_active_entries():
    # The dense moment decays at every step; lazily, rows that share a bucket pull each other down.
    n, width, beta = 400, 20, 0.9
    rng = np.random.default_rng(0)
    p = 1.0 / np.arange(1, n + 1)
    grads = []
    for _ in range(80):
        items = np.unique(rng.choice(n, 120, p=p / p.sum()))
        grads.append(RowSparse(items, rng.standard_normal((items.size, 1)), (n, 1)))
    shares = {}
    for mode in ("lazy", "global"):
        rule, v, low, seen = CountSketchRMSProp(beta2=beta, width=width, decay=mode), np.zeros((n, 1)), 0, 0
        w, state = np.zeros((n, 1)), rule.init(np.zeros((n, 1)))
        for g in grads:
            values = rule.values(w, g, state)
            w, state = rule.update(w, g, state)
            v *= beta
            v[g.indices] += (1 - beta) * g.rows**2
            low += np.sum(values["v"] < v[g.indices] * (1 - 1e-12))
            seen += len(g.indices)
        shares[mode] = low / seen
    assert shares["global"] == 0
    # 0.08 here; the share grows with the number of active rows in a bucket (0.01 for one, 0.11 for ten).
    assert 0.05 < shares["lazy"] < 0.6


def test_the_floor_at_zero_acts_only_where_decay_is_lazy():
    def lowest(rule):
        below = 0
        w, state = np.zeros((N, D)), rule.init(np.zeros((N, D)))
        for g in row_gradients(60, active=8, seed=1):
            values = rule.values(w, g, state)
            below += int((rule.sketch("V", values).query(range(N)) < 0).sum())
            assert np.all(values["v"] >= 0)
            w, state = rule.update(w, g, state)
        return below

    for rule in (CountSketchAdaGrad(width=2), CountSketchRMSProp(width=2, beta2=0.5, decay="global")):
        assert lowest(rule) == 0
    # Eight active rows in two buckets at beta2 = 0.5 overshoot: 1 - k (1 - beta2) is negative.
    assert lowest(CountSketchRMSProp(width=2, beta2=0.5)) > 0


def test_sm3_on_the_same_buckets_lies_below_conservative_and_plain_count_min():
    n = 30
    cover = HashCover(depth=3, width=8, seed=11, of="rows")
    table = TableHash(cover.buckets(n))
    rules = {
        "II": SM3(cover=cover, variant="II"),
        "I": SM3(cover=cover, variant="I"),
        "conservative": CountSketchAdaGrad(hash=table, width=8, conservative=True),
        "plain": CountSketchAdaGrad(hash=table, width=8),
    }
    for seed, active in ((0, n), (1, 4), (2, 1)):
        rng = np.random.default_rng(seed)
        w, truth = np.zeros((n, 1)), np.zeros((n, 1))
        states = {name: rule.init(w) for name, rule in rules.items()}
        for _ in range(15):
            g = np.zeros((n, 1))
            g[rng.choice(n, active, replace=False)] = rng.integers(-4, 5, (active, 1))
            truth += g * g
            v = {}
            for name, rule in rules.items():
                values = rule.values(w, g, states[name])
                v[name] = values["nu"] if "nu" in values else values["v"]
                states[name] = rule.update(w, g, states[name])[1]
            assert np.all(truth <= v["II"])
            assert np.all(v["II"] <= v["conservative"])
            assert np.all(v["conservative"] <= v["plain"])
            assert np.all(v["II"] <= v["I"])
            assert np.all(v["I"] <= v["plain"])
    # The other way round is false at the end: the inequalities are not equalities.
    assert np.any(v["plain"] > v["conservative"])
    assert np.any(v["conservative"] > v["II"])


# Stability of lazy, batched decay


def crowd(k, steps, **options):
    """k rows in one bucket, unit gradients: the bucket's content, unclamped by the guard."""
    rule = CountSketchMomentum(momentum=0.9, depth=1, width=1, hash=TableHash([[0] * k]), **options)
    w, state = np.zeros((k, 1)), rule.init(np.zeros((k, 1)))
    for _ in range(steps):
        w, state = rule.update(w, np.ones((k, 1)), state)
    return float(state["leaves"][""]["M"].item())


def test_more_than_two_over_one_minus_gamma_rows_in_a_bucket_diverge():
    # S <- (1 - k (1 - gamma)) S + k has the fixed point 1 / (1 - gamma) = 10: the momenta's mean, not 10 k.
    assert abs(crowd(19, 60) - 10) < 0.05
    assert abs(crowd(21, 60)) > 1e3
    assert abs(crowd(30, 60)) > 1e18
    assert abs(crowd(30, 60, order="sequential") - 10) < 1e-6
    # 60 steps leave 0.9^60 = 0.0018 of the way to the fixed point, 30 * 10.
    assert abs(crowd(30, 60, decay="global") / 300 - 1) < 0.002


def test_per_row_delta_refuses_an_unstable_step_and_changes_nothing():
    for k in (19, 20, 21):
        rule = CountSketchMomentum(delta_from="row", depth=3, width=1)
        w, g = np.zeros((k, 2)), np.ones((k, 2))
        state = rule.init(w)
        sparse = RowSparse(np.arange(k), g, (k, 2))
        if k <= 20:
            rule.update(w, g, state)
            rule.update(w, sparse, state)
            rule.check_step("table", w, g, state["leaves"][""])
            continue
        for gradient in (g, sparse):
            with pytest.raises(StabilityError, match="21 active rows in one of 1 buckets"):
                rule.update(w, gradient, state)
            with pytest.raises(StabilityError, match="table"):
                rule.check_step("table", w, gradient, state["leaves"][""])
        assert not w.any()
        assert not state["leaves"][""]["M"].any()
        for option in ({"delta_from": "query"}, {"order": "sequential"}, {"decay": "global"}, {"width": 100}):
            rule.replace(**option).update(
                w, g, state if "width" not in option else rule.replace(**option).init(w)
            )


def test_adam_checks_both_moments_and_explains_the_risk_otherwise():
    w = np.zeros((30, 1))
    rule = CountSketchAdam(delta_from="row", width=1)
    with pytest.raises(StabilityError, match="M diverges"):
        rule.update(w, np.ones((30, 1)), rule.init(w))
    rule.replace(moments="second").update(w, np.ones((30, 1)), rule.replace(moments="second").init(w))
    slow = rule.replace(moments="second", beta2=0.9)
    with pytest.raises(StabilityError, match="V diverges"):
        slow.update(w, np.ones((30, 1)), slow.init(w))
    assert "more than 20 active rows in one of 1 buckets is refused" in rule.caution(w.shape, w.dtype)
    assert "can make that bucket diverge" in CountSketchAdam(width=1).caution(w.shape, w.dtype)
    for quiet in (
        CountSketchAdaGrad(),
        CountSketchAdam(decay="global"),
        CountSketchAdam(order="sequential"),
        Adam(),
    ):
        assert quiet.caution(w.shape, w.dtype) == ""


# Cleaning


def test_cleaning_reaches_v_at_every_so_many_steps_and_never_m():
    # Without active rows nothing else happens to a lazily decayed sketch.
    w = np.ones((N, D))
    rule = CountSketchAdam(width=4, clean_every=3, clean_factor=0.25)
    state = rule.update(w, np.ones((N, D)), rule.init(w))[1]
    for t in range(2, 8):
        old = state["leaves"][""]
        state = rule.update(w, np.zeros((N, D)), state)[1]
        new = state["leaves"][""]
        assert np.array_equal(new["M"], old["M"])
        assert np.array_equal(new["V"], old["V"] * (0.25 if t % 3 == 0 else 1.0))
        assert new["V"].any()


def test_cleaning_multiplies_v_exactly_before_the_step_and_the_step_jumps():
    w, g = np.zeros((4, 1)), np.ones((4, 1))
    for rule in (
        CountSketchAdaGrad(clean_every=3, clean_factor=0.25, eps=0.0, width=2),
        CountSketchAdaGrad(eps=0.0, width=2),
    ):
        state, steps = rule.init(w), []
        for t in range(1, 7):
            before = state["leaves"][""]["V"]
            values = rule.values(w, g, state)
            state = rule.update(w, g, state)[1]
            load = values["V"] - before * (0.25 if rule.clean_every and t % 3 == 0 else 1.0)
            assert set(load.ravel().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
            steps.append(float(values["u"][0, 0]))
        jumps = [later > sooner for sooner, later in itertools.pairwise(steps)]
        assert jumps == ([False, True, False, False, True] if rule.clean_every else [False] * 5)
    # In the long run, before its gradient enters, the step is 1 / sqrt(alpha) longer: doubled for 0.25.
    rule = CountSketchRMSProp(
        clean_every=200, clean_factor=0.25, decay="global", bias_correction="none", width=2, eps=0.0
    )
    state = rule.init(w)
    for _ in range(199):
        state = rule.update(w, g, state)[1]
    dry = rule.replace(beta2=1.0 - 2.0**-40)
    jump = dry.values(w, g, state)["denominator"] / np.sqrt(
        rule.sketch("V", state["leaves"][""]).query(range(4))
    )
    assert np.allclose(jump, 0.5, rtol=0, atol=1e-6)
