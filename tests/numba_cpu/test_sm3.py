"""SM3-II compiled against the reference: bit for bit, whatever the rank, layout, tasks and numbers."""

from __future__ import annotations

import copy
import platform
import re
import tracemalloc

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import sm3
from memopt_ref.parts.covers import HashCover, IndexCover
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import sm3_engine, sm3_loops  # noqa: E402

F32 = np.dtype(np.float32)
RULES = {
    "paper": mo.SM3(),
    "momentum": mo.SM3(momentum=0.9),
    "overwrite": mo.SM3(beta2=0.9),
    "ratchet": mo.SM3(beta2=0.9, ema="ratchet", momentum=0.5),
    "decay": mo.SM3(eps=1e-8, weight_decay=0.1),
    "decoupled": mo.SM3(eps_root=1e-30, weight_decay=0.1, weight_decay_mode="decoupled"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = (
    (),
    (1,),
    (5,),
    (0,),
    (7, 3),
    (1, 4),
    (4, 1),
    (0, 3),
    (3, 0),
    (2, 3, 5),
    (33, 200),
    (200, 33),
    (5, 131),
    (16, 8, 3, 3),
    (2, 129, 4, 33),
    (300, 16),
    (67, 48),
    (1, 32),
    (16, 201),
)


def settled(rule, w):
    state = rule.init_leaf(w)
    for k, array in enumerate(state.values()):
        array += np.abs(hard(array.shape, array.dtype.name, seed=50 + k, share=0))
    return state


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    indices = None
    if isinstance(g, RowSparse):
        g = g.coalesced()
        g, indices = g.rows, g.indices
    assert sm3_engine.step(rule, w, g, state, indices, **options)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = settled(rule, w)
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


@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule):
    for k, shape in enumerate(SHAPES):
        if rule.ema == "ratchet" and len(shape) < 2:
            continue
        layout = LAYOUTS[k % 2]
        w = laid(hard(shape, seed=k, share=0.02), layout)
        gradients = [hard(shape, seed=90 + k, share=0), hard(shape, seed=k, share=0.001)]
        assert_same_steps(rule, w, [laid(g, layout) for g in gradients])


def test_nan_and_infinity_of_either_sign_reach_the_accumulators_that_they_reach_in_the_reference():
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for shape in ((40, 200), (200, 20), (200, 16)):
            g = hard(shape, share=0)
            g[3, 7] = value
            w = hard(shape, seed=1, share=0)
            assert_same_steps(mo.SM3(), w, [g, hard(shape, seed=2, share=0)])
            if np.isnan(value):
                assert np.isnan(w[3]).any()
                assert np.isfinite(w).any()


@pytest.mark.parametrize("shape", [(), (40, 200), (200, 20), (200, 32)])
def test_numbers_that_change_nothing_are_left_out_and_no_others(shape, monkeypatch):
    w, g = hard(shape, share=0.02), [hard(shape, seed=1, share=0.01), hard(shape, seed=2, share=0)]
    monkeypatch.setattr(sm3_engine, "neutral", lambda rule: False)
    assert_same_steps(mo.SM3(), w.copy(), g)
    monkeypatch.setattr(sm3_engine, "neutral", lambda rule: True)
    for wrong in (mo.SM3(eps=0.5), mo.SM3(eps_root=0.5), mo.SM3(beta2=0.5)):
        with pytest.raises(AssertionError):
            assert_same_steps(wrong, w.copy(), g)


def test_a_tall_matrix_needs_no_second_copy_of_its_rows():
    w, g = hard((200_000, 8), share=0), hard((200_000, 8), seed=1, share=0)
    state = mo.SM3().init_leaf(w)
    through_the_engine(mo.SM3(), w, g, state)
    tracemalloc.start()
    through_the_engine(mo.SM3(), w, g, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < state["mu_0"].nbytes / 10


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, gradient_layout):
    for shape in ((67, 130), (130, 67), (131, 32)):
        w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0.001), gradient_layout)
        assert_same_steps(mo.SM3(momentum=0.9), w, [g])


def test_a_tensor_whose_axes_cannot_be_joined_is_stepped_by_the_reference():
    wide = np.zeros((4, 10, 3, 6), np.float32)
    w = wide[:, ::3, :2, :]
    g = np.ones(w.shape, np.float32)
    assert not sm3_engine.step(mo.SM3(), w, g, mo.SM3().init_leaf(w))
    assert_same_steps(mo.SM3(), w, [g], sm3.step)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_other_dtypes(dtype, momentum):
    for shape in ((7, 3), (33, 200), (201, 33), (5,)):
        w, g = hard(shape, dtype, share=0), hard(shape, dtype, seed=1, share=0)
        assert_same_steps(mo.SM3(momentum=momentum), w, [g, hard(shape, seed=2, share=0.001)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tasks", [1, 3, 7, 1000])
def test_threads_and_tasks_change_no_bit(threads, tasks):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one processor")

    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads, tasks=tasks)

    for shape in ((101, 257), (500, 17), (501, 16), (3, 40_001)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0.0001)
        assert_same_steps(mo.SM3(momentum=0.9), w, [g], kernel)


@pytest.mark.parametrize("name", ["paper", "momentum", "decoupled"])
def test_row_sparse_steps_touch_their_rows(name):
    for shape in ((5,), (9, 3), (40, 200), (6, 3, 5)):
        rows = np.random.default_rng(0).permutation(shape[0])[: shape[0] // 2 + 1]
        for layout in ("c", "fortran", "rows") if len(shape) < 3 else ("c",):
            g = RowSparse(rows, hard((rows.size, *shape[1:]), share=0.001), shape)
            again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=9, share=0), shape)
            one = RowSparse(np.array([shape[0] - 2]), hard((1, *shape[1:]), seed=8, share=0), shape)
            none = RowSparse(rows[:0], np.zeros((0, *shape[1:]), np.float32), shape)
            assert_same_steps(RULES[name], laid(hard(shape, share=0), layout), [g, again, one, none])


