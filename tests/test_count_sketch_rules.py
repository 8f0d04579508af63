"""Count-sketch optimizers against hand-written loops and the dense rules; kinds of gradients and state."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from memopt_ref.errors import HyperparameterError, ShapeError
from memopt_ref.parts.fixed_hashes import LegacyHash, TableHash
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.sketches import CountMinSketch, CountSketch
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.count_sketch import CountSketchAdaGrad, CountSketchMomentum
from memopt_ref.rules.count_sketch_adam import CountSketchAdam, CountSketchRMSProp
from memopt_ref.rules.sgd import SGD
from tests.sketch_runs import D, N, row_gradients, run

MODES = [
    {"decay": decay, "delta_from": source, "order": order}
    for decay, source, order in itertools.product(
        ("lazy", "global"), ("query", "row"), ("batched", "sequential")
    )
]
BY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(mode.values()))


# A bucket for each row: the dense rule, bit for bit


def identity(rule, **mode):
    return rule.replace(hash=TableHash.identity(N, rule.depth), width=N, **mode)


def dense_by_hand(kind, decay, grads, dtype):
    """Dense momentum and Adam on the gradient's rows, in the form of the increments that a sketch adds."""
    lr, gamma, b1, b2, eps = 0.1, 0.9, 0.9, 0.99, 1e-8
    w, m, v, number = (
        np.zeros((N, D), dtype),
        np.zeros((N, D), dtype),
        np.zeros((N, D), dtype),
        np.dtype(dtype).type,
    )
    for t, g in enumerate(grads, start=1):
        i, x = g.indices, g.rows
        if kind == "momentum":
            if decay == "global":
                m *= number(gamma)
                m[i] += x
            else:
                m[i] += number(gamma - 1.0) * m[i] + x
            w[i] -= number(lr) * m[i]
            continue
        if decay == "global":
            m, v = number(b1) * m, number(b2) * v
            m[i] += number(1.0 - b1) * x
            v[i] += number(1.0 - b2) * (x * x)
        else:
            m[i] += number(1.0 - b1) * (x - m[i])
            v[i] += number(1.0 - b2) * (x * x - v[i])
        m_hat, v_hat = m[i] / number(1.0 - b1**t), v[i] / number(1.0 - b2**t)
        w[i] -= number(lr) * (m_hat / (np.sqrt(v_hat) + number(eps)))
    return w


@BY_MODE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [1, 3])
def test_with_a_bucket_for_each_row_it_is_dense_momentum_and_adam(mode, dtype, depth):
    momentum = identity(CountSketchMomentum(learning_rate=0.1, depth=depth), **mode)
    adam = identity(CountSketchAdam(learning_rate=0.1, beta2=0.99, depth=depth), **mode)
    for kind, rule in (("momentum", momentum), ("adam", adam)):
        grads = list(row_gradients(12, dtype=dtype))
        w = run(rule, grads, dtype=dtype)[0]
        assert w.dtype == dtype
        assert np.array_equal(w, dense_by_hand(kind, mode["decay"], grads, dtype))
        other = "global" if mode["decay"] == "lazy" else "lazy"
        assert not np.array_equal(w, dense_by_hand(kind, other, grads, dtype))


@pytest.mark.parametrize("order", ["batched", "sequential"])
@pytest.mark.parametrize("conservative", [False, True])
def test_with_a_bucket_for_each_row_it_is_adagrad(order, conservative):
    rule = identity(CountSketchAdaGrad(learning_rate=0.1, order=order, conservative=conservative))
    for dtype in (np.float32, np.float64):
        grads = list(row_gradients(12, dtype=dtype))
        ours = run(rule, grads, dtype=dtype)[0]
        dense = run(AdaGrad(learning_rate=0.1, eps=1e-10), grads, dtype=dtype)[0]
        assert np.array_equal(ours, dense)


