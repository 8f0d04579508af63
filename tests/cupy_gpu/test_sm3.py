"""SM3-II's kernels against the reference: bit for bit, whatever the rank, layout, tiles and threads."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import sm3, sm3_bind, sm3_engine
from memopt_ref.backends.cupy_gpu.device import RecordingDevice
from memopt_ref.backends.cupy_gpu.sm3_engine import Tile
from memopt_ref.errors import BackendError
from memopt_ref.parts.covers import HashCover
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.arguments import Window
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

F32 = np.dtype(np.float32)
RULES = {
    "paper": mo.SM3(),
    "momentum": mo.SM3(momentum=0.9),
    "overwrite": mo.SM3(beta2=0.9),
    "ratchet": mo.SM3(beta2=0.9, ema="ratchet", momentum=0.5),
    "ratchet-without-momentum": mo.SM3(beta2=0.9, ema="ratchet"),
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
    (16, 8, 3, 3),
    (2, 129, 4, 33),
    (600, 4),
    (3, 2056),
)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule, make):
    machine = make()
    # Each rule has kernels of its own, for packs of one entry and of four: the paper's have those of two.
    shapes = SHAPES if rule == RULES["paper"] else [n for n in SHAPES if len(n) < 2 or n[-1] % 4 in (0, 3)]
    for k, shape in enumerate(shapes):
        w = hard(shape, seed=k, share=0.02)
        assert_same_steps(
            machine, sm3.step, rule, w, [hard(shape, seed=9, share=0), hard(shape, share=0.001)]
        )


@pytest.mark.parametrize("make", MACHINES)
def test_nan_and_infinity_of_either_sign_reach_the_accumulators_that_they_reach_in_the_reference(make):
    machine = make()
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for shape in ((40, 200), (200, 20), (5, 4, 6)):
            g = hard(shape, share=0)
            g[3, 2] = value
            again = hard(shape, seed=2, share=0)
            assert_same_steps(machine, sm3.step, mo.SM3(), hard(shape, seed=1, share=0), [g, again])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS:
        for shape in ((67, 32), (6, 7, 10)):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0.001), other)
            assert_same_steps(machine, sm3.step, mo.SM3(momentum=0.9), w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype, make):
    machine = make()
    for shape in ((7, 4), (33, 200), (300, 32), (5,), (4, 4, 8)):
        w, g = hard(shape, dtype, share=0), hard(shape, dtype, seed=1, share=0.001)
        assert_same_steps(machine, sm3.step, mo.SM3(momentum=0.9), w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["paper", "momentum", "decoupled"])
def test_row_sparse_steps_touch_their_rows(name, make):
    machine = make()
    for shape in ((5,), (9, 4), (40, 200), (6, 3, 4)):
        rows = np.random.default_rng(0).permutation(shape[0])[: shape[0] // 2 + 1]
        g = RowSparse(rows, hard((rows.size, *shape[1:]), share=0.001), shape)
        again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=9, share=0), shape)
        none = RowSparse(rows[:0], np.zeros((0, *shape[1:]), np.float32), shape)
        assert_same_steps(machine, sm3.step, RULES[name], hard(shape, share=0), [g, again, none])


@pytest.mark.parametrize("make", MACHINES)
def test_accumulators_that_fall_are_stepped_on_the_dense_gradient(make):
    g = RowSparse(np.array([1, 3]), hard((2, 200), share=0), (9, 200))
    assert_same_steps(make(), sm3.step, RULES["overwrite"], hard((9, 200), share=0), [g, g])


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_changes_a_bit(order):
    for shape in ((70, 36), (9, 1100), (5, 4, 6)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0.0001)
        assert_same_steps(Simulated(order=order), sm3.step, mo.SM3(), w, [g])


def tiled(device, tile):
    """A step with this tile."""

    def step(rule, w, g, state):
        sm3_engine.step(device, rule, w, g, state, None, tile)

    return step


@simulated
@pytest.mark.parametrize("tile", [Tile(32, 1, 1), Tile(64, 2, 3), Tile(128, 8, 7)], ids=str)
def test_tiles_change_no_bit(tile):
    machine = Simulated()
    for shape in ((70, 36), (9, 1100), (500, 3), (130, 64)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0.0001)
        assert_same_steps(machine, tiled(machine.device, tile), mo.SM3(), w, [g, g])


class Counting(SimulatedDevice):
    """Adds up the bytes of all launches."""

    moved = 0

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        self.moved += sum(t.bytes for t in self.traffic.values())


@simulated
def test_a_step_moves_12_bytes_a_parameter():
    device, n = Counting("check", processors=1), 512
    room = np.ones(2 * n * n + 64, np.float32)
    w, g = room[(-room.ctypes.data % 256) // 4 :][: 2 * n * n].reshape(2, n, n)
    sm3_engine.step(device, mo.SM3(), w, g, mo.SM3().init_leaf(w))
    assert device.launches == ["sm3", "sm3_finish"]
    assert 12 <= device.moved / n**2 < 12.2


def test_a_matrix_of_many_rows_or_columns_is_launched_whole():
    for shape, wanted in (((1 << 20, 4096), 4 << 14), ((1, 1 << 24), 1 << 14), ((1 << 24, 1), 4096)):
        w = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), shape, (0, 4))
        device = RecordingDevice(processors=1)
        x = sm3_engine.Matrix(w, shape[1])
        images = np.zeros(1, np.uint32)
        row, column = (np.lib.stride_tricks.as_strided(images, (n,), (0,)) for n in shape)
        todo = sm3_engine.Pass(device, False, "none", [], np.dtype(np.float32), None, False, Tile(256, 1))
        sm3_engine._matrix(todo, [x, x], row, column, row, column)
        (launch,) = device.launches
        tall = launch.block[1] * int(launch.args[-2])
        across = int(launch.args[-1])
        assert across * launch.block[0] >= shape[1]
        assert launch.grid[0] // across * tall >= shape[0]
        assert launch.grid[0] <= 4 * wanted


@simulated
def test_indices_beyond_32_bits_reach_their_entries():
    rows, columns, f32 = 3 << 20, 4096, np.float32
    kernel = sm3_bind.matrix(False, "none", F32, F32, 256, 4, False)
    rule = mo.SM3()
    w, g = hard((columns,), share=0), hard((columns,), seed=1, share=0)
    row, column = np.full(1, 2, f32), np.abs(hard((columns,), seed=2, share=0))
    row_most, column_most = np.zeros(1, np.uint32), np.zeros(columns, np.uint32)
    state = {"mu_0": row, "mu_1": column}
    expected = rule.values(w[None], g[None], state)
    last, across = (rows - 1) * columns, columns // 1024
    args = (
        *(Window(x, last) for x in (w, g)),
        Window(row, rows - 1),
        column,
        Window(row_most, rows - 1),
        column_most,
        *(np.int64(n) for n in (rows, columns, columns, columns)),
        *(np.int32(n) for n in (1, across)),
        *(f32(x) for x in (rule.learning_rate, 1, 1, 0, 0)),
    )
    blocks = rows * across
    device = SimulatedDevice("check")
    device.launch(kernel, (blocks,), (256, 1), args, blocks=range(blocks - across, blocks))
    assert same_bits(w, expected["w"][0])
    assert same_bits(row_most.view(f32), expected["mu_0"])
    assert same_bits(column_most.view(f32), expected["mu_1"])


def test_which_rules_are_served():
    assert all(sm3.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert sm3.supports(mo.SM3(variant="I"), (4, 3), F32)[1].startswith("SM3-I takes two passes")
    assert sm3.supports(mo.SM3(cover=HashCover(depth=2, width=5)), (4, 3), F32)[0] is False
    assert sm3.supports(mo.Adam(), (4, 3), F32) == (False, "")


def test_accumulators_of_another_shape_or_dtype_are_refused():
    w, g = np.ones((4, 70), np.float32), np.ones((4, 70), np.float32)
    state = mo.SM3().init_leaf(w)
    for wrong in (np.zeros(69, np.float32), np.zeros(70), np.zeros(140, np.float32)[::2]):
        with pytest.raises(BackendError, match="mu_1: got float"):
            sm3.step(mo.SM3(), w, g, {**state, "mu_1": wrong})
    assert np.all(w == 1)