def test_accumulators_that_fall_are_stepped_on_the_dense_gradient():
    g = RowSparse(np.array([1, 3]), hard((2, 200), share=0), (9, 200))
    assert_same_steps(RULES["overwrite"], hard((9, 200), share=0), [g, g], sm3.step)


def test_which_rules_are_served():
    def reason(rule, dtype=F32):
        fits, why = sm3.supports(rule, (4, 3), dtype)
        assert fits == (why == "one pass over the tensor as a matrix")
        return why

    assert all(sm3.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert reason(mo.SM3(variant="I")) == "SM3-I takes two passes, and no kernel does"
    assert reason(mo.SM3(cover=HashCover(depth=2, width=5))) == "no kernel for HashCover"
    assert reason(mo.SM3(cover=IndexCover(((0, 1),)))) == "no kernel for IndexCover"
    assert reason(mo.SM3(), np.dtype(object)) == "no kernel for object"
    assert reason(mo.Adam()) == ""

    class Own(mo.SM3):
        def sm3_ii(self, g, mu):
            return super().sm3_ii(2 * g, mu)

    assert reason(Own()) == "Own has a sm3_ii() of its own"


def test_a_ratchet_on_a_vector_is_stepped_by_the_reference():
    assert_same_steps(RULES["ratchet"], hard((50,), share=0), [hard((50,), share=0)] * 2, sm3.step)


def test_no_multiplication_is_fused_and_both_loops_are_vectorised():
    for shape in ("pairs", "runs", "lanes", "single"):
        for mean, neutral in ((True, True), (True, False), (False, True), (False, False)):
            compiled = sm3_loops.loop(shape, mean, "none", False, neutral)
            if compiled.cache_hits:
                continue
            assembly = compiled._library.get_asm_str()
            assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
            if platform.machine() in ("x86_64", "AMD64"):
                assert re.search(r"vsqrtps\s+%[yz]mm", assembly)


def test_without_vectors_short_rows_are_runs(monkeypatch):
    assert [sm3_engine.loop_of(n, wide) for n in (16, 63, 64) for wide in (False, True)] == [
        "lanes" if sm3_engine.vectors.available() else "runs",
        *("runs",) * 3,
        *("pairs",) * 2,
    ]
    monkeypatch.setattr(sm3_engine.vectors, "available", lambda: False)
    assert sm3_engine.loop_of(48, False) == "runs"
    g = hard((200, 16), share=0.001)
    assert_same_steps(mo.SM3(momentum=0.9), hard((200, 16), seed=1, share=0), [g, hard((200, 16), seed=2)])


# The comparison, seen to fail on deliberate mistakes


def forgets_a_column(rule, w, g, state):
    through_the_engine(rule, w, g, state)
    state["mu_1"][-1] = 0


def drops_nan(rule, w, g, state):
    through_the_engine(rule, w, np.nan_to_num(g), state)


def takes_new_accumulators(rule, w, g, state):
    through_the_engine(rule, w.copy(), g, state)
    through_the_engine(rule, w, g, state)


@pytest.mark.parametrize("kernel", [forgets_a_column, drops_nan, takes_new_accumulators])
def test_a_wrong_kernel_is_caught(kernel):
    g = hard((40, 200), share=0)
    g[1, 1] = np.nan
    with pytest.raises(AssertionError):
        assert_same_steps(mo.SM3(), hard((40, 200), seed=1, share=0), [g], kernel)


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    sm3_engine.kernel.cache_clear()
    monkeypatch.setattr(sm3_loops, "loop", fails)
    with pytest.warns(
        RuntimeWarning, match=r"SM3's pairs cannot be compiled, NumPy steps instead \(not today\)"
    ):
        assert_same_steps(mo.SM3(), hard((9, 200), share=0), [hard((9, 200), share=0)] * 2, sm3.step)
    sm3_engine.kernel.cache_clear()


def test_accumulators_of_another_shape_or_dtype_are_not_walked():
    w, g = np.ones((4, 70), np.float32), np.ones((4, 70), np.float32)
    state = mo.SM3().init_leaf(w)
    assert not sm3_engine.step(mo.SM3(), w, g, {**state, "mu_1": np.zeros(69, np.float32)})
    assert not sm3_engine.step(mo.SM3(), w, g, {**state, "mu_1": np.zeros(70)})
    assert np.all(w == 1)