def test_globally_decayed_dense_gradients_give_the_dense_rules():
    rng = np.random.default_rng(2)
    grads = [rng.standard_normal((N, D)) for _ in range(10)]
    adam = CountSketchAdam(decay="global")
    momentum = CountSketchMomentum(learning_rate=0.1, decay="global")
    pairs = [
        (momentum, SGD(learning_rate=0.1, momentum=0.9)),
        (momentum.replace(nesterov=True), SGD(learning_rate=0.1, momentum=0.9, nesterov=True)),
        (adam, Adam()),
        (adam.replace(moments="second"), Adam()),
        (adam.replace(bias_correction="eps_hat", eps=1e-7), Adam(bias_correction="eps_hat", eps=1e-7)),
        (adam.replace(bias_correction="none"), Adam(bias_correction="none")),
        (adam.replace(beta1=0.0), Adam(beta1=0.0)),
    ]
    for sketched, dense in pairs:
        assert np.array_equal(run(identity(sketched), grads)[0], run(dense, grads)[0])
    assert identity(adam).dense() == Adam()


# The semantics, against loops that share nothing with the library


def plain_loop(rule, grads, buckets, signs):
    """The paper's algorithms and the public code's per-row delta, one number at a time."""
    depth, width = len(buckets), rule.width
    S, w = np.zeros((depth, width)), np.zeros(N)

    def row(j, i):
        return signs[j][i] * S[j, buckets[j][i]]

    def query(i):
        return sorted(row(j, i) for j in range(depth))[depth // 2]

    def delta(i, g):
        olds = [row(j, i) if rule.delta_from == "row" else query(i) for j in range(depth)]
        return [g if rule.decay == "global" else (rule.momentum - 1) * old + g for old in olds]

    def add(i, u):
        for j in range(depth):
            S[j, buckets[j][i]] += signs[j][i] * u[j]

    for g in grads:
        if rule.decay == "global":
            S *= rule.momentum
        found = {}
        if rule.order == "sequential":
            for i, x in zip(g.indices, g.rows[:, 0], strict=True):
                add(i, delta(i, x))
                found[i] = query(i)
        else:
            deltas = {i: delta(i, x) for i, x in zip(g.indices, g.rows[:, 0], strict=True)}
            for i, u in deltas.items():
                add(i, u)
            found = {i: query(i) for i in deltas}
        for i, m in found.items():
            w[i] -= rule.learning_rate * m
    return w


@BY_MODE
def test_each_mode_is_what_a_plain_loop_does(mode):
    rng = np.random.default_rng(5)
    buckets, signs = rng.integers(0, 4, (3, N)), rng.choice([-1, 1], (3, N))
    rule = CountSketchMomentum(learning_rate=0.1, hash=TableHash(buckets, signs), width=4, **mode)
    grads = list(row_gradients(15, d=1))
    ours = run(rule, grads, np.zeros((N, 1)))[0][:, 0]
    # The loop adds to a bucket one by one, the rule adds their sum: 15 steps of at most 4 more roundings.
    assert abs(ours - plain_loop(rule, grads, buckets, signs)).max() < 60 * 2.3e-16 * 10
    others = [plain_loop(rule.replace(**other), grads, buckets, signs) for other in MODES if other != mode]
    if mode["decay"] == "lazy":
        assert all(abs(ours - other).max() > 1e-6 for other in others)


def test_public_codes_formula_with_its_hash_and_one_block_after_another():
    """Adam's second moment and step as its kernel and optimizer compute them, rows in ascending order."""
    rule = CountSketchAdam(learning_rate=0.01, hash=LegacyHash(), width=4, bias_correction="eps_hat")
    rule = rule.replace(delta_from="row", order="sequential")
    rng = np.random.default_rng(8)
    w, M, V = np.zeros((N, D)), np.zeros((3, 4, D)), np.zeros((3, 4, D))
    h = [LegacyHash().buckets(np.arange(N), j, 4, 0) for j in range(3)]
    s = [LegacyHash().signs(np.arange(N), j, 4, 0) for j in range(3)]
    grads = []
    for t in range(1, 13):
        items = np.sort(rng.choice(N, 5, replace=False))
        g = RowSparse(items, rng.standard_normal((5, D)), (N, D))
        grads.append(g)
        rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        for i, x in zip(g.indices, g.rows, strict=True):
            means, squares = [], []
            for j in range(3):
                old = s[j][i] * M[j, h[j][i]]
                u = (1 - 0.9) * (x - old)
                M[j, h[j][i]] += s[j][i] * u
                means.append(old + u)
                old = V[j, h[j][i]].copy()
                u = (1 - 0.999) * (x * x - old)
                V[j, h[j][i]] += u
                squares.append(old + u)
            w[i] -= rate * np.median(means, axis=0) / (np.sqrt(np.maximum(np.min(squares, axis=0), 0)) + 1e-8)
    ours, state, _ = run(rule, grads)
    # Same operations; the step multiplies before or after it divides: a few ulps of steps of size 0.01 .. 1.
    assert np.allclose(ours, w, rtol=1e-13, atol=1e-15)
    assert np.array_equal(state["M"], M)
    assert np.array_equal(state["V"], V)


def test_sequential_equals_batched_exactly_when_no_two_active_rows_meet():
    apart = TableHash(
        np.tile(np.arange(N) % 6, (3, 1)), np.where(np.random.default_rng(0).random((3, N)) < 0.5, -1, 1)
    )
    grads = [dataclasses.replace(g, indices=np.array([0, 1, 8, 9])) for g in row_gradients(10)]
    meeting = [dataclasses.replace(g, indices=np.array([0, 1, 6, 9])) for g in row_gradients(10)]
    for rule in (
        CountSketchMomentum(hash=apart, width=6),
        CountSketchMomentum(hash=apart, width=6, delta_from="row"),
        CountSketchAdaGrad(hash=apart, width=6),
        CountSketchAdam(hash=apart, width=6, decay="global"),
    ):
        sequential = rule.replace(order="sequential")
        assert np.array_equal(run(rule, grads)[0], run(sequential, grads)[0])
        assert not np.array_equal(run(rule, meeting)[0], run(sequential, meeting)[0])


# Linearity under global decay


def test_globally_decayed_sketch_is_the_sketch_of_the_dense_moments():
    rule = CountSketchAdam(decay="global", beta1=0.5, beta2=0.75, width=4, seed=3)
    rng = np.random.default_rng(1)
    m, v = np.zeros((N, D)), np.zeros((N, D))
    w, state = np.zeros((N, D)), rule.init(np.zeros((N, D)))
    for _ in range(8):
        g = rng.integers(-8, 9, (N, D)) * (rng.random((N, 1)) < 0.4).astype(float)
        w, state = rule.update(w, g, state)
        # Dyadic numbers of few bits: every operation is exact, so every order gives the same.
        m, v = 0.5 * m + 0.5 * g, 0.75 * v + 0.25 * (g * g)
        leaf = state["leaves"][""]
        for name, dense in (("M", m), ("V", v)):
            empty = dataclasses.replace(rule.sketch(name, leaf), table=np.zeros_like(leaf[name]))
            assert np.array_equal(leaf[name], empty.update(range(N), dense).table)
    lazy = run(rule.replace(decay="lazy"), row_gradients(8))[1]
    linear = run(rule, row_gradients(8))[1]
    assert not np.allclose(lazy["M"], linear["M"])


def test_sketches_of_two_halves_of_a_gradient_add_up_where_the_slot_says_so():
    w = np.zeros((N, D))
    left, right = np.zeros((N, D)), np.zeros((N, D))
    left[:6], right[6:] = 3.0, -2.0
    for rule in (CountSketchMomentum(decay="global", width=3), CountSketchAdaGrad(width=3)):
        name = next(iter(rule.slots(w.shape, w.dtype)))
        assert rule.slots(w.shape, w.dtype)[name].merge == "sum"
        both = rule.values(w, left + right, rule.init(w))[name]
        parts = [rule.sketch(name, rule.values(w, g, rule.init(w))) for g in (left, right)]
        assert np.array_equal(both, parts[0].merged(parts[1]).table)
    for rule in (CountSketchMomentum(), CountSketchAdaGrad(conservative=True), CountSketchAdam()):
        assert {slot.merge for name, slot in rule.slots(w.shape, w.dtype).items() if name in "MV"} == {None}


# Gradients of all kinds


ALL = [
    CountSketchMomentum(width=3),
    CountSketchMomentum(width=3, decay="global", nesterov=True),
    CountSketchAdaGrad(width=3),
    CountSketchAdaGrad(width=3, combine="median", eps=1.0, depth=4),
    CountSketchAdam(width=3, depth=2),
    CountSketchAdam(width=3, moments="second", weight_decay=0.1, weight_decay_mode="decoupled"),
    CountSketchAdam(width=3, beta1=0.0, decay="global"),
    CountSketchRMSProp(width=3, depth=5, order="sequential"),
]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
@pytest.mark.parametrize("columns", [(), (1,), (5,), (2, 3)])
def test_row_sparse_equals_dense_on_the_active_rows(rule, columns):
    rule = rule.replace(weight_decay=0.0)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.float16):
        w = rng.standard_normal((N, *columns)).astype(dtype)
        dense, sparse, state_d, state_s = w, w, rule.init(w), rule.init(w)
        for _ in range(5):
            items = np.sort(rng.choice(N, 4, replace=False))
            g = RowSparse(items, rng.standard_normal((4, *columns)).astype(dtype), w.shape)
            resting = np.delete(np.arange(N), items)
            kept = sparse[resting]
            dense, state_d = rule.update(dense, g.to_dense(), state_d)
            sparse, state_s = rule.update(sparse, g, state_s)
            assert sparse.dtype == dtype
            assert np.array_equal(sparse, dense)
            assert np.array_equal(sparse[resting], kept)
            for name, array in state_d["leaves"][""].items():
                assert np.array_equal(array, state_s["leaves"][""][name]), name


