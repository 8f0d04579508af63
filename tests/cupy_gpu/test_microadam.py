"""MicroAdam's kernel against the reference: bit for bit, whatever the size, options, dtype, layout, order."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.cupy_gpu import microadam
from memopt_ref.parts.row_sparse import RowSparse
from tests.cupy_gpu.machines import MACHINES, Simulated, moved, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits
from tests.table import dtype_of

F32 = np.dtype(np.float32)
#: Short blocks, so that the ring goes round and several blocks are one test.
SHORT = {"window": 3, "density": 0.05, "block": 512, "bucket": 32}
RULES = {
    "defaults": mo.MicroAdam(),
    "short": mo.MicroAdam(**SHORT),
    "decoupled": mo.MicroAdam(**SHORT, weight_decay=0.1),
    "l2": mo.MicroAdam(**SHORT, weight_decay=0.1, weight_decay_mode="l2"),
    "3-bit-no-eps": mo.MicroAdam(**SHORT, error_bits=3, eps=0.0),
    "one-row": mo.MicroAdam(window=1, density=0.5, block=64, bucket=8),
    "all-kept": mo.MicroAdam(window=4, density=1.0, block=256, bucket=256),
    "odd-bucket": mo.MicroAdam(window=2, density=0.03, block=1050, bucket=105),
    "8-bit": mo.MicroAdam(
        window=3, block=160, bucket=20, error_bits=8, weight_decay=0.1, weight_decay_mode="independent"
    ),
    "exact": mo.MicroAdam(**SHORT, error_bits=None),
    "no-feedback": mo.MicroAdam(**SHORT, error_bits=0),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]


def gradients(shape, steps, dtype="float32", share=0.0, seed=0):
    """Smooth ones, wild ones, rounded ones full of ties, zeros, and jumps in size."""
    rng = np.random.default_rng(seed)
    for k in range(steps):
        smooth = rng.standard_normal(shape).astype(np.float32)
        wild = hard(shape, seed=seed + k, share=share)
        g = (smooth, wild, np.round(2 * smooth) / 2, smooth, 0 * smooth, 30 * smooth)[k % 6]
        with np.errstate(over="ignore", invalid="ignore"):
            yield np.asarray(g).astype(dtype_of(dtype))


def assert_same_steps(machine, rule, w, grads, **options):
    """Steps in place by the kernel and by the reference, from the first one on."""
    state = rule.init_leaf(w)
    expected_w, expected = w.copy(order="K"), copy.deepcopy(state)
    there_w, there = machine.to(w), {name: machine.to(x) for name, x in state.items()}
    for g in grads:
        before = copy.deepcopy(g)
        with machine.running():
            microadam.step(rule, there_w, moved(machine, g), there, **options)
        numpy_ref.step(rule, expected_w, before, expected)
        for name, value in expected.items():
            assert same_bits(machine.back(there[name]), value), name
        assert same_bits(machine.back(there_w), expected_w), "w"
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_size_and_ring_position_has_the_bits_of_the_reference(rule, make):
    machine = make()
    for size in (1, 2, 63, 131, 512, 1051, 4097):
        steps = 13 if size == 131 else 4 if size == 1051 else 2
        w = hard(size, seed=size, share=0.02)
        assert_same_steps(machine, rule, w, gradients(size, steps, seed=size))


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["short", "decoupled", "odd-bucket", "exact"])
def test_nan_and_infinity_go_where_they_go_in_the_reference(name, make):
    machine, rule = make(), RULES[name]
    for share in (0.002, 0.3):
        assert_same_steps(machine, rule, hard(1500, share=0.1), gradients(1500, 6, share=share, seed=3))
    g = np.ones(320, np.float32)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        g[[7, 8, 129, 290, 291, 292]] = value
        assert_same_steps(machine, rule, np.ones(320, np.float32), [g, np.ones_like(g), g, -g])


@pytest.mark.parametrize("make", MACHINES)
def test_more_nan_than_are_kept_are_all_alike(make):
    """Of two NaN the one of lower index is kept, whatever their payloads, and before any infinity."""
    for dtype, first in ((np.float32, 0x7FC00000), (np.float64, 0x7FF8 << 48)):
        g = np.ones(4096, dtype)
        g[:10] = np.inf
        g[10:200] = np.arange(first, first + 190, dtype=f"u{g.itemsize}").view(dtype)[::-1]
        w = np.ones(g.size, dtype)
        assert_same_steps(make(), mo.MicroAdam(), w, [g, -g, np.ones_like(g)])


def alikes(size):
    """Gradients of which Top-K's first histogram tells little: more candidates than are ranked at once."""
    rng = np.random.default_rng(0)
    near = 1 + rng.random(size) / 100
    return {
        "signs": np.sign(rng.standard_normal(size)),
        "zeros": np.zeros(size),
        "one of many": np.where(np.arange(size) % 97 == 5, 2.0, 1.0),
        "one digit": near,
        "two digits": 1 + rng.integers(0, 600, size) * 2.0**-23,
        "ties among others": np.where(rng.random(size) < 0.01, near, np.float32(1.005)),
        "tiny": rng.integers(-9, 9, size) * 1e-45,
    }


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", alikes(1))
def test_entries_that_are_alike_are_told_apart_at_the_shipped_block(name, make):
    for dtype in ("float32", "float64"):
        g = alikes(4096 + 100)[name].astype(dtype)
        assert_same_steps(make(), mo.MicroAdam(), np.ones(g.size, dtype), [g, -g])
    g = alikes(1050)[name].astype(np.float32)
    assert_same_steps(make(), RULES["odd-bucket"], np.ones(g.size, np.float32), [g, g])


