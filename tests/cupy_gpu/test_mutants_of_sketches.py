"""Deliberate mistakes in the kernels and launches of the count-sketch rules, each of which is noticed."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import count_sketch, count_sketch_rows, engine
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import KernelError
from tests.cupy_gpu.machines import Simulated, assert_same_steps, simulated
from tests.cupy_gpu.test_mutants import Mistake, Mutating, in_python_numbers, short_counts
from tests.numba_cpu.inputs import hard

pytestmark = simulated

SHAPE = (40, 37)


def compared(machine, rule, shape=SHAPE, steps=2, **options):
    """Steps along a dense gradient with resting rows, and along rows of which many share buckets."""

    def step(rule, w, g, state):
        count_sketch.step(rule, w, g, state, **options)

    g = hard(shape, share=0)
    g[::2] = 0
    g[5], g[7, :-1] = -abs(g[5]), 0
    items = np.sort(np.random.default_rng(2).choice(shape[0], 2 * shape[0] // 3, replace=False))
    rows = RowSparse(items, hard((items.size, *shape[1:]), seed=3, share=0), shape)
    gradients = [g, rows] * (steps // 2)
    assert_same_steps(machine, step, rule, hard(shape, seed=1, share=0), gradients)


def momentum(machine):
    compared(machine, mo.CountSketchMomentum())


def nesterov(machine):
    compared(machine, mo.CountSketchMomentum(nesterov=True))


def one_row_of_a_sketch(machine):
    """The last bucket of the table has many rows."""
    compared(machine, mo.CountSketchMomentum(depth=1, width=2))


def scanned(machine):
    """More than a warp's lanes of active rows."""
    compared(machine, mo.CountSketchMomentum(width=2), (99, 37), scan=True)


def by_row(machine):
    compared(machine, mo.CountSketchMomentum(delta_from="row", width=40))


def five(machine):
    compared(machine, mo.CountSketchMomentum(depth=5, width=8))


def four(machine):
    compared(machine, mo.CountSketchMomentum(depth=4))


def mean(machine):
    compared(machine, mo.CountSketchAdaGrad(combine="mean", depth=2, eps=1.0))


def signed(machine):
    compared(machine, mo.CountSketchAdaGrad(combine="median", eps=1.0))


def l2(machine):
    compared(machine, mo.CountSketchMomentum(weight_decay=0.1))


def decoupled(machine):
    compared(machine, mo.CountSketchMomentum(weight_decay=0.1, weight_decay_mode="decoupled"))


def cleaned(machine):
    compared(machine, mo.CountSketchRMSProp(clean_every=1, clean_factor=0.3, decay="global"))


def conservative(machine):
    compared(machine, mo.CountSketchAdaGrad(conservative=True))


def sequential(machine):
    compared(machine, mo.CountSketchMomentum(order="sequential"))


def sequential_by_row(machine):
    compared(machine, mo.CountSketchMomentum(order="sequential", delta_from="row"))


def short_rows(machine):
    """Several rows a warp."""
    compared(machine, mo.CountSketchMomentum(), (40, 5))


