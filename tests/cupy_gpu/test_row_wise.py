"""AdaGrad with one number a tensor or a row on a device, against the reference: bit for bit."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import row_wise, row_wise_bind, row_wise_engine
from memopt_ref.backends.cupy_gpu.device import RecordingDevice
from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import KernelError, SimulatedDevice, Window
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

RULES = {
    "norm": mo.AdaGradNorm(eps=1e-8),
    "norm-l2": mo.AdaGradNorm(eps_root=1e-8, initial_accumulator=0.5, weight_decay=0.1),
    "norm-shrunk": mo.AdaGradNorm(weight_decay=0.1, weight_decay_mode="independent"),
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
    (1031,),
    (7, 3),
    (1, 4),
    (33, 1),
    (33, 200),
    (9, 128),
    (9, 130),
    (7, 1100),
    (3, 5, 7),
)
F32 = np.dtype(np.float32)


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def gradients(shape, dtype="float32"):
    return [hard(shape, dtype, seed=90, share=0), hard(shape, dtype, seed=91, share=0.01)]


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule, make):
    machine = make()
    for k, shape in enumerate(SHAPES):
        w = hard(shape, seed=k, share=0)
        assert_same_steps(machine, row_wise.step, rule, w, [*gradients(shape), np.zeros(shape, np.float32)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["norm", "rows", "rows-shrunk"])
def test_singular_numbers_reach_what_they_reach_in_the_reference(name, make):
    machine = make()
    for value in (np.nan, -np.nan, -np.inf, 1e-45, 3e38):
        for shape in ((10, 70), (5, 600)):
            g = hard(shape, share=0)
            g[3, 7] = value
            w = hard(shape, seed=1, share=0.001)
            assert_same_steps(machine, row_wise.step, RULES[name], w, [g, hard(shape, seed=2, share=0)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS:
        for name, shape in (("norm", (11, 30)), ("rows", (3, 20, 3)), ("rows-l2", (3, 530)), ("rows", (40,))):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), other)
            assert_same_steps(machine, row_wise.step, RULES[name], w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype, make):
    machine = make()
    other = "float32" if dtype == "float64" else "float64"
    for name, shape, dtypes in (
        ("rows", (7, 12), (dtype, other)),
        ("rows", (6, 532), (dtype,)),
        ("rows", (5,), (other,)),
        ("norm-l2", (6, 12), (dtype,)),
    ):
        given = [hard(shape, d, seed=k, share=0) for k, d in enumerate(dtypes)]
        assert_same_steps(machine, row_wise.step, RULES[name], hard(shape, dtype, share=0), given)


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_and_no_block_changes_a_bit(order):
    for block in (32, 512):

        def step(rule, w, g, state, block=block):
            row_wise.step(rule, w, g, state, block=block)

        for name, shape in (("rows", (67, 12)), ("rows", (5, 300)), ("rows", (3, 1200)), ("norm", (9, 700))):
            w = hard(shape, share=0)
            assert_same_steps(Simulated(order=order), step, RULES[name], w, gradients(shape))


@pytest.mark.parametrize("make", MACHINES)
def test_sums_of_several_levels_have_the_order_of_the_reference(make):
    """A leaf of leaves, of one long row and of many rows."""
    machine = make()
    if isinstance(machine, Simulated):
        machine = Simulated("plain")
    for name, shape in (("rows", (2, 300_000)), ("norm", (700, 40)), ("norm", (300_001,))):
        w = hard(shape, seed=3, share=0)
        assert_same_steps(machine, row_wise.step, RULES[name], w, gradients(shape)[:1])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["rows", "rows-summed", "rows-l2"])
def test_row_sparse_steps_touch_their_rows(name, make):
    machine = make()
    for shape in ((5,), (9, 3), (40, 200), (12, 700), (6, 3, 5)):
        rows = np.random.default_rng(0).permutation(shape[0])[: shape[0] // 2 + 1]
        for layout in ("c", "rows") if len(shape) == 2 else ("c",):
            g = RowSparse(rows, hard((rows.size, *shape[1:]), share=0.001), shape)
            again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=9, share=0), shape)
            none = RowSparse(rows[:0], np.zeros((0, *shape[1:]), np.float32), shape)
            w = laid(hard(shape, share=0), layout)
            assert_same_steps(machine, row_wise.step, RULES[name], w, [g, again, none])


@pytest.mark.parametrize("make", MACHINES)
def test_a_number_of_the_whole_tensor_takes_the_dense_gradient(make):
    g = RowSparse(np.array([5, 1, 5]), hard((3, 200), share=0), (9, 200))
    assert_same_steps(make(), row_wise.step, RULES["norm"], hard((9, 200), seed=1, share=0), [g, g])


@pytest.mark.parametrize("make", MACHINES)
def test_tensors_without_entries(make):
    machine = make()
    for rule in (RULES["norm"], RULES["rows"]):
        for shape in ((0,), (0, 3), (3, 0), (2, 0, 5)):
            w = np.zeros(shape, np.float32)
            assert_same_steps(machine, row_wise.step, rule, w, [w.copy()] * 2)


@simulated
def test_a_gradient_that_is_the_parameter_itself():
    for name, shape in (("rows", (9, 30)), ("norm", (9, 30)), ("rows", (40,))):
        w, rule = hard(shape, share=0), RULES[name]
        expected = rule.values(w, w, rule.init_leaf(w))
        with Simulated().running():
            row_wise.step(rule, w, w, rule.init_leaf(w))
        assert same_bits(w, expected["w"])


class Counting(SimulatedDevice):
    """Adds up the bytes of all launches."""

    moved = 0

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        self.moved += sum(t.bytes for t in self.traffic.values())


@simulated
@pytest.mark.parametrize(
    ("name", "shape", "wanted", "launches"),
    [
        ("rows", (2048, 64), 12, ["row_wise_rows"]),
        ("rows", (64, 2048), 16, ["row_wise_squares", "fold_leaves", "row_wise_settle", "row_wise_step"]),
        ("norm", (64, 2048), 16, ["row_wise_squares", "fold_leaves", "row_wise_settle", "row_wise_step"]),
    ],
)
def test_short_rows_move_12_bytes_an_entry_and_others_16(name, shape, wanted, launches):
    device, n = Counting("check"), shape[0] * shape[1]
    room = np.ones(2 * n + 64, np.float32)
    w, g = room[(-room.ctypes.data % 256) // 4 :][: 2 * n].reshape(2, *shape)
    row_wise_engine.step(device, RULES[name], w, g, RULES[name].init_leaf(w))
    assert device.launches == launches
    assert wanted <= device.moved / n < 1.02 * wanted


@simulated
def test_indices_beyond_32_bits_reach_their_entries():
    """The last rows alone of a table of 6 billion entries; the same text with short indices is caught."""
    rows, columns, rule = 100_000_007, 60, RULES["rows"]
    kernel = row_wise_bind.rows("none", False, F32, F32, 256, 4)
    begun = "const Gradient *g_row = g_all + row * columns;"
    narrow = kernel.source.replace(begun, begun.replace("row * columns", "(int)(row * columns)"))
    assert narrow != kernel.source
    blocks = -(-rows * 16 // 256)
    first = (blocks - 1) * 16
    w, g = hard((rows - first, columns), share=0), hard((rows - first, columns), seed=1, share=0)
    s = np.ones(rows - first, np.float32)
    expected = rule.values(w, g, {"s": s})
    for text, overflows in ((dataclasses.replace(kernel, source=narrow), True), (kernel, False)):
        sizes = np.int64(rows), np.int64(columns), np.int32(16)
        arrays = Window(g, first * columns), Window(w, first * columns), Window(s, first)
        numbers = (np.float32(x) for x in (columns, 0, rule.learning_rate, 0, 0))
        with pytest.raises(KernelError, match="bytes before") if overflows else nullcontext():
            SimulatedDevice("check").launch(
                text, (blocks,), (256,), (*arrays, *sizes, *numbers), blocks=range(blocks - 1, blocks)
            )
    assert same_bits(w, expected["w"])
    assert same_bits(s, expected["s"])


def test_threads_cover_all_rows():
    for shape, name in (((1 << 20, 64), "rows"), ((1 << 12, 1 << 20), "rows"), ((1 << 12, 1 << 20), "norm")):
        w = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), shape, (0, 4))
        device = RecordingDevice()
        rule = RULES[name]
        s = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), rule.slots(shape, F32)["s"].shape, None)
        job = row_wise_engine.Job(device, w, w, s, "none", [F32.type(0)] * 4, F32, 256)
        columns = shape[1]
        if columns <= 512:
            row_wise_engine._short_rows(job, columns, 1, None)
        else:
            row_wise_engine._step(job, name == "rows", shape[0], columns)
        (launch,) = device.launches
        threads = launch.grid[0] * launch.block[0]
        wanted = shape[0] * (16 if columns <= 512 else columns // 16)
        assert wanted <= threads < wanted + launch.block[0]


def test_arrays_that_are_not_the_rule_s_own_are_refused_and_nothing_is_written():
    w = np.ones((4, 6), np.float32)
    for name, wrong in (
        ("rows", np.zeros(5, np.float32)),
        ("rows", np.zeros(4)),
        ("norm", np.zeros(4, np.float32)),
    ):
        with Simulated().running(), pytest.raises(BackendError, match="s: got float"):
            row_wise.step(RULES[name], w, w.copy(), {"s": wrong})
    with Simulated().running(), pytest.raises(BackendError, match="gradient: got"):
        row_wise.step(RULES["rows"], w, np.ones((4, 5), np.float32), RULES["rows"].init_leaf(w))
    assert np.all(w == 1)


def test_which_rules_are_served():
    class Own(mo.RowWiseAdaGrad):
        def reduced(self, square):
            return square

    assert all(row_wise.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert row_wise.supports(mo.Adam(), (4, 3), F32) == (False, "")
    assert row_wise.supports(Own(), (4, 3), F32) == (False, "Own has a reduced() of its own")
    assert row_wise.supports(mo.AdaGradNorm(), (4, 3), np.dtype(object)) == (False, "no kernel for object")