@pytest.mark.parametrize("make", MACHINES)
def test_bounds_that_no_number_lies_between_and_sums_beyond_all_numbers(make):
    """A span below the least normal number has an infinite reciprocal, one above the greatest has none."""
    tiny, huge = hard(600, share=0) * np.float32(1e-42), np.full(600, 3e38, np.float32)
    huge[::2] *= -1
    for g in (tiny, huge, np.full(600, 1e-45, np.float32), np.full(600, -0.0, np.float32)):
        for name in ("short", "odd-bucket"):
            assert_same_steps(make(), RULES[name], hard(600, share=0), [g, g, -g, 0 * g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype, make):
    machine = make()
    for name, size, other in (
        ("defaults", 4500, dtype),
        ("decoupled", 1051, "float32"),
        ("odd-bucket", 1051, "float64"),
    ):
        w = hard(size, dtype, share=0.01)
        assert_same_steps(machine, RULES[name], w, gradients(size, 4, other, share=0.01))


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("value_dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", ["float32", "float64"])
def test_a_window_of_another_dtype_than_the_numbers_have(value_dtype, own, make):
    options = SHORT if own == value_dtype else {**SHORT, "block": 480, "bucket": 24}
    rule = mo.MicroAdam(**options, value_dtype=value_dtype)
    assert_same_steps(make(), rule, hard(1000, own), gradients(1000, 5, own, share=0.02))


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS[::2]:
        for name, shape in (("short", (7, 130)), ("exact", (3, 5, 40))):
            w = laid(hard(shape, share=0), layout)
            assert_same_steps(machine, RULES[name], w, [laid(g, other) for g in gradients(shape, 2)])


@pytest.mark.parametrize("make", MACHINES)
def test_every_rank_and_tensors_without_entries(make):
    for shape in ((), (1,), (7, 3), (1, 4), (2, 3, 5), (5, 1, 2, 13, 4), (0,), (0, 3)):
        assert_same_steps(make(), mo.MicroAdam(), hard(shape, share=0), gradients(shape, 2))


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_changes_a_bit(order):
    """At the shipped block, with its candidates in another order; in memory; with ties."""
    machine = Simulated(order=order)
    assert_same_steps(machine, mo.MicroAdam(), hard(8200, share=0), gradients(8200, 3))
    assert_same_steps(machine, RULES["odd-bucket"], hard(2200, share=0), gradients(2200, 3))


@simulated
@pytest.mark.parametrize("options", [{"block": 128}, {"block": 512}, {"vec": 1}], ids=str)
def test_tiles_change_no_bit(options):
    assert_same_steps(Simulated(), mo.MicroAdam(), hard(4700, share=0), gradients(4700, 3), **options)


@simulated
def test_numbers_beyond_all_numbers_step_what_they_step_in_the_reference():
    """An infinite learning rate makes NaN of the step of an entry that no row names."""
    rule = RULES["short"].replace(learning_rate=1e300)
    for options in ({}, {"weight_decay": 1e-301, "weight_decay_mode": "l2"}):
        w = hard(1051, share=0)
        assert_same_steps(Simulated(), rule.replace(**options), w, gradients(1051, 2))
        assert np.isnan(w).any()


@simulated
def test_a_damaged_ring_does_not_lead_out_of_the_block():
    rule = mo.MicroAdam()
    w = np.zeros(rule.block + 100, np.float32)
    state = rule.init_leaf(w)
    state["t"], state["I"][:], state["V"][:] = np.int64(10), 32767, 1
    # Equal indices in a row are stepped in any order, which the checker would call a race.
    with Simulated("plain").running():
        microadam.step(rule, w, np.zeros_like(w), state)
    first = np.arange(rule.blocks(w.size).count(rule.block))
    assert set(np.flatnonzero(w)) <= {rule.block - 1, rule.block + 99, *first, *(rule.block + first)}


@simulated
def test_a_gradient_that_is_the_parameter_itself():
    w, rule = hard(1500, share=0), RULES["short"]
    state, expected = rule.init_leaf(w), rule.values(w, w, rule.init_leaf(w))
    with Simulated().running():
        microadam.step(rule, w, w, state)
    assert same_bits(w, expected["w"])


@pytest.mark.parametrize("make", MACHINES)
def test_row_sparse_gradients_are_made_dense(make):
    g = RowSparse(np.array([3, 1, 3]), hard((3, 200), share=0), (9, 200))
    assert_same_steps(make(), mo.MicroAdam(), hard((9, 200), share=0), [g, g])
