"""MicroAdam compiled against the reference: bit for bit, whatever the size, layout, threads and numbers."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import microadam
from memopt_ref.parts.row_sparse import RowSparse
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits
from tests.table import dtype_of

numba = pytest.importorskip("numba", reason="the kernels need numba")
from numba.core.registry import cpu_target  # noqa: E402

from memopt_ref.backends.numba_cpu import (  # noqa: E402
    microadam_engine,
    microadam_loops,
    microadam_vectors,
    vectors,
)

F32 = np.dtype(np.float32)
SMALL = {"window": 3, "density": 0.1, "block": 128, "bucket": 16}
#: What the core in vectors serves; blocks are short, so that the ring goes round and rows end anywhere.
SHORT = {"window": 3, "density": 0.05, "block": 512, "bucket": 32}
RULES = {
    "defaults": mo.MicroAdam(),
    "short": mo.MicroAdam(**SHORT),
    "sixteen": mo.MicroAdam(window=2, block=1600, bucket=160),
    "half": mo.MicroAdam(window=1, density=0.5, block=64, bucket=64),
    "long-window": mo.MicroAdam(window=7, density=0.5, block=64, bucket=32),
    "longer-window": mo.MicroAdam(window=140, density=0.5, block=1024, bucket=32),
    "short-decoupled": mo.MicroAdam(**SHORT, weight_decay=0.1),
    "short-l2": mo.MicroAdam(**SHORT, weight_decay=0.1, weight_decay_mode="l2"),
    "small": mo.MicroAdam(**SMALL),
    "odd-bucket": mo.MicroAdam(window=2, density=0.03, block=1050, bucket=105),
    "one-row": mo.MicroAdam(window=1, density=0.02, block=256, bucket=32),
    "all-kept": mo.MicroAdam(window=4, density=1.0, block=64, bucket=8),
    "no-eps": mo.MicroAdam(**SMALL, eps=0.0),
    "decoupled": mo.MicroAdam(**SMALL, weight_decay=0.1),
    "l2": mo.MicroAdam(**SMALL, weight_decay=0.1, weight_decay_mode="l2"),
    "3-bit": mo.MicroAdam(**SMALL, error_bits=3),
    "8-bit": mo.MicroAdam(**SMALL, error_bits=8, weight_decay=0.1, weight_decay_mode="independent"),
    "exact": mo.MicroAdam(**SMALL, error_bits=None),
    "no-feedback": mo.MicroAdam(**SMALL, error_bits=0),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]


def through_the_engine(rule, w, g, state, **options):
    """The kernel itself: what falls back to the reference would prove nothing."""
    assert microadam_engine.step(rule, w, g, state, **options)
    state["t"] = np.int64(int(state["t"]) + 1)


def in_plain_loops(rule, w, g, state):
    """What a processor without the vectors runs."""
    through_the_engine(rule, w, g, state, fused=False)


BOTH = (through_the_engine, in_plain_loops)


def assert_same_steps(rule, w, gradients, kernel=through_the_engine):
    state = rule.init_leaf(w)
    other_w, other = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other)
        assert same_bits(w, other_w)
        assert state.keys() == other.keys()
        for name, value in other.items():
            assert same_bits(state[name], value), name
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


def gradients(shape, steps, dtype="float32", share=0.0, seed=0):
    """Smooth ones, wild ones, rounded ones full of ties, zeros, and jumps in size."""
    rng = np.random.default_rng(seed)
    for k in range(steps):
        smooth = rng.standard_normal(shape).astype(np.float32)
        wild = hard(shape, seed=seed + k, share=share)
        g = (smooth, smooth, wild, np.round(2 * smooth) / 2, 0 * smooth, 30 * smooth)[k % 6]
        with np.errstate(over="ignore", invalid="ignore"):
            yield np.asarray(g).astype(dtype_of(dtype))


@pytest.mark.parametrize("rule", EACH)
def test_every_size_and_ring_position_has_the_bits_of_the_reference(rule):
    for size in (1, 2, 63, 128, 131, 1051, 4096, 8000, 9001):
        steps = 13 if size in (131, 9001) else 3
        for kernel in BOTH:
            assert_same_steps(
                rule, hard(size, seed=size, share=0.02), gradients(size, steps, seed=size), kernel
            )


@pytest.mark.parametrize("rule", EACH)
def test_nan_and_infinity_go_where_they_go_in_the_reference(rule):
    g = np.ones(320, np.float32)
    for kernel in BOTH:
        for share in (0.002, 0.3):
            assert_same_steps(rule, hard(5000, share=0.1), gradients(5000, 8, share=share, seed=3), kernel)
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            g[[7, 8, 129, 290, 291, 292]] = value
            assert_same_steps(rule, np.ones(320, np.float32), [g, np.ones_like(g), g, -g], kernel)


def test_more_nan_than_are_kept_are_all_alike():
    """Of two NaN the one of lower index is kept, whatever their payloads."""
    g = np.ones(256, np.float32)
    g[10:200] = np.arange(0x7FC00000, 0x7FC00000 + 190, dtype=np.uint32).view(np.float32)
    assert_same_steps(mo.MicroAdam(), np.ones(256, np.float32), [g, -g, np.ones_like(g)])


@pytest.mark.skipif(not vectors.available(), reason="the processor has no such vectors")
def test_blocks_that_the_vectors_serve_never_meet_the_plain_loops(monkeypatch):
    def never(*arguments):
        raise AssertionError("the plain core")

    through_the_engine(mo.MicroAdam(), *some_step(4096 * 3 + 1600))
    microadam_engine.core.cache_clear()
    monkeypatch.setattr(microadam_loops, "core", never)
    through_the_engine(mo.MicroAdam(), *some_step(4096 * 3 + 1600))
    with pytest.warns(RuntimeWarning, match="the plain core"), pytest.raises(AssertionError):
        through_the_engine(mo.MicroAdam(), *some_step(4096 * 3 + 50))
    microadam_engine.core.cache_clear()


def some_step(size):
    w = hard(size, share=0)
    return w, hard(size, seed=1, share=0), mo.MicroAdam().init_leaf(w)


def test_bounds_that_no_number_lies_between_and_sums_beyond_all_numbers():
    """A span below the least normal number has an infinite reciprocal, one above the greatest has none."""
    tiny, huge = hard(4096, share=0) * np.float32(1e-42), hard(4096, share=0)
    huge[::2] = np.float32(3e38)
    huge[1::2] = np.float32(-3e38)
    for kernel in BOTH:
        for g in (tiny, huge, np.full(4096, 1e-45, np.float32), np.full(4096, -0.0, np.float32)):
            assert_same_steps(mo.MicroAdam(), hard(4096, share=0), [g, g, -g, 0 * g], kernel)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_of_parameters(dtype):
    for rule in (mo.MicroAdam(), RULES["small"], RULES["exact"], RULES["decoupled"]):
        for size in (7, 5001):
            w = hard(size, dtype, share=0.01)
            assert_same_steps(rule, w, gradients(size, 7, dtype, share=0.01))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_gradients_of_any_floating_dtype(dtype):
    for own in ("float32", "float64", "bfloat16"):
        assert_same_steps(mo.MicroAdam(), hard(4500, own, share=0), gradients(4500, 3, dtype, share=0.01))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_window_in_the_dtype_of_the_numbers(dtype):
    for bits in (4, None):
        rule = mo.MicroAdam(**SMALL, value_dtype=dtype, error_bits=bits)
        assert_same_steps(rule, hard(1000, dtype), gradients(1000, 7, dtype, share=0.02))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, gradient_layout):
    for rule in (mo.MicroAdam(), RULES["exact"]):
        for shape in ((67, 130), (3, 5, 400)):
            w = laid(hard(shape, share=0), layout)
            assert_same_steps(rule, w, [laid(g, gradient_layout) for g in gradients(shape, 2)])


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (1, 4), (4, 1), (2, 3, 5), (5, 1, 2, 130, 4)])
def test_every_rank(shape):
    for layout in ("c", "fortran"):
        w = laid(hard(shape, share=0), layout)
        assert_same_steps(mo.MicroAdam(), w, [laid(g, layout) for g in gradients(shape, 3)])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tasks", [1, 3, 7, 1000])
def test_threads_and_tasks_change_no_bit(threads, tasks):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("too few processors")

    def kernel(*arguments):
        through_the_engine(*arguments, threads=threads, tasks=tasks)

    w = hard((150, 301), share=0)
    assert_same_steps(mo.MicroAdam(), w, gradients(w.shape, 4), kernel)
    assert_same_steps(mo.MicroAdam(), laid(w, "fortran"), gradients(w.shape, 2), kernel)


@pytest.mark.parametrize("block", [8192, 32768])
def test_longer_blocks(block):
    for bucket in (64, block):
        rule = mo.MicroAdam(block=block, bucket=bucket)
        for kernel in BOTH:
            assert_same_steps(rule, hard(70_001, share=0), gradients(70_001, 3, share=0.0001), kernel)


def test_a_gradient_that_shares_memory_with_the_parameter():
    w = hard(5000, share=0)
    rule, other = mo.MicroAdam(), w.copy()
    through_the_engine(rule, w, w, rule.init_leaf(w))
    numpy_ref.step(rule, other, other.copy(), rule.init_leaf(other))
    assert same_bits(w, other)


def test_row_sparse_gradients_are_made_dense():
    g = RowSparse(np.array([3, 1, 3]), hard((3, 200), share=0), (9, 200))
    assert_same_steps(mo.MicroAdam(), hard((9, 200), share=0), [g, g], microadam.step)


def test_what_the_core_cannot_walk_is_stepped_by_the_reference():
    rule, w = mo.MicroAdam(), np.ones(300, np.float32)
    state, g = rule.init_leaf(w), np.ones(300, np.float32)
    assert not microadam_engine.step(rule, w, g, {**state, "I": state["I"][:-1]})
    assert not microadam_engine.step(rule, w, g, {**state, "V": state["V"].astype(np.float32)})
    assert not microadam_engine.step(rule, w, g, {**state, "e": np.zeros(300, np.uint8)[::2]})
    assert not microadam_engine.step(rule.replace(learning_rate=1e300), w, g, state)
    assert not microadam_engine.step(rule, w[:0], g[:0], rule.init_leaf(w[:0]))
    assert np.all(w == 1)
    empty = np.zeros((0, 3), np.float32)
    assert_same_steps(rule, empty, [empty, empty], microadam.step)


@pytest.mark.parametrize("kernel", BOTH)
def test_a_damaged_ring_does_not_lead_out_of_the_block(kernel):
    rule, guarded = mo.MicroAdam(), np.zeros(4096 + 100 + 2 * 65536, np.float32)
    w = guarded[65536:-65536]
    state = rule.init_leaf(w)
    state["t"], state["I"][:], state["V"][:] = np.int64(10), -1, 1
    kernel(rule, w, np.zeros_like(w), state)
    assert not guarded[:65536].any()
    assert not guarded[-65536:].any()
    assert set(np.flatnonzero(w)) <= {4095, 4195}


@pytest.mark.skipif(not vectors.available(), reason="the processor has no such vectors")
def test_which_of_them_run_in_vectors():
    fused = {name for name, rule in RULES.items() if microadam_engine.plan_of(rule, (6400,), F32).fused}
    assert fused == {"defaults", "short", "sixteen", "half", "long-window", "short-decoupled", "short-l2"}


def test_which_rules_are_served():
    def reason(rule, shape=(10_000,), dtype=F32):
        fits, why = microadam.supports(rule, shape, dtype)
        assert fits == (why == "one pass, Top-K block by Top-K block")
        return why

    assert all(microadam.supports(rule, (10_000,), F32)[0] for rule in RULES.values())
    assert reason(mo.MicroAdam(bucket=100)) == "a bucket of 100 entries can lie in two Top-K blocks of 4096"
    assert (
        reason(mo.MicroAdam(block=99, bucket=33))
        == "two Top-K blocks of 99 entries share a byte of the error"
    )
    assert microadam.supports(mo.MicroAdam(bucket=100_000), (64, 64), F32)[0], "one block"
    assert reason(mo.MicroAdam(rounding="stochastic")) == "stochastic rounding of the error has no kernel"
    assert reason(mo.MicroAdam(), dtype=np.dtype(object)) == "no kernel for object"
    assert reason(mo.Adam()) == ""

    class Own(mo.MicroAdam):
        def statistics(self, w, I, V, t):  # noqa: E741
            return super().statistics(w, I, V, t + 1)

    assert reason(Own()) == "Own has a statistics() of its own"


def test_schedules_and_the_optimizer():
    rule = mo.MicroAdam(learning_rate=mo.schedules.WarmUp(0.1, steps=3))
    params = {name: {"w": hard((50, 400), share=0)} for name in ("numba", "numpy")}
    both = [mo.Optimizer(p, rule, backend=name) for name, p in params.items()]
    assert "numba.microadam" in both[0].explain()
    for g in gradients((50, 400), 4):
        for opt in both:
            opt.step({"w": g})
    assert same_bits(params["numba"]["w"], params["numpy"]["w"])


def test_no_multiplication_is_fused_and_the_vectors_are_not_written_out():
    for compiled, wide in ((microadam_loops.core(False, "uint16"), False), (microadam_vectors.core(), True)):
        if compiled.cache_hits:
            continue
        assembly = compiled._library.get_asm_str()
        assert not re.search(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", assembly)
        if wide and "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]:
            assert re.search(r"vpcompressd\s+%zmm", assembly)
            assert re.search(r"vdivps\s+%zmm", assembly)


# The comparison, seen to fail on deliberate mistakes


def forgets_the_newest_row(rule, w, g, state):
    through_the_engine(rule.replace(learning_rate=0.0), w, g, state)


def takes_the_last_of_equals(rule, w, g, state):
    through_the_engine(rule, w[::-1], g[::-1], state)


def drops_the_error(rule, w, g, state):
    through_the_engine(rule, w, g, state)
    state["e"][:] = 0


def counts_twice(rule, w, g, state):
    through_the_engine(rule, w, g, state)
    state["t"] = np.int64(int(state["t"]) + 1)


def drops_nan(rule, w, g, state):
    through_the_engine(rule, w, np.nan_to_num(g), state)


@pytest.mark.parametrize(
    "kernel",
    [forgets_the_newest_row, takes_the_last_of_equals, drops_the_error, counts_twice, drops_nan],
)
def test_a_wrong_kernel_is_caught(kernel):
    g = hard(5000, share=0)
    g[1] = np.nan
    with pytest.raises(AssertionError):
        assert_same_steps(mo.MicroAdam(), hard(5000, seed=1, share=0), [g, np.ones_like(g)], kernel)


def test_what_does_not_compile_is_left_to_the_next_best(monkeypatch):
    def fails(*arguments):
        raise TypeError("not today")

    w, g = hard((9, 2000), share=0), hard((9, 2000), seed=1, share=0)
    monkeypatch.setattr(microadam_engine.vectors, "available", lambda: True)
    monkeypatch.setattr(microadam_vectors, "core", fails)
    microadam_engine.core.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"vectors cannot be compiled, plain ones step .*not today"):
        assert_same_steps(mo.MicroAdam(), w, [g, g])
    monkeypatch.setattr(microadam_loops, "core", fails)
    monkeypatch.setattr(microadam_engine.vectors, "available", lambda: False)
    microadam_engine.core.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"loops cannot be compiled, NumPy steps instead \(not today\)"):
        assert_same_steps(mo.MicroAdam(), w, [g, g], microadam.step)
    microadam_engine.core.cache_clear()
