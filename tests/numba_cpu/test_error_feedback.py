"""The compiled steps with compressors have the reference's bits, whatever compressor, block and layout."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import error_feedback
from memopt_ref.parts.compressors import Compressor, Identity, OneBit, ScaledSign, TopK
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import error_feedback_engine, error_feedback_loops  # noqa: E402

F32 = np.dtype(np.float32)
EF, EF21, ADAM = mo.ErrorFeedbackSGD, mo.EF21, mo.TopKAdam
BLOCK = 70_000
RULES = {
    "whole": EF(),
    "blocks": EF(compressor=TopK(density=0.3, block=7)),
    "k": EF(compressor=TopK(k=5, block=64), weight_decay=0.1, weight_decay_mode="decoupled"),
    "all": EF(compressor=TopK(density=1.0)),
    "sign": EF(compressor=ScaledSign(), weight_decay=0.1),
    "sign-blocks": EF(compressor=ScaledSign(block=9)),
    "sign-long-blocks": EF(compressor=ScaledSign(block=700)),
    "one-bit": EF(compressor=OneBit(), weight_decay=0.1, weight_decay_mode="independent"),
    "identity": EF(compressor=Identity()),
    "no-feedback": EF(compressor=ScaledSign(), error_bits=0),
    "no-feedback-top-k": EF(compressor=TopK(density=0.2, block=50), error_bits=0),
    "4-bit": EF(error_bits=4, bucket=6),
    "4-bit-blocks": EF(compressor=TopK(density=0.2, block=60), error_bits=4, bucket=10),
    "8-bit-sign": EF(compressor=ScaledSign(), error_bits=8, bucket=64),
    "1-bit-one-bit": EF(compressor=OneBit(), error_bits=1, bucket=5),
    "ef21": EF21(compressor=TopK(density=0.1)),
    "ef21-blocks": EF21(compressor=TopK(density=0.1, block=33), weight_decay=0.1),
    "ef21-sign": EF21(compressor=ScaledSign(block=100)),
    "ef21-one-bit": EF21(compressor=OneBit(), weight_decay=0.1, weight_decay_mode="decoupled"),
    "adam": ADAM(),
    "adam-feedback": ADAM(error_feedback=True, compressor=TopK(density=0.1, block=32), weight_decay=0.1),
    "adam-whole": ADAM(error_feedback=True, compressor=TopK(k=3), eps=0.0),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    t = int(state["t"]) + 1 if "t" in state else 0
    assert error_feedback_engine.step(rule, w, g, state, t, **options)
    if t:
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
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


def tied(shape, seed=0, dtype="float32"):
    """Few magnitudes, each many times, of both signs."""
    rng = np.random.default_rng(seed)
    return rng.choice([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0], shape).astype(hard((), dtype).dtype)


@pytest.mark.parametrize("rule", EACH)
def test_every_compressor_has_the_bits_of_the_reference(rule):
    for k, shape in enumerate(((5,), (1,), (), (7, 3), (130, 67), (3, 4, 50), (4701,))):
        w = hard(shape, seed=k, share=0)
        assert_same_steps(rule, w, [hard(shape, seed=20 + k, share=0.001), tied(shape), hard(shape, share=0)])


@pytest.mark.parametrize("name", ["whole", "ef21", "adam-whole", "sign", "one-bit", "4-bit"])
def test_a_large_block_is_searched_digit_by_digit(name):
    for shape in ((300, 301), (BLOCK,)):
        w = hard(shape, seed=1, share=0)
        assert_same_steps(RULES[name], w, [hard(shape, seed=2, share=0), tied(shape)])


def test_several_large_blocks():
    for compressor in (TopK(density=0.01, block=BLOCK), ScaledSign(block=BLOCK)):
        w = hard((2 * BLOCK + 33,), seed=1, share=0)
        assert_same_steps(EF(compressor=compressor), w, [tied(w.shape), hard(w.shape, seed=2, share=0)])


def test_the_first_of_equal_magnitudes_are_kept():
    w = np.zeros(BLOCK + 5, np.float32)
    for compressor in (TopK(k=4100), TopK(k=3, block=11)):
        rule, g = EF(learning_rate=1.0, compressor=compressor), np.ones_like(w)
        w[...] = 0
        through_the_engine(rule, w, g, rule.init_leaf(w))
        kept = np.flatnonzero(w)
        expected = np.arange(4100) if compressor.block is None else None
        if expected is None:
            starts = np.arange(0, w.size, 11)[:, None] + np.arange(3)
            expected = starts[starts < w.size]
        assert np.array_equal(kept, expected)


def test_nan_and_infinity_are_kept_first_and_go_where_they_go_in_the_reference():
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for name in ("whole", "blocks", "sign", "one-bit", "4-bit-blocks", "ef21", "adam-feedback"):
            g = hard((40, 37), seed=3, share=0)
            g[3, 7] = g[30, 2] = value
            w = hard((40, 37), seed=1, share=0)
            assert_same_steps(RULES[name], w, [g, hard((40, 37), seed=2, share=0)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_weights_and_gradient(layout):
    for name in ("whole", "one-bit", "4-bit", "ef21-blocks", "adam-feedback", "8-bit-sign"):
        for other in ("c", layout):
            w, g = laid(hard((60, 81), seed=3, share=0), layout), laid(hard((60, 81), share=0.001), other)
            assert_same_steps(RULES[name], w, [g, g])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype):
    coded = () if dtype == "float64" else ("4-bit-blocks",)
    for name in ("whole", "one-bit", "sign-blocks", "ef21", "adam-feedback", *coded):
        for shape in ((45, 33), (33,)):
            w = hard(shape, dtype, seed=1, share=0)
            gradients = [
                hard(shape, dtype, seed=2, share=0),
                hard(shape, seed=3, share=0),
                tied(shape, 1, dtype),
            ]
            assert_same_steps(RULES[name], w, gradients)


def test_a_large_block_of_float64():
    w = hard((BLOCK,), "float64", seed=1, share=0)
    assert_same_steps(
        RULES["whole"], w, [hard(w.shape, "float64", seed=2, share=0), tied(w.shape, 1, "float64")]
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tasks", [1, 3, 7, 1000])
def test_threads_and_tasks_change_no_bit(threads, tasks):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one processor")

    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads, tasks=tasks)

    for name in ("whole", "blocks", "sign", "one-bit", "4-bit", "1-bit-one-bit"):
        w = hard((500, 150), seed=1, share=0)
        assert_same_steps(RULES[name], w, [tied(w.shape), hard(w.shape, seed=2, share=0)], kernel)


def test_row_sparse_gradients_are_made_dense():
    g = RowSparse(np.array([3, 1, 3]), hard((3, 20), share=0), (8, 20))
    for name in ("whole", "one-bit"):
        assert_same_steps(RULES[name], hard((8, 20), seed=1, share=0), [g, g], error_feedback.step)


def test_blocks_that_meet_buckets_too_seldom_are_left_to_the_reference():
    w = hard((400, 400), share=0)
    for rule in (
        EF(compressor=TopK(block=65_521), error_bits=4, bucket=64),
        EF(compressor=TopK(block=100_001), error_bits=4, bucket=64),
    ):
        assert not error_feedback_engine.step(rule, w, w.copy(), rule.init_leaf(w), 0)
        assert_same_steps(rule, w.copy(), [w.copy()], error_feedback.step)


def test_which_rules_are_served():
    def reason(rule, dtype=F32):
        fits, why = error_feedback.supports(rule, (4, 3), dtype)
        assert fits == (why == "passes over the tensor, chunk by chunk")
        return why

    assert all(error_feedback.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert reason(EF(), np.dtype(object)) == "no kernel for object"
    assert reason(EF(error_bits=4, rounding="stochastic")) == "stochastic rounding of the error has no kernel"
    assert reason(mo.Adam()) == ""

    class Half(Compressor):
        def __call__(self, x):
            return x / 2

    class Own(EF21):
        pass

    assert reason(EF(compressor=Half())) == "no kernel for Half"
    assert reason(Own()) == "Own is a class of its own"


def test_bounds_kept_in_float32():
    rule = EF(compressor=ScaledSign(), error_bits=3, bucket=6, bounds_dtype="float32")
    assert_same_steps(rule, hard((40, 11), seed=1, share=0), [hard((40, 11), seed=2, share=0.01)] * 2)


def test_no_multiplication_is_fused():
    w = hard((40, 30), share=0)
    for name in ("whole", "sign", "one-bit", "blocks"):
        through_the_engine(RULES[name], w, w.copy(), RULES[name].init_leaf(w))
    compiled = [one for one in error_feedback_loops._loaded if not one.cache_hits]
    assert len(compiled) >= 7
    for one in compiled:
        assembly = one._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)


# The comparison, seen to fail on deliberate mistakes


def keeps_the_last_of_equals(rule, w, g, state):
    through_the_engine(rule, w[::-1], g[::-1], {name: x[::-1] for name, x in state.items()})


def forgets_the_error(rule, w, g, state):
    state["e"][...] = 0
    through_the_engine(rule, w, g, state)


def sums_from_the_left(rule, w, g, state):
    original, error_feedback_engine.sums = error_feedback_engine.sums, _FromTheLeft
    try:
        through_the_engine(rule, w, g, state)
    finally:
        error_feedback_engine.sums = original


class _FromTheLeft:
    @staticmethod
    def leaf_sums(x):
        return np.cumsum(x, axis=-1, dtype=x.dtype)[..., -1:]


@pytest.mark.parametrize(
    ("kernel", "rule"),
    [
        (keeps_the_last_of_equals, EF(compressor=TopK(k=3))),
        (forgets_the_error, EF()),
        (sums_from_the_left, EF(compressor=ScaledSign())),
    ],
)
def test_a_wrong_kernel_is_caught(kernel, rule):
    shape = (40_000,)
    gradients = [np.abs(hard(shape, seed=k, share=0)) for k in range(2)]
    gradients[0][::2] = 1e6
    with pytest.raises(AssertionError):
        assert_same_steps(rule, hard(shape, seed=1, share=0), gradients, kernel)


def test_a_loop_that_does_not_compile_is_left_to_the_reference(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    error_feedback_engine.addresses.cache_clear()
    monkeypatch.setattr(error_feedback_loops, "loop", fails)
    with pytest.warns(RuntimeWarning, match=r"loops cannot be compiled, NumPy steps instead \(not today\)"):
        assert_same_steps(EF(), hard((9, 20), share=0), [hard((9, 20), share=0)] * 2, error_feedback.step)
    error_feedback_engine.addresses.cache_clear()
