"""The compiled steps of the count-sketch rules have the reference's bits, whatever options and layouts."""

from __future__ import annotations

import copy
import platform
import re
import tracemalloc

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import count_sketch
from memopt_ref.errors import RowIndexError, StabilityError
from memopt_ref.parts.fixed_hashes import LegacyHash
from memopt_ref.parts.hashing import CarterWegman, HashFamily, MultiplyShift
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import (  # noqa: E402
    count_sketch_drive,
    count_sketch_engine,
    count_sketch_rows,
    count_sketch_vectors,
    vectors,
)

F32 = np.dtype(np.float32)
ADAM = mo.CountSketchAdam
RULES = {
    "adam": ADAM(),
    "adam-global": ADAM(decay="global"),
    "adam-conservative": ADAM(decay="global", conservative=True),
    "adam-row": ADAM(delta_from="row", width=5),
    "adam-sequential": ADAM(order="sequential", bias_correction="eps_hat"),
    "adam-dense-m": ADAM(moments="second", clean_every=2, hash=MultiplyShift()),
    "adam-no-m": ADAM(beta1=0.0, width=3),
    "adam-signed": ADAM(combine="median", depth=4, eps=1.0),
    "adam-mean": ADAM(combine="mean", depth=2, eps=0.0),
    "adam-five": ADAM(depth=5, width=4),
    "adam-beta2-0": ADAM(beta2=0.0, eps=0.0),
    "momentum": mo.CountSketchMomentum(),
    "momentum-nesterov": mo.CountSketchMomentum(nesterov=True, decay="global", hash=CarterWegman()),
    "momentum-row": mo.CountSketchMomentum(delta_from="row", order="sequential", hash=LegacyHash()),
    "momentum-0": mo.CountSketchMomentum(momentum=0.0, depth=1),
    "adagrad": mo.CountSketchAdaGrad(),
    "adagrad-conservative": mo.CountSketchAdaGrad(conservative=True, clean_every=2),
    "adagrad-signed": mo.CountSketchAdaGrad(combine="median", eps=0.0, depth=4, order="sequential"),
    "rmsprop": mo.CountSketchRMSProp(),
    "rmsprop-cleaned": mo.CountSketchRMSProp(clean_every=2, clean_factor=0.3, decay="global"),
    "l2": ADAM(weight_decay=0.1),
    "l2-dense-m": ADAM(weight_decay=0.1, moments="second"),
    "l2-nesterov": mo.CountSketchMomentum(weight_decay=0.1, nesterov=True),
    "decoupled": ADAM(weight_decay=0.1, weight_decay_mode="decoupled"),
    "independent": mo.CountSketchAdaGrad(weight_decay=0.1, weight_decay_mode="independent"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    indices, t = None, int(state["t"]) + 1 if "t" in state else 0
    if isinstance(g, RowSparse):
        g = g.astype(w.dtype if w.dtype == np.float64 else np.float32).coalesced()
        g, indices = g.rows, g.indices
    assert count_sketch_engine.step(rule, w, g, state, t, indices, **options)
    if t:
        state["t"] = np.int64(t)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = rule.init_leaf(w, "table")
    for k, name in enumerate(("M", "V")):
        if name in state:
            start = hard(state[name].shape, state[name].dtype.name, seed=70 + k, share=0.01)
            state[name][...] = np.abs(start) if name == "V" else start
    other_w, other = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other)
        assert same_bits(w, other_w)
        for name, value in other.items():
            assert same_bits(state[name], value), name
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


def some_rows(shape, k, seed=0, dtype="float32", share=0.002, layout="c"):
    rng = np.random.default_rng(seed)
    items = np.sort(rng.choice(shape[0], k, replace=False))
    return RowSparse(items, laid(hard((k, *shape[1:]), dtype, seed=seed, share=share), layout), shape)


def dense(shape, seed=0, dtype="float32", share=0.002):
    """About half of the rows hold only zeros, of both signs."""
    g = hard(shape, dtype, seed=seed, share=share)
    g[::2] = 0
    g[2:4] *= -1
    return g


@pytest.mark.parametrize("rule", EACH)
def test_row_sparse_steps_have_the_bits_of_the_reference(rule):
    # The last has more buckets than active rows in each row of a sketch.
    for shape, active in (((60, 37), 41), ((80, 130), 12), ((9,), 4), ((30, 2, 3), 30), ((900, 20), 50)):
        w = hard(shape, seed=1, share=0)
        assert_same_steps(rule, w, [some_rows(shape, active, seed) for seed in range(2)])


@pytest.mark.parametrize("rule", EACH)
def test_dense_steps_find_their_active_rows(rule):
    for shape in ((61, 33), (40,)):
        assert_same_steps(rule, hard(shape, seed=1, share=0), [dense(shape, seed) for seed in range(2)])


def test_none_one_and_all_rows_and_empty_parameters():
    for shape in ((7, 5), (1, 3), (0, 4), (4, 0), (1,)):
        for name in ("adam", "rmsprop-cleaned", "momentum"):
            gradients = [some_rows(shape, k) for k in sorted({0, min(1, shape[0]), shape[0]})]
            assert_same_steps(RULES[name], hard(shape, share=0), [*gradients, dense(shape)])


def test_duplicate_rows_in_any_order_are_summed_first():
    rows = RowSparse(np.array([5, 2, 5, 2, 0]), hard((5, 20), share=0.05), (8, 20))
    w = hard((8, 20), seed=1, share=0)
    assert_same_steps(ADAM(), w, [rows, rows], count_sketch.step)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_weights_and_gradient(layout):
    for name in ("adam", "adam-dense-m", "l2"):
        for other in ("c", layout):
            w, shape = laid(hard((40, 35), seed=3, share=0), layout), (40, 35)
            assert_same_steps(RULES[name], w, [some_rows(shape, 25, layout=other), laid(dense(shape), other)])


def test_columns_that_cannot_be_joined_are_stepped_by_the_reference():
    w = np.asfortranarray(hard((20, 4, 5), share=0))
    g = some_rows(w.shape, 6)
    assert not count_sketch_engine.step(ADAM(), w, g.rows, ADAM().init_leaf(w), 1, g.indices)
    assert_same_steps(ADAM(), w, [g, g], count_sketch.step)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype):
    shape = (50, 40)
    others = () if dtype == "float64" else ("adam-dense-m", "decoupled", "l2")
    for name in ("adam", "adam-mean", "adam-five", *others):
        w = hard(shape, dtype, seed=1, share=0)
        mixed = [some_rows(shape, 30, 0, dtype), some_rows(shape, 20, 1, "float32"), dense(shape, 2, dtype)]
        assert_same_steps(RULES[name], w, mixed)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("blocks", [1, 3, 7, 1000])