def long_rows(machine):
    """A thread takes several packs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "MOST_ACROSS", 1)
        compared(machine, mo.CountSketchMomentum(), (9, 300), block=32)


def adam(machine):
    compared(machine, mo.CountSketchAdam())


TEXT = {
    "signs are not looked at": Mistake("return negative ? -x : x;", "return x;", momentum),
    "the median of two": Mistake("minimum(maximum(x[0], x[1]), x[2])", "maximum(x[0], x[1])", momentum),
    "a sort that ends too soon": Mistake("turn < DEPTH; ++turn", "turn < DEPTH - 2; ++turn", five),
    "the upper of the two in the middle": Mistake(
        "(x[(DEPTH - 1) / 2] + x[DEPTH / 2]) / (Real)2", "x[DEPTH / 2]", four
    ),
    "a sum for a mean": Mistake("out / (Real)DEPTH", "out", mean),
    "the largest for the least": Mistake("minimum(out, x[j])", "maximum(out, x[j])", conservative),
    "squares below 0": Mistake("maximum(x.at[k], (Real)0)", "x.at[k]", signed),
    "decay that is not added": Mistake("d.at[k] + shrinks", "d.at[k]", l2),
    "a gradient that is not squared": Mistake("d.at[k] * d.at[k]", "d.at[k]", conservative),
    "a multiplier that may be even": Mistake("(Word)seeds[4 * j] | 1u", "(Word)seeds[4 * j]", five),
    "the remainder of a hash": Mistake("__umulhi(hash, width)", "hash % width", momentum),
    "all rows of a sketch in the first": Mistake("j * width + __umulhi", "__umulhi", momentum),
    "the sign of the bucket's own hash": Mistake("seeds[4 * j + 2] | 1u", "seeds[4 * j] | 1u", momentum),
    "half of a row is looked at": Mistake(
        "from < columns && !found", "from < columns / 2 && !found", decoupled
    ),
    "a row is active if its neighbour is": Mistake("something) & lanes)", "something))", short_rows),
    "a row too many is marked": Mistake(
        "threadIdx.x == 0 && row < rows", "threadIdx.x == 0 && row <= rows", short_rows
    ),
    "what is below 0 is nothing": Mistake("decay).at[0] != (Real)0", "decay).at[0] > (Real)0", momentum),
    "increments join the content one by one": Mistake(
        "sum.at[k] = sum.at[k] + x.at[k]", "old.at[k] = old.at[k] + x.at[k]", momentum
    ),
    "the content before is lost": Mistake("old.at[k] + sum.at[k]", "sum.at[k]", momentum),
    "every row of a bucket leads": Mistake("leader > 0 && ", "leader > count && ", momentum),
    "the last row of the last bucket is left out": Mistake(
        "next < count &&", "next + 1 < count &&", one_row_of_a_sketch
    ),
    "increments are written while others ask": Mistake(
        "put<VEC>(ready + row * columns",
        "put<VEC>((Real *)table + (places[row * DEPTH] & 0x7FFFFFFFu) * columns + column, x);\n"
        "        put<VEC>(ready + row * columns",
        momentum,
    ),
    "a bucket of its own sign": Mistake(
        "towards(with_sign(old.at[k], negative)", "towards((old.at[k])", by_row
    ),
    "rows before are not looked for": Mistake(
        "from = begin; from < leader", "from = leader; from < leader", scanned
    ),
    "the first of 32 joins": Mistake("mine &= mine - 1", "mine = 0", scanned),
    "the last of 32 joins first": Mistake(
        "mine; mine &= mine - 1)", "mine; mine &= ~(0x80000000u >> __clz((int)mine)))", scanned
    ),
    "a sketch's last row is left out": Mistake("from + lane < end", "from + lane < end - 1", scanned),
    "raised to the estimate only": Mistake("old + mine)", "old)", conservative),
    "lowered too": Mistake("maximum(*bucket, old + mine)", "old + mine", conservative),
    "the answer before": Mistake(
        "found[row * columns + column] = estimate<HOW>(table, where, column, columns).at[0]",
        "found[row * columns + column] = old",
        sequential,
    ),
    "what QUERY says for each bucket": Mistake("LAZY && BY_ROW", "LAZY && 0", sequential_by_row),
    "rows of a dense gradient side by side": Mistake("(dense ? own : row)", "row", nesterov),
    "the weights of other rows": Mistake(
        "put<VEC>(w_all + own * w_pitch", "put<VEC>(w_all + row * w_pitch", momentum
    ),
    "estimates of other rows": Mistake("m_places + row * DEPTH", "m_places + row", momentum),
    "columns past the end": Mistake(
        "column < columns; column += apart", "column <= columns; column += apart", momentum
    ),
    "packs that overlap": Mistake("(long long)gridDim.y * blockDim.x * VEC", "blockDim.x", long_rows),
    "two factors as one": Mistake("* first * second", "* (first * second)", cleaned),
    "active rows decay twice": Mistake(" || active[row]", "", decoupled),
}


@pytest.mark.parametrize("name", TEXT)
def test_a_mistake_in_a_kernel_is_noticed(name):
    mistake = TEXT[name]
    device = Mutating(mistake.old, mistake.new)
    with pytest.raises((AssertionError, KernelError)):
        mistake.noticed_by(Simulated.on(device))
    assert device.changed, "the text has changed: bring the mistake up to it"


CHECKS = sorted({m.noticed_by for m in TEXT.values()} | {adam}, key=lambda f: f.__name__)


@pytest.mark.parametrize("check", CHECKS)
def test_without_a_mistake_nothing_is_noticed(check):
    check(Simulated())


# Mistakes of the launch code


class Unsorted(np.ndarray):
    def sort(self):
        """Leave it as it is."""


def unsorted_keys(monkeypatch, machine):
    def empty(like, shape, dtype, empty=count_sketch_rows.empty):
        made = empty(like, shape, dtype)
        return made.view(Unsorted) if dtype == np.uint64 else made

    monkeypatch.setattr(count_sketch_rows, "empty", empty)


def moments_that_collide_alike(monkeypatch, machine):
    original = count_sketch_rows.moment_seed
    monkeypatch.setattr(count_sketch_rows, "moment_seed", lambda seed, moment: original(seed, 1))


def new_contents(monkeypatch, machine):
    """The first moment is brought up to date before its increments are computed."""
    launch = machine.device.launch

    def twice(kernel, *arguments, **options):
        launch(kernel, *arguments, **options)
        if kernel.name == "count_sketch_scatter":
            launch(kernel, *arguments, **options)

    monkeypatch.setattr(machine.device, "launch", twice)


SPOILT = [unsorted_keys, moments_that_collide_alike, new_contents, in_python_numbers, short_counts]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_mistake_in_a_launch_is_noticed(spoil, monkeypatch):
    machine = Simulated()
    spoil(monkeypatch, machine)
    with pytest.raises((AssertionError, KernelError, TypeError)):
        adam(machine)


def test_fused_products_and_sums_are_noticed():
    with pytest.raises(AssertionError):
        adam(Simulated("fma"))