def test_duplicate_rows_are_summed_and_then_squared():
    w = np.zeros((4, 1))
    twice = RowSparse(np.array([2, 0, 2]), np.array([[1.0], [3.0], [1.0]]), w.shape)
    for rule in (CountSketchAdaGrad(width=4), CountSketchAdam(width=4), CountSketchMomentum(width=4)):
        summed = rule.update(w, twice, rule.init(w))
        plain = rule.update(w, twice.to_dense(), rule.init(w))
        assert np.array_equal(summed[0], plain[0])
    total = CountSketchAdaGrad(depth=1, width=1).values(
        w, twice, CountSketchAdaGrad(depth=1, width=1).init(w)
    )["V"]
    assert total.item() == 4.0 + 9.0
    assert total.item() != 1.0 + 1.0 + 9.0


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_a_gradient_without_rows_moves_the_clock_and_global_decay_alone(rule):
    w = np.ones((N, D))
    empty = RowSparse(np.empty(0, np.int64), np.empty((0, D)), w.shape)
    state = rule.update(w, np.ones((N, D)), rule.init(w))[1]
    old = state["leaves"][""]
    for g in (empty, np.zeros((N, D))):
        if g is not empty and rule.weight_decay != 0:
            continue
        new_w, after = rule.update(w, g, state)
        new = after["leaves"][""]
        assert np.array_equal(new_w, w)
        assert after["step"] == state["step"] + 1
        assert "t" not in old or new["t"] == old["t"] + 1
        for name in {"M", "V"} & old.keys():
            factor = rule.keeps()[name] if rule.manner().decay == "global" else 1.0
            assert np.array_equal(new[name], old[name] * factor)
    untouched = rule.update(w, None, state)[1]["leaves"][""]
    assert all(np.array_equal(untouched[name], old[name]) for name in old)