def test_threads_and_blocks_change_no_bit(threads, blocks):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one processor")

    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads, blocks=blocks)

    for name in ("adam", "adam-global", "adam-conservative"):
        shape = (70, 151)
        assert_same_steps(RULES[name], hard(shape, seed=1, share=0), [some_rows(shape, 50)] * 2, kernel)


def test_large_steps_of_the_rule_of_thumb():
    shape = (3000, 300)
    gradients = [some_rows(shape, 600, seed) for seed in range(2)]
    assert_same_steps(ADAM(), hard(shape, seed=1, share=0), gradients)


def in_plain_loops(rule, w, g, state):
    """What a processor without the vectors runs."""
    original = count_sketch_engine.quickly
    count_sketch_engine.quickly = lambda form: 0
    try:
        through_the_engine(rule, w, g, state)
    finally:
        count_sketch_engine.quickly = original


@pytest.mark.parametrize(
    "name", ["adam", "adam-global", "adam-sequential", "momentum", "rmsprop-cleaned", "l2"]
)
def test_plain_loops_serve_the_columns_that_vectors_would(name):
    for shape, rows in (((60, 35), 41), ((9, 48), 4)):
        w, gradients = hard(shape, seed=1, share=0), [some_rows(shape, rows), dense(shape)]
        assert_same_steps(RULES[name], w.copy(), gradients)
        assert_same_steps(RULES[name], w, gradients, in_plain_loops)


@pytest.mark.skipif(not vectors.available(), reason="the processor has no such vectors")
def test_which_steps_run_in_vectors(monkeypatch):
    def kernels(rule, columns, dtype=np.float32, **options):
        seen = []
        monkeypatch.setattr(count_sketch_drive, "serial", lambda *arguments: seen.append(arguments))
        w = np.ones((20, columns), dtype)
        state = rule.init_leaf(w)
        through_the_engine(rule, w, some_rows(w.shape, 9), state, threads=1, **options)
        ((addresses, *_, edges),) = seen
        # No plain loop is loaded where none has anything to do.
        assert bool(addresses[0]) == bool(addresses[1]) == (not addresses[3] or columns % 16 != 0)
        return bool(addresses[3]), edges.tolist()

    served = {name for name, rule in RULES.items() if kernels(rule, 16)[0]}
    plain = {"adam-conservative", "adam-row", "adam-signed", "adam-mean", "adam-five", "momentum-row"}
    assert set(RULES) - served == plain | {"momentum-0", "adagrad-conservative", "adagrad-signed"}
    assert not kernels(ADAM(), 16, np.float64)[0]
    assert kernels(ADAM(), 100, blocks=3) == (True, [0, 32, 64, 96, 100])
    assert kernels(ADAM(), 15)[1] == [0, 15]


