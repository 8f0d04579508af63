"""AdaGrad with one number a tensor or a row, compiled against the reference: bit for bit."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import row_wise
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import row_wise_engine, row_wise_loops  # noqa: E402

RULES = {
    "norm": mo.AdaGradNorm(eps=1e-8),
    "norm-decayed": mo.AdaGradNorm(eps_root=1e-8, initial_accumulator=0.5, weight_decay=0.1),
    "rows": mo.RowWiseAdaGrad(),
    "rows-summed": mo.RowWiseAdaGrad(reduce="sum", eps=1e-8, eps_root=1e-7, initial_accumulator=0.1),
    "rows-l2": mo.RowWiseAdaGrad(weight_decay=0.1),
    "rows-shrunk": mo.RowWiseAdaGrad(weight_decay=0.1, weight_decay_mode="decoupled"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = (
    (),
    (1,),
    (5,),
    (9001,),
    (7, 3),
    (1, 4),
    (4, 1),
    (33, 200),
    (200, 33),
    (70, 1100),
    (2, 3, 5),
    (3, 70, 520),
    (16, 8, 3, 3),
)


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    indices = None
    if isinstance(g, RowSparse):
        g = g.coalesced()
        g, indices = g.rows, g.indices
    assert row_wise_engine.step(rule, w, g, state, indices, **options)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = rule.init_leaf(w)
    other_w, other = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other)
        assert same_bits(w, other_w)
        assert same_bits(state["s"], other["s"])
        if not isinstance(g, RowSparse):
            assert same_bits(g, before), "the gradient was written"


@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule):
    # A decay that is part of the gradient has loops of its own: those of matrices will do.
    for k, shape in enumerate(SHAPES if rule is not RULES["rows-l2"] else ((33, 200), (70, 1100))):
        layout = "rows" if k % 2 and len(shape) < 3 else "c"
        gradients = [
            hard(shape, seed=90 + k, share=0),
            hard(shape, seed=k, share=0.01),
            np.zeros(shape, "f4"),
        ]
        assert_same_steps(
            rule, laid(hard(shape, seed=k, share=0), layout), [laid(g, layout) for g in gradients]
        )


@pytest.mark.parametrize("name", ["norm", "rows", "rows-shrunk"])
def test_nan_and_infinity_reach_what_they_reach_in_the_reference(name):
    for value in (np.nan, -np.nan, np.inf, -np.inf, 1e-45, 3e38):
        for shape in ((40, 200), (20, 600)):
            g = hard(shape, share=0)
            g[3, 7] = value
            w = hard(shape, seed=1, share=0.001)
            assert_same_steps(RULES[name], w, [g, hard(shape, seed=2, share=0)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout):
    for gradient_layout in LAYOUTS:
        for shape in ((67, 130), (10, 530)):
            for name in ("norm", "rows"):
                w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), gradient_layout)
                assert_same_steps(RULES[name], w, [g])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype):
    for shape in ((7, 3), (66, 530), (5,)):
        gradients = [hard(shape, d, seed=k, share=0) for k, d in enumerate(("float32", "float64", dtype))]
        assert_same_steps(RULES["rows"], hard(shape, dtype, share=0), gradients)
        if dtype != "float64":
            assert_same_steps(RULES["norm"], hard(shape, dtype, share=0), gradients)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads):
    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads)

    for shape in ((700, 40), (131, 900), (40_001,)):
        for name in ("norm", "rows"):
            assert_same_steps(RULES[name], hard(shape, share=0), [hard(shape, seed=1, share=0)], kernel)


@pytest.mark.parametrize("name", ["rows", "rows-summed"])
def test_row_sparse_steps_touch_their_rows(name):
    for shape in ((5,), (9, 3), (40, 200), (40, 700), (6, 3, 5)):
        rows = np.random.default_rng(0).permutation(shape[0])[: shape[0] // 2 + 1]
        for layout in ("c", "fortran", "rows") if len(shape) < 3 else ("c",):
            g = RowSparse(rows, hard((rows.size, *shape[1:]), share=0.001), shape)
            again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=9, share=0), shape)
            assert_same_steps(RULES[name], laid(hard(shape, share=0), layout), [g, again])


def test_row_sparse_gradients_of_a_whole_norm_are_made_dense_and_empty_ones_change_nothing():
    g = RowSparse(np.array([5, 1, 5]), hard((3, 200), share=0), (90, 200))
    none = RowSparse(np.array([], np.int64), np.zeros((0, 200), np.float32), (90, 200))
    for name in ("norm", "rows"):
        assert_same_steps(RULES[name], hard((90, 200), seed=1, share=0), [g, none, g], row_wise.step)


def test_what_no_loop_can_walk_is_stepped_by_the_reference():
    wide = np.zeros((4, 3, 10), np.float32)
    for w in (
        wide[:, :2, ::3],
        wide.transpose(1, 2, 0),
        np.zeros((0, 3), np.float32),
        np.zeros((4, 3), ">f4"),
    ):
        rule = RULES["rows"]
        assert not row_wise_engine.step(rule, w, np.ones(w.shape, np.float32), rule.init_leaf(w))
    assert_same_steps(RULES["rows"], wide[:, :2, ::3], [hard((4, 2, 4), share=0)], row_wise.step)
    w = np.ones((4, 6), np.float32)
    for wrong in (np.zeros(5, np.float32), np.zeros(4)):
        assert not row_wise_engine.step(RULES["rows"], w, w.copy(), {"s": wrong})
    assert np.all(w == 1)


def test_which_rules_are_served():
    f32 = np.dtype(np.float32)
    assert all(row_wise.supports(rule, (4, 3), f32)[0] for rule in RULES.values())
    assert row_wise.supports(mo.AdaGrad(), (4, 3), f32) == (False, "")
    assert row_wise.supports(RULES["rows"], (4, 3), np.dtype(object)) == (False, "no kernel for object")

    class Own(mo.RowWiseAdaGrad):
        def reduced(self, square):
            return 2 * super().reduced(square)

    assert row_wise.supports(Own(), (4, 3), f32) == (False, "Own has a reduced() of its own")
    with mo.tuning.use_mode("off"):
        assert "numba.row_wise" in mo.Optimizer(np.ones((4, 3), np.float32), mo.RowWiseAdaGrad()).explain()


@pytest.mark.parametrize("loop", [("squares", "none"), ("rows", "none"), ("vector", "none")])
def test_no_multiplication_is_fused(loop):
    compiled = row_wise_loops.loop(loop[0], False, *loop[1:])
    if not compiled.cache_hits:
        assembly = compiled._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)


# The comparison, seen to fail on deliberate mistakes


def sums_like_numpy(rule, w, g, state):
    state["s"] += np.mean(g * g, axis=1)
    w -= 0.01 * g / np.sqrt(state["s"])[:, None]


def forgets_a_row(rule, w, g, state):
    last = w[-1].copy()
    through_the_engine(rule, w, g, state)
    w[-1] = last


@pytest.mark.parametrize("kernel", [sums_like_numpy, forgets_a_row])
def test_a_wrong_kernel_is_caught(kernel):
    with pytest.raises(AssertionError):
        assert_same_steps(
            RULES["rows"], hard((130, 600), seed=1, share=0), [hard((130, 600), share=0)] * 2, kernel
        )


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    row_wise_engine.compiled.cache_clear()
    monkeypatch.setattr(row_wise_loops, "loop", fails)
    with pytest.warns(
        RuntimeWarning, match=r"AdaGrad's rows cannot be compiled, NumPy steps instead \(not today\)"
    ):
        assert_same_steps(
            RULES["rows"], hard((90, 200), share=0), [hard((90, 200), share=0)] * 2, row_wise.step
        )
    row_wise_engine.compiled.cache_clear()
