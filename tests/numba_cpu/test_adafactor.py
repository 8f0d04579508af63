"""Adafactor compiled against the reference: bit for bit, whatever the options, rank, layout and threads."""

from __future__ import annotations

import copy
import platform
import re
import tracemalloc

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import adafactor
from memopt_ref.parts.row_sparse import RowSparse
from tests.cases.adafactor import CASES
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import (  # noqa: E402
    adafactor_drive,
    adafactor_engine,
    adafactor_loops,
    leaf_sums,
)
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402
from memopt_ref.parts.sums import LANES  # noqa: E402

RULES = {case.name: case.rule for case in CASES}
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
    t = int(state["t"]) + 1
    assert adafactor_engine.step(rule, w, g, state, t, **options)
    state["t"] = np.int64(t)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = rule.init_leaf(w)
    other_w, other = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other)
        assert same_bits(w, other_w)
        for name, value in other.items():
            assert same_bits(state[name], value), name
        if not isinstance(g, RowSparse):
            assert same_bits(g, before), "the gradient was written"


@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule):
    for k, shape in enumerate(SHAPES):
        layout = LAYOUTS[k % 2]
        gradients = [laid(hard(shape, seed=90 + s, share=0), layout) for s in range(2)]
        assert_same_steps(rule, laid(hard(shape, seed=k, share=0.0), layout), gradients)


@pytest.fixture
def without_vectors(monkeypatch):
    """As on a processor that has none."""
    caches = leaf_sums.join, adafactor_loops.loop, adafactor_engine.kernel, adafactor_engine.passes_of
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(leaf_sums, "available", lambda: False)
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("name", ["adafactor", "adafactor-torch", "adafactor-fixed"])
def test_loops_that_are_not_in_vectors_add_in_the_same_order(name, without_vectors):
    assert not leaf_sums.quick(wide=False)
    for shape in ((70, 1100), (9001,), (3, 70, 520)):
        gradients = [hard(shape, seed=90 + s, share=0) for s in range(2)]
        assert_same_steps(RULES[name], hard(shape, share=0.0), gradients)


@pytest.mark.parametrize("name", ["adafactor", "adafactor-torch", "adafactor-fixed", "adafactor-unfactored"])
def test_singular_numbers_reach_what_they_reach_in_the_reference(name):
    for shape in ((40, 600), (300, 20), (700,)):
        for value in (np.nan, -np.nan, np.inf, -np.inf, 1e-45, 3e38):
            g = hard(shape, share=0)
            g[3] = 0
            g.flat[-7] = value
            assert_same_steps(RULES[name], hard(shape, seed=1, share=0), [g, hard(shape, seed=2, share=0)])
        assert_same_steps(RULES[name], hard(shape, seed=1, share=0.01), [hard(shape, share=0.3)])
        assert_same_steps(RULES[name], hard(shape, seed=1, share=0), [np.zeros(shape, np.float32)] * 2)
        # The mean of squares is less than what clamps it.
        small = np.random.default_rng(0).normal(scale=1e-5, size=shape).astype(np.float32)
        assert_same_steps(RULES[name], hard(shape, seed=1, share=0), [small])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout):
    for gradient_layout in LAYOUTS:
        for name, shape in (("adafactor", (67, 530)), ("adafactor-largest", (3, 70, 33))):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), gradient_layout)
            assert_same_steps(RULES[name], w, [g])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype):
    for shape in ((7, 3), (66, 530), (5,), (3, 40, 9)):
        gradients = [hard(shape, d, seed=k, share=0) for k, d in enumerate(("float32", "float64", dtype))]
        assert_same_steps(RULES["adafactor-momentum"], hard(shape, dtype, share=0), gradients)
        if dtype == "bfloat16":
            assert_same_steps(RULES["adafactor-unfactored"], hard(shape, dtype, share=0), gradients[:1])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(threads):
    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads)

    for shape in ((131, 9000), (1000, 17), (40_001,), (5, 65, 70)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0)
        assert_same_steps(mo.Adafactor(beta1=0.9), w, [g], kernel)


def test_gradients_of_rows_are_made_dense():
    g = RowSparse(np.array([5, 1, 5]), hard((3, 200), share=0), (90, 200))
    assert_same_steps(mo.Adafactor(), hard((90, 200), seed=1, share=0), [g, g], adafactor.step)


def test_a_gradient_that_is_the_parameter_itself():
    w, other = hard((40, 300), share=0), hard((40, 300), share=0)
    state, other_state = mo.Adafactor().init_leaf(w), mo.Adafactor().init_leaf(w)
    through_the_engine(mo.Adafactor(), w, w, state)
    numpy_ref.step(mo.Adafactor(), other, other.copy(), other_state)
    assert same_bits(w, other)


def test_what_no_loop_can_walk_is_stepped_by_the_reference():
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 5)):
        w = np.zeros(shape, np.float32)
        rule = mo.Adafactor()
        assert not adafactor_engine.step(rule, w, w.copy(), rule.init_leaf(w), 1)
        assert_same_steps(rule, w, [w.copy()], adafactor.step)
    w = np.zeros((4, 6), ">f4")
    assert not adafactor_engine.step(mo.Adafactor(), w, w.copy(), mo.Adafactor().init_leaf(w), 1)
    w, rule = np.ones((4, 6), np.float32), mo.Adafactor()
    for name, wrong in (
        ("R", np.zeros(5, np.float32)),
        ("C", np.zeros(6)),
        ("R", np.zeros((4, 6), np.float32)),
    ):
        assert not adafactor_engine.step(rule, w, w.copy(), {**rule.init_leaf(w), name: wrong}, 1)
    assert np.all(w == 1)


