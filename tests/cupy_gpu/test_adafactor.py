"""Adafactor's kernels against the reference: bit for bit, whatever the options, rank, layout, order."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import adafactor, adafactor_bind, adafactor_engine, factors, passes
from memopt_ref.backends.cupy_gpu.device import RecordingDevice
from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.sums import LEAF, leaf_sums
from tests.cases.adafactor import CASES
from tests.cuda_sim.device import KernelError, SimulatedDevice, Window
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

RULES = {case.name: case.rule for case in CASES}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = ((), (1,), (5,), (1031,), (7, 3), (1, 4), (4, 1), (70, 520), (3, 66, 9), (4, 3, 5, 2))


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def gradients(shape, dtype="float32"):
    return [hard(shape, dtype, seed=90 + s, share=0) for s in range(2)]


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule, make):
    machine = make()
    for k, shape in enumerate(SHAPES):
        assert_same_steps(machine, adafactor.step, rule, hard(shape, seed=k, share=0), gradients(shape))


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("shape", [(1, 1100), (130, 1000), (700, 3), (4200, 2), (2, 300_000)], ids=str)
def test_sums_of_several_levels_have_the_order_of_the_reference(shape, make):
    """More than a leaf along a row, a run or runs of runs down a column, a leaf of leaves of either."""
    machine = make()
    if isinstance(machine, Simulated) and shape[0] * shape[1] > 1e5:
        machine = Simulated("plain")
    w = hard(shape, seed=3, share=0)
    assert_same_steps(machine, adafactor.step, mo.Adafactor(), w, gradients(shape)[:1])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["adafactor", "adafactor-torch", "adafactor-unfactored"])
def test_singular_numbers_reach_what_they_reach_in_the_reference(name, make):
    machine, rule = make(), RULES[name]
    for shape in ((40, 600), (70,)):
        for value in (np.nan, -np.inf, 1e-45, 3e38):
            g = hard(shape, share=0)
            g[3] = 0
            g.flat[-7] = value
            w = hard(shape, seed=1, share=0)
            assert_same_steps(machine, adafactor.step, rule, w, [g, hard(shape, seed=2, share=0)])
        w = hard(shape, seed=1, share=0.01)
        assert_same_steps(machine, adafactor.step, rule, w, [hard(shape, share=0.3), np.zeros_like(w)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS[::2]:
        for name, shape in (("adafactor-momentum", (67, 30)), ("adafactor-largest", (3, 20, 9))):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), other)
            assert_same_steps(machine, adafactor.step, RULES[name], w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype, make):
    machine = make()
    for name, shape, other in (
        ("adafactor-momentum", (66, 532), dtype),
        ("adafactor", (3, 40, 9), "float32"),
        ("adafactor-unfactored", (37,), "float64"),
    ):
        w, g = hard(shape, dtype, share=0), hard(shape, other, seed=1, share=0)
        assert_same_steps(machine, adafactor.step, RULES[name], w, [g])


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_and_no_block_changes_a_bit(order):
    for k, block in enumerate((32, 128, 512)):

        def step(rule, w, g, state, block=block):
            adafactor.step(rule, w, g, state, block=block)

        shape = ((131, 1200), (66, 33), (5, 65, 7))[k]
        w = hard(shape, share=0)
        assert_same_steps(Simulated(order=order), step, mo.Adafactor(beta1=0.9), w, gradients(shape))


@pytest.mark.parametrize("make", MACHINES)
def test_tensors_without_entries_and_gradients_of_rows(make):
    machine = make()
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 5), (0, 2, 3)):
        w = np.zeros(shape, np.float32)
        assert_same_steps(machine, adafactor.step, mo.Adafactor(), w, [w.copy()] * 2)
    g = RowSparse(np.array([5, 1, 5]), hard((3, 200), share=0), (9, 200))
    assert_same_steps(machine, adafactor.step, mo.Adafactor(), hard((9, 200), seed=1, share=0), [g, g])


@simulated
def test_a_gradient_that_is_the_parameter_itself():
    w = hard((40, 300), share=0)
    state, expected = mo.Adafactor().init_leaf(w), mo.Adafactor().values(w, w, mo.Adafactor().init_leaf(w))
    with Simulated().running():
        adafactor.step(mo.Adafactor(), w, w, state)
    assert np.array_equal(w, expected["w"])


class Counting(SimulatedDevice):
    """Remembers the bytes of all launches."""

    moved = 0

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        self.moved += sum(t.bytes for t in self.traffic.values())


@simulated
def test_it_moves_20_bytes_an_entry_and_4_more_for_the_size_of_the_parameter():
    """Everything between the passes is less than 5 % of them at 1024 x 1024, and less beyond."""
    shape = 1024, 1024
    room = np.zeros(2 * shape[0] * shape[1] + 64, np.float32)
    w, g = room[(-room.ctypes.data % 256) // 4 :][: 2 * shape[0] * shape[1]].reshape(2, *shape)
    g[...] = hard(shape, share=0)
    for rule, wanted in ((mo.Adafactor(scale_parameter=False), 20), (mo.Adafactor(), 24)):
        device = Counting("check")
        adafactor_engine.step(device, rule, w, g, rule.init_leaf(w), 1)
        assert wanted <= device.moved / w.size < 1.05 * wanted


@simulated
def test_few_launches_and_only_those_that_an_option_needs():
    w = hard((300, 700), share=0)

    def launches(rule):
        device = RecordingDevice()
        adafactor_engine.step(device, rule, w, w.copy(), rule.init_leaf(w), 1)
        return [launch.kernel.name.removeprefix("adafactor_") for launch in device.launches]

    factors = ["squares", "fold_leaves", "fold_runs", "factor_averages", "factor_ratios"]
    assert launches(mo.Adafactor()) == ["size", *factors, "update", "fold_leaves", "numbers", "step"]
    assert launches(RULES["adafactor-fixed"]) == [*factors, "numbers", "step"]
    assert launches(mo.Adafactor(factored=False)) == ["size", "update", "fold_leaves", "numbers", "step"]


@simulated
def test_a_tensor_of_billions_of_entries_has_64_bit_indices():
    """The last row alone, of which the first warps are in a block that is left out."""
    f32, rows, columns = np.dtype(np.float32), 70_000, 70_001
    near, leaves = hard((1, columns), share=0), -(-columns // LEAF)
    skipped, first, blocks = (rows - 1) * leaves, -(-(rows - 1) * leaves // 8), -(-rows * leaves // 8)
    kernel = adafactor_bind.size(False, f32, f32, 256, 1)
    narrow = kernel.source.replace("const long long from = row *", "const int from = (int)row *")
    assert narrow != kernel.source
    for text, overflows in ((kernel, False), (dataclasses.replace(kernel, source=narrow), True)):
        sums = np.full(leaves, np.nan, np.float32)
        sizes = (np.int64(n) for n in (rows, columns, leaves, rows))
        args = Window(near, (rows - 1) * columns), Window(sums, skipped), *sizes, np.float32(1)
        with pytest.raises(KernelError, match="bytes before") if overflows else nullcontext():
            SimulatedDevice("check").launch(text, (blocks,), (256,), args, blocks=range(first, blocks))
        met = 8 * first - skipped
        assert overflows or same_bits(sums[met:], leaf_sums(near * near)[0, met:])


def test_arrays_that_are_not_the_rule_s_own_are_refused_and_nothing_is_written():
    rule, w = mo.Adafactor(), np.ones((4, 6), np.float32)
    state = rule.init_leaf(w)
    for name, wrong in (
        ("R", np.zeros(5, np.float32)),
        ("C", np.zeros(6)),
        ("R", np.zeros((4, 6), np.float32)),
    ):
        with Simulated().running(), pytest.raises(BackendError, match=f"{name}: got float"):
            adafactor.step(rule, w, w.copy(), {**state, name: wrong})
    with Simulated().running(), pytest.raises(BackendError, match="gradient: got"):
        adafactor.step(rule, w, np.ones((4, 5), np.float32), state)
    assert np.all(w == 1)
    assert state["t"] == 0


def test_which_rules_are_served():
    f32 = np.dtype(np.float32)
    assert all(adafactor.supports(rule, (4, 3), f32)[0] for rule in RULES.values())
    assert adafactor.supports(mo.Adam(), (4, 3), f32) == (False, "")
    assert adafactor.supports(mo.Adafactor(), (4, 3), np.dtype(object)) == (False, "no kernel for object")


# Deliberate mistakes in the kernels' text, each caught by a comparison of bits or by the checker

MISTAKES = {
    "another order of lanes": ("leaf.cuh", "= 1; apart < 32; apart *= 2", "= 16; apart; apart /= 2"),
    "lanes of a thread joined in a row": (
        "leaf.cuh",
        "(lanes[0] + lanes[1]) + (lanes[2] + lanes[3])",
        "((lanes[0] + lanes[1]) + lanes[2]) + lanes[3]",
    ),
    "a warp's half left out": ("leaf.cuh", "apart < 32", "apart < 16"),
    "the last entry of a leaf": ("leaf.cuh", "if (at < count)", "if (at < count - 1)"),
    "one past the end": ("leaf.cuh", "if (at < count)", "if (at <= count)"),
    "a tail left out": ("pass.cu", "if (column + n < columns)", "if (column + 3 < columns)"),
    "a pack across the end of the row": ("pass.cu", "if (column + n < columns)", "if (column < columns)"),
    "the columns of another matrix": ("pass.cu", "row / height * columns", "0 * height"),
    "a warp too many": ("pass.cu", "warp >= rows * leaves", "warp > rows * leaves"),
    "sums by every lane": ("both_sums.cu", "if (threadIdx.x % 32 == 0)", "if (threadIdx.x % 32 < 2)"),
    "every run from the matrix' top": ("both_sums.cu", "height + strip % strips * RUN", "height"),
    "a run of 63": ("both_sums.cu", "left < RUN ? (int)left : RUN", "left < RUN ? (int)left : RUN - 1"),
    "a run from its end": ("fold_runs.cu", "from[(first + step) *", "from[(first + steps - 1 - step) *"),
    "runs beyond the matrix": ("fold_runs.cu", "left < RUN ? (int)left : RUN", "RUN"),
    "means over the other axis": ("factor_averages.cu", "column_sums[at] / tall_", "column_sums[at] / wide_"),
    "old R in the mean": ("factor_averages.cu", "lanes[n] + v", "lanes[n] + row_sums[at]"),
    "r from another matrix' mean": ("factor_ratios.cu", "sums + warp / leaves * parts", "sums"),
    "the clip's sum for the size": ("adafactor_numbers.cu", "leaf_of(of_u, parts)", "leaf_of(of_w, parts)"),
    "eps2 left out": ("adafactor_numbers.cu", "maximum(eps2_, ", "(Real)("),
}  # fmt: skip


@simulated
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_kernels_is_caught(name, monkeypatch):
    file, right, wrong = MISTAKES[name]
    text = passes.text

    def spoiled(asked):
        found = text(asked)
        if asked != file:
            return found
        if right not in found:
            raise LookupError(f"{right!r} is not in {asked}")
        return found.replace(right, wrong)

    for module in (passes, factors):
        monkeypatch.setattr(module, "text", spoiled)
    for module, makers in (
        (adafactor_bind, ("size", "update", "step", "squares")),
        (passes, ("one", "both", "fold")),
        (factors, ("small",)),
    ):
        for make in makers:
            monkeypatch.setattr(module, make, getattr(module, make).__wrapped__)
    with pytest.raises((AssertionError, KernelError)):
        steps_of_every_kind()


def steps_of_every_kind():
    for shape in ((2, 131, 517), (10, 5), (10, 1100)):
        w = hard(shape, seed=1, share=0) * np.float32(1e-9 if shape == (10, 5) else 1)
        assert_same_steps(Simulated("check"), adafactor.step, mo.Adafactor(), w, gradients(shape)[:1])


@simulated
def test_what_catches_the_mistakes_passes_without_one():
    steps_of_every_kind()