def test_a_nan_in_one_row_reaches_only_rows_that_share_its_buckets():
    n = 40
    g = np.ones((n, 2))
    g[7, 1] = np.nan
    for rule in (CountSketchAdaGrad(width=16), CountSketchAdam(width=16), CountSketchMomentum(width=16)):
        w = np.zeros((n, 2))
        w, state = rule.update(w, g, rule.init(w))
        leaf = state["leaves"][""]
        name = "M" if "M" in leaf else "V"
        shares = np.zeros(n, bool)
        for moment in {"M", "V"} & leaf.keys():
            places = rule.sketch(moment, leaf).locate(range(n)).buckets
            shares |= (places == places[:, 7:8]).any(axis=0)
            assert np.isnan(leaf[moment]).sum() == rule.depth
        assert shares[7]
        assert not shares.all(), name
        assert np.array_equal(np.isnan(w[:, 1]), shares)
        assert not np.isnan(w[:, 0]).any()


# State


def test_width_follows_the_public_codes_rule_and_bytes_are_exact():
    for rows, width in (
        (793_471, 52_898),
        (267_735, 17_849),
        (33_278, 2_218),
        (80_204, 5_346),
        (3, 1),
        (0, 1),
    ):
        slots = CountSketchAdam().slots((rows, 256), np.dtype("float32"))
        assert slots["M"].shape == slots["V"].shape == (3, width, 256)
    slot = CountSketchAdaGrad().slots((793_471, 256), np.dtype("float32"))["V"]
    assert slot.nbytes == 3 * 52_898 * 256 * 4
    assert round(slot.nbytes / 2**20, 1) == 155.0
    assert CountSketchAdaGrad(width=7, depth=1).slots((10,), np.dtype("float16"))["V"].shape == (1, 7)
    assert CountSketchAdaGrad().slots((10, 2), np.dtype("float16"))["V"].dtype == np.float32