def test_vectors_that_do_not_compile_are_left_to_the_plain_loops(monkeypatch):
    def fails(form):
        raise TypeError("not today")

    monkeypatch.setattr(count_sketch_engine.vectors, "available", lambda: True)
    monkeypatch.setattr(count_sketch_engine.quick, "loop", fails)
    count_sketch_engine.quickly.cache_clear()
    with pytest.warns(
        RuntimeWarning, match="loop in vectors cannot be compiled, plain ones step .*not today"
    ):
        assert_same_steps(ADAM(), hard((9, 32), share=0), [some_rows((9, 32), 4)] * 2)
    count_sketch_engine.quickly.cache_clear()


def test_nan_and_infinity_of_either_sign_go_where_they_go_in_the_reference():
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for name in ("adam", "adam-conservative", "momentum", "adagrad", "adam-mean"):
            # Column 7 is stepped in a vector, column 17 after it.
            g = some_rows((30, 20), 12, share=0)
            g.rows[4, 17] = value
            g.rows[3, 7] = value
            w = hard((30, 20), seed=1, share=0)
            assert_same_steps(RULES[name], w, [g, some_rows((30, 20), 30, 1, share=0)])
            assert np.isfinite(w).any()
            assert np.isnan(value) <= np.isnan(w).any()


def test_zeros_keep_their_signs():
    """A bucket's sum begins with its first increment, not with +0."""
    shape = (12, 16)
    minus = RowSparse(np.arange(12), np.full(shape, -0.0, np.float32), shape)
    for name in ("adam", "momentum", "adagrad-signed", "adam-row"):
        rule, w = RULES[name], np.full(shape, -0.0, np.float32)
        state = rule.init_leaf(w)
        for table in (state[n] for n in ("M", "V") if n in state):
            table[...] = -0.0
        other_w, other = w.copy(), copy.deepcopy(state)
        through_the_engine(rule, w, minus, state)
        numpy_ref.step(rule, other_w, minus, other)
        assert all(same_bits(state[n], other[n]) for n in other)
        assert same_bits(w, other_w)


def test_errors_are_those_of_the_rule_and_nothing_is_written():
    w = np.ones((40, 20), np.float32)
    crowded = ADAM(delta_from="row", width=1, beta1=0.5)
    state = crowded.init_leaf(w)
    before = copy.deepcopy(state)
    with pytest.raises(StabilityError):
        count_sketch_engine.step(crowded, w, np.ones_like(w), state, 1)
    far = RowSparse(np.array([0, 2**31 - 1]), np.zeros((2, 1), np.float32), (2**31, 1))
    with pytest.raises(RowIndexError):
        count_sketch_engine._locate(
            ADAM(hash=CarterWegman()),
            "M",
            {**state, "M": np.zeros((3, 1, 1), np.float32)},
            far.indices,
            0,
            None,
        )
    assert np.all(w == 1)
    assert all(same_bits(state[n], before[n]) for n in before)


def test_conservative_update_is_for_v_alone():
    """A first moment has increments of both signs: raising its buckets would lose half of them."""
    shape, tables = (60, 20), {}
    for conservative in (False, True):
        rule, w = ADAM(decay="global", conservative=conservative), np.zeros(shape, np.float32)
        state = tables[conservative] = rule.init_leaf(w)
        for seed in range(2):
            numpy_ref.step(rule, w, some_rows(shape, 40, seed, share=0), state)
    assert same_bits(tables[True]["M"], tables[False]["M"])
    assert (tables[True]["V"] <= tables[False]["V"]).all()
    assert (tables[True]["V"] < tables[False]["V"]).any()