def test_slots_in_any_layout():
    w = hard((30, 600), share=0)
    rule = mo.Adafactor(beta1=0.5)
    state, other_w = rule.init_leaf(w), w.copy()
    other = copy.deepcopy(state)
    state = {name: x if name == "t" else laid(x, "every-second") for name, x in state.items()}
    g = hard((30, 600), seed=3, share=0)
    for _ in range(2):
        through_the_engine(rule, w, g, state)
        numpy_ref.step(rule, other_w, g, other)
    assert same_bits(w, other_w)
    assert all(same_bits(state[name], other[name]) for name in other)


@pytest.mark.parametrize("layout", ["c", "fortran", "rows"])
def test_no_array_of_the_size_of_the_parameter_is_made(layout):
    for dtype, shape in (("float32", (2048, 600)), ("bfloat16", (600, 2048)), ("float32", (1_000_000,))):
        w, g = laid(hard(shape, dtype, share=0), layout), laid(hard(shape, dtype, seed=1, share=0), layout)
        rule = mo.Adafactor()
        state = rule.init_leaf(w)
        through_the_engine(rule, w, g, state)
        assert peak(through_the_engine, rule, w, g, state) < w.size * 4 / 8
        assert peak(numpy_ref.step, rule, w, g, state) > w.size * 4


def peak(step, *arguments):
    """Bytes that a step allocates, beside the fixed buffers of compiled code."""
    tracemalloc.start()
    try:
        step(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_which_rules_are_served():
    f32 = np.dtype(np.float32)
    assert all(adafactor.supports(rule, (4, 3), f32)[0] for rule in RULES.values())
    assert adafactor.supports(mo.Adam(), (4, 3), f32) == (False, "")
    assert adafactor.supports(mo.Adafactor(), (4, 3), np.dtype(object)) == (False, "no kernel for object")

    class Own(mo.Adafactor):
        def _factored(self, g, state, k):
            return super()._factored(2 * g, state, k)

    assert adafactor.supports(Own(), (4, 3), f32) == (False, "Own has a _factored() of its own")
    for name in ("factors", "relative", "shrink", "keep"):
        own = type("Own", (mo.Adafactor,), {name: lambda self, *numbers: None})
        assert adafactor.supports(own(), (4, 3), f32) == (False, f"Own has a {name}() of its own")
    with mo.tuning.use_mode("off"):
        assert "numba.adafactor" in mo.Optimizer(np.ones((4, 3), np.float32), mo.Adafactor()).explain()


@pytest.mark.parametrize("loop", [("size", False), ("squares",), ("update", "rows", False)])
def test_no_multiplication_is_fused_and_the_loops_are_vectorised(loop):
    compiled = adafactor_loops.loop(loop[0], False, *loop[1:])
    if not compiled.cache_hits:
        assembly = compiled._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
        if platform.machine() in ("x86_64", "AMD64"):
            assert len(re.findall(r"vmulps.*%[yz]mm", assembly)) >= 16


def test_what_is_between_the_passes_is_not_fused():
    between = numba.njit(**STRICT)(adafactor_drive.follow.py_func)
    numbers, lanes = np.ones(14, np.float32), np.empty(LANES, np.float32)
    R, C, row, column = (np.ones((1, n), np.float32) for n in (20, 30, 20, 30))
    between(
        np.ones((20, 1), np.float32), np.ones((1, 1, 30), np.float32), R, C, row, column, numbers, True, lanes
    )
    assembly = "".join(between.inspect_asm().values())
    assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
    assert "mul" in assembly


# The comparison, seen to fail on deliberate mistakes


def clips_with_another_sum(rule, w, g, state):
    """The root mean square of U by NumPy's own sum: another last bit."""
    values = rule.values(w, g, state)
    total = np.sum(values["u"] * values["u"], dtype=np.float32)
    shrink = 1 / np.maximum(np.float32(1), np.sqrt(total / np.float32(w.size)))
    through_the_engine(rule, w.copy(), g, state)
    w[...] = w - values["alpha"] * (values["u"] * shrink)


def forgets_the_last_column(rule, w, g, state):
    through_the_engine(rule, w, g, state)
    state["C"][-1] = 0


def takes_new_factors(rule, w, g, state):
    through_the_engine(rule, w.copy(), g, state)
    through_the_engine(rule, w, g, state)
    state["t"] = np.int64(1)


@pytest.mark.parametrize("kernel", [clips_with_another_sum, forgets_the_last_column, takes_new_factors])
def test_a_wrong_kernel_is_caught(kernel):
    g = hard((130, 600), share=0)
    with pytest.raises(AssertionError):
        assert_same_steps(mo.Adafactor(), hard((130, 600), seed=1, share=0), [g], kernel)


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    adafactor_engine.kernel.cache_clear()
    adafactor_engine.passes_of.cache_clear()
    monkeypatch.setattr(adafactor_loops, "loop", fails)
    rule = mo.Adafactor(scale_parameter=False, clip_threshold=None)
    with pytest.warns(RuntimeWarning, match=r"cannot be compiled, NumPy steps instead \(not today\)"):
        assert_same_steps(rule, hard((90, 200), share=0), [hard((90, 200), share=0)] * 2, adafactor.step)
    adafactor_engine.kernel.cache_clear()
    adafactor_engine.passes_of.cache_clear()