def test_slots_are_what_each_variant_needs():
    def names(rule):
        return set(rule.slots((100, 4), np.dtype("float32")))

    assert names(CountSketchMomentum()) == {"M", "seed"}
    assert names(CountSketchAdaGrad()) == {"V", "seed"}
    assert names(CountSketchAdaGrad(clean_every=5)) == {"V", "seed", "t"}
    assert names(CountSketchAdam()) == {"M", "V", "seed", "t"}
    assert names(CountSketchAdam(moments="second")) == {"m", "V", "seed", "t"}
    assert names(CountSketchAdam(beta1=0.0)) == names(CountSketchRMSProp()) == {"V", "seed", "t"}


def test_adam_without_first_moment_is_rmsprop():
    grads = list(row_gradients(10))
    adam = CountSketchAdam(beta1=0.0, width=3, bias_correction="eps_hat")
    assert np.array_equal(run(adam, grads)[0], run(CountSketchRMSProp(width=3), grads)[0])


def test_moments_leaves_and_seeds_hash_independently():
    rule = CountSketchAdam(width=50)
    params = {"a": np.zeros((100, 1)), "b": np.zeros((100, 1))}
    leaves = rule.init(params)["leaves"]
    other = rule.replace(seed=1).init(params)["leaves"]
    where = (("M", leaves["a"]), ("V", leaves["a"]), ("M", leaves["b"]), ("M", other["a"]))
    sketches = [rule.sketch(name, leaf) for name, leaf in where]
    tables = [tuple(map(tuple, sketch.locate(range(100)).buckets.tolist())) for sketch in sketches]
    assert len(set(tables)) == 4
    assert isinstance(sketches[0], CountSketch)
    assert isinstance(sketches[1], CountMinSketch)
    again = rule.sketch("M", rule.init(params)["leaves"]["a"])
    assert np.array_equal(again.locate(range(100)).buckets, sketches[0].locate(range(100)).buckets)


def test_metric_is_the_step_that_was_taken():
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((N, D)), rng.standard_normal((N, D))
    g[3] = 0.0
    for rule, direction in (
        (CountSketchAdaGrad(width=4), None),
        (CountSketchMomentum(width=4), "u"),
        (CountSketchAdam(width=4), "m_hat"),
        (CountSketchRMSProp(width=4), "m_hat"),
    ):
        values = rule.values(w, g, rule.init(w))
        move = rule.metric(values).solve(g if direction is None else values[direction])
        active = g.any(axis=1)
        # lr * (x / d) against x / (d / lr): four roundings of numbers below 1.
        assert np.allclose((w - values["w"])[active], move[active], rtol=1e-12, atol=1e-15)
        assert np.array_equal(values["w"][~active], w[~active])


def test_bad_options_and_shapes_are_refused():
    with pytest.raises(ShapeError, match="at least one axis"):
        CountSketchAdam().init(np.float64(1.0).reshape(()))
    for bad in (
        {"compression": 0.0},
        {"depth": 0},
        {"width": 0},
        {"seed": -1},
        {"hash": "fast"},
        {"decay": "none"},
        {"order": "any"},
        {"delta_from": "bucket"},
        {"conservative": True},
        {"conservative": True, "decay": "global", "combine": "median"},
        {"clean_every": 5, "combine": "mean"},
        {"clean_factor": 1.5},
        {"moments": "first"},
    ):
        with pytest.raises(HyperparameterError, match="CountSketchAdam"):
            CountSketchAdam(**bad)