def test_which_rules_are_served():
    def reason(rule, dtype=F32):
        fits, why = count_sketch.supports(rule, (4, 3), dtype)
        assert fits == (why == "one pass over the active rows and their buckets")
        return why

    assert all(count_sketch.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert reason(ADAM(), np.dtype(object)) == "no kernel for object"
    assert reason(mo.Adam()) == ""

    class Own(ADAM):
        def follow(self, items, g, state):
            return super().follow(items, 2 * g, state)

    assert reason(Own()) == "Own is a class of its own"


class Astray(HashFamily):
    """Leads out of every table."""

    def buckets(self, items, row, width, seed):
        return np.asarray(items) + width

    def signs(self, items, row, width, seed):
        return np.ones(len(items), np.int8)


def test_tables_of_another_shape_or_dtype_are_not_walked():
    w, g = np.ones((40, 20), np.float32), np.ones((40, 20), np.float32)
    state = ADAM().init_leaf(w)
    wrong = (
        np.zeros((3, 2, 19), np.float32),
        np.zeros((3, 2, 20)),
        np.zeros((20, 2, 3), np.float32).T,
        np.zeros((3, 1, 20), np.float32),
    )
    for table in wrong:
        assert not count_sketch_engine.step(ADAM(), w, g, {**state, "V": table}, 1)
    assert not count_sketch_engine.step(ADAM(), w, g[:1], state, 1, np.array([40]))
    assert not count_sketch_engine.step(ADAM(hash=Astray()), w, g, state, 1)
    assert np.all(w == 1)


def test_no_temporary_of_the_size_of_the_parameter_or_the_sketch():
    w = np.zeros((40_000, 64), np.float32)
    state, g = ADAM().init_leaf(w), some_rows(w.shape, 256, share=0)
    through_the_engine(ADAM(), w, g, state)
    tracemalloc.start()
    through_the_engine(ADAM(), w, g, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < w.nbytes / 20


FORM = count_sketch_vectors.Form(
    count_sketch_engine.along_adam,
    "estimate",
    "none",
    count_sketch_vectors.Kept(least=False, lazy=True, momentum=False, fresh=False),
    count_sketch_vectors.Kept(least=True, lazy=True, momentum=False, fresh=False),
)


def test_no_multiplication_is_fused_and_the_loops_are_vectorised():
    compiled = [
        count_sketch_rows.loop(count_sketch_rows.query, False),
        count_sketch_rows.loop(count_sketch_rows.follow, False),
        count_sketch_rows.finisher(count_sketch_engine.along_adam, "estimate", "none", False),
        count_sketch_vectors.loop(FORM),
    ]
    assert not all(one.cache_hits for one in compiled)
    for one in (one for one in compiled if not one.cache_hits):
        assembly = one._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
        if platform.machine() in ("x86_64", "AMD64"):
            assert re.search(r"v(min|add|sqrt|cmplt|cmpnge)\w*ps\s+.*%[yz]mm", assembly)


# The comparison, seen to fail on deliberate mistakes


def adds_one_by_one(rule, w, g, state):
    """Rounds after every increment instead of once."""
    for k in range(g.indices.size):
        t = state["t"]
        one = RowSparse(g.indices[k : k + 1], g.rows[k : k + 1], g.shape)
        through_the_engine(rule, w, one, state)
        state["t"] = t
    state["t"] = np.int64(t + 1)


def sees_new_contents(rule, w, g, state):
    through_the_engine(rule.replace(order="sequential"), w, g, state)


def drops_nan(rule, w, g, state):
    through_the_engine(rule, w, RowSparse(g.indices, np.nan_to_num(g.rows), g.shape), state)


def hashes_both_moments_alike(rule, w, g, state):
    original = count_sketch_engine.moment_seed
    count_sketch_engine.keys.cache_clear()
    count_sketch_engine.moment_seed = lambda seed, moment: original(seed, 1)
    try:
        through_the_engine(rule, w, g, state)
    finally:
        count_sketch_engine.moment_seed = original
        count_sketch_engine.keys.cache_clear()


@pytest.mark.parametrize("kernel", [adds_one_by_one, sees_new_contents, drops_nan, hashes_both_moments_alike])
def test_a_wrong_kernel_is_caught(kernel):
    g = some_rows((60, 20), 40, share=0)
    g.rows[1, 1] = np.nan
    with pytest.raises(AssertionError):
        assert_same_steps(ADAM(), hard((60, 20), seed=1, share=0), [g], kernel)


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    count_sketch_engine.plainly.cache_clear()
    monkeypatch.setattr(count_sketch_rows, "finisher", fails)
    with pytest.warns(RuntimeWarning, match=r"along_adam\(\) cannot be compiled, NumPy steps instead"):
        assert_same_steps(ADAM(), hard((9, 20), share=0), [some_rows((9, 20), 4)] * 2, count_sketch.step)
    count_sketch_engine.plainly.cache_clear()


@pytest.mark.parametrize("name", ["stir", "scale"])
def test_nor_do_the_loops_over_plain_rows_have_to_compile(monkeypatch, name):
    original = count_sketch_rows.loop

    def fails(template, wide):
        if template.__name__ == name:
            raise TypeError("not today")
        return original(template, wide)

    count_sketch_engine.over_rows.cache_clear()
    monkeypatch.setattr(count_sketch_rows, "loop", fails)
    with pytest.warns(RuntimeWarning, match=rf"{name}\(\) cannot be compiled, NumPy steps instead"):
        assert_same_steps(
            RULES["adam-global"], hard((9, 20), share=0), [dense((9, 20))] * 2, count_sketch.step
        )
    count_sketch_engine.over_rows.cache_clear()
