"""The count-sketch rules' kernels against the reference: bit for bit, whatever options and layouts."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import (
    count_sketch,
    count_sketch_bind,
    count_sketch_engine,
    count_sketch_moments,
    count_sketch_rows,
    engine,
)
from memopt_ref.backends.cupy_gpu.count_sketch_bind import Form, Table
from memopt_ref.backends.cupy_gpu.device import RecordingDevice
from memopt_ref.backends.cupy_gpu.sm3_engine import Matrix
from memopt_ref.errors import BackendError, RowIndexError, StabilityError
from memopt_ref.parts.fixed_hashes import LegacyHash
from memopt_ref.parts.hashing import Avalanche, CarterWegman, HashFamily, MultiplyShift, moment_seed
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.sketch_state import MOMENTS
from tests.cuda_sim.arguments import Window
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

F32 = np.dtype(np.float32)
ADAM = mo.CountSketchAdam
RULES = {
    "adam": ADAM(),
    "adam-global": ADAM(decay="global"),
    "adam-conservative": ADAM(decay="global", conservative=True),
    "adam-row": ADAM(delta_from="row", width=5),
    "adam-sequential": ADAM(order="sequential", bias_correction="eps_hat"),
    "adam-dense-m": ADAM(moments="second", clean_every=2, hash=MultiplyShift()),
    "adam-no-m": ADAM(beta1=0.0, width=3),
    "adam-signed": ADAM(combine="median", depth=4, eps=1.0),
    "adam-mean": ADAM(combine="mean", depth=2, eps=0.0),
    "adam-five": ADAM(depth=5, width=4),
    "adam-beta2-0": ADAM(beta2=0.0, eps=0.0),
    "momentum": mo.CountSketchMomentum(),
    "momentum-nesterov": mo.CountSketchMomentum(nesterov=True, decay="global", hash=CarterWegman()),
    "momentum-row": mo.CountSketchMomentum(delta_from="row", order="sequential", hash=LegacyHash()),
    "momentum-0": mo.CountSketchMomentum(momentum=0.0, depth=1),
    "adagrad": mo.CountSketchAdaGrad(),
    "adagrad-conservative": mo.CountSketchAdaGrad(conservative=True, clean_every=2),
    "adagrad-signed": mo.CountSketchAdaGrad(combine="median", eps=0.0, depth=4, order="sequential"),
    "rmsprop-cleaned": mo.CountSketchRMSProp(clean_every=2, clean_factor=0.3, decay="global"),
    "l2": ADAM(weight_decay=0.1),
    "l2-dense-m": ADAM(weight_decay=0.1, moments="second"),
    "decoupled": ADAM(weight_decay=0.1, weight_decay_mode="decoupled"),
    "independent": mo.CountSketchAdaGrad(weight_decay=0.1, weight_decay_mode="independent"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]


def some_rows(shape, k, seed=0, dtype="float32", share=0.002, layout="c"):
    rng = np.random.default_rng(seed)
    items = np.sort(rng.choice(shape[0], k, replace=False))
    return RowSparse(items, laid(hard((k, *shape[1:]), dtype, seed=seed, share=share), layout), shape)


def dense(shape, seed=0, dtype="float32", share=0.002):
    """About half of the rows hold only zeros, of both signs."""
    g = hard(shape, dtype, seed=seed, share=share)
    g[::2] = 0
    g[2:4] *= -1
    return g


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_row_sparse_and_dense_steps_have_the_bits_of_the_reference(rule, make):
    machine = make()
    for shape, active in (((60, 37), 41), ((9,), 4)):
        gradients = [some_rows(shape, active), dense(shape, 1), some_rows(shape, active, 2)]
        assert_same_steps(machine, count_sketch.step, rule, hard(shape, seed=1, share=0), gradients)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["adam", "l2"])
def test_packs_of_columns(name, make):
    machine = make()
    for shape, active in (((30, 2, 3), 30), ((14, 2056), 9)):
        gradients = [some_rows(shape, active), dense(shape, 1)]
        assert_same_steps(machine, count_sketch.step, RULES[name], hard(shape, seed=1, share=0), gradients)


@pytest.mark.parametrize("make", MACHINES)
def test_none_one_and_all_rows_and_empty_parameters(make):
    machine = make()
    for shape in ((7, 5), (1, 3), (0, 4), (4, 0), (1,)):
        for name in ("adam", "rmsprop-cleaned", "adam-sequential"):
            gradients = [some_rows(shape, k) for k in sorted({0, min(1, shape[0]), shape[0]})]
            gradients += [dense(shape), np.zeros(shape, np.float32)]
            assert_same_steps(machine, count_sketch.step, RULES[name], hard(shape, share=0), gradients)


@pytest.mark.parametrize("make", MACHINES)
def test_a_decay_that_a_schedule_starts_at_0_keeps_its_sketch(make):
    """The table is that of the rule as built."""
    rule = ADAM(beta1=mo.schedules.Function(lambda step: 0.0 if step == 1 else 0.9))
    w = hard((60, 37), seed=1, share=0)
    state = rule.init_leaf(w)
    for number in (1, 2):
        now = rule.at(number)
        machine, before = make(), copy.deepcopy(state)
        there_w, there = machine.to(w.copy()), {n: machine.to(x) for n, x in state.items()}
        with machine.running():
            count_sketch.step(now, there_w, machine.to(dense(w.shape, number)), there)
        stepped = now.values(w, dense(w.shape, number), before)
        assert same_bits(machine.back(there_w), stepped["w"])
        assert all(same_bits(machine.back(there[n]), stepped[n]) for n in MOMENTS)
        w, state = stepped["w"], {n: stepped[n] for n in state}


@pytest.mark.parametrize("make", MACHINES)
def test_duplicate_rows_in_any_order_are_summed_first(make):
    rows = RowSparse(np.array([5, 2, 5, 2, 0]), hard((5, 20), share=0.05), (8, 20))
    assert_same_steps(make(), count_sketch.step, ADAM(), hard((8, 20), seed=1, share=0), [rows, rows])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_weights_and_gradient(layout, make):
    machine = make()
    for name in ("adam-dense-m", "l2"):
        for other in ("c", layout):
            for shape in ((40, 36), (20, 4, 5)):
                w = laid(hard(shape, seed=3, share=0), layout)
                gradients = [some_rows(shape, 15, layout=other), laid(dense(shape), other)]
                assert_same_steps(machine, count_sketch.step, RULES[name], w, gradients)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes(dtype, make):
    machine, shape = make(), (50, 40)
    for name in ("adam", *(("adam-dense-m",) if dtype == "bfloat16" else ())):
        w = hard(shape, dtype, seed=1, share=0)
        mixed = [some_rows(shape, 30, 0, dtype), some_rows(shape, 20, 1, "float32"), dense(shape, 2, dtype)]
        assert_same_steps(machine, count_sketch.step, RULES[name], w, mixed)


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_changes_a_bit(order):
    for name in ("adam", "adam-row", "adam-conservative"):
        gradients = [some_rows((60, 37), 41), dense((60, 37), 1)]
        w = hard((60, 37), seed=1, share=0)
        assert_same_steps(Simulated(order=order), count_sketch.step, RULES[name], w, gradients)


def shaped(**options):
    def step(rule, w, g, state):
        count_sketch.step(rule, w, g, state, **options)

    return step


@simulated
@pytest.mark.parametrize(
    "options",
    [{"scan": True}, {"block": 64, "vec": 1, "scan": True}, {"block": 128, "vec": 2}],
    ids=str,
)
def test_shapes_change_no_bit(options):
    machine = Simulated()
    for name in ("adam", "adam-row"):
        for shape in ((90, 20), (50, 300), (70,)):
            gradients = [some_rows(shape, 45), dense(shape, 1)]
            w = hard(shape, seed=1, share=0)
            assert_same_steps(machine, shaped(**options), RULES[name], w, gradients)


@simulated
@pytest.mark.parametrize("scan", [False, True])
def test_a_thread_takes_several_packs_where_a_grid_is_too_narrow(scan, monkeypatch):
    monkeypatch.setattr(engine, "MOST_ACROSS", 2)
    gradients = [some_rows((20, 555), 12), dense((20, 555), 1)]
    w = hard((20, 555), seed=1, share=0)
    assert_same_steps(Simulated(), shaped(block=64, scan=scan), ADAM(), w, gradients)


@simulated
@pytest.mark.parametrize("name", ["adam", "adam-row", "adam-sequential"])
def test_what_lay_in_the_memory_of_scratch_changes_no_bit(name, monkeypatch):
    def poisoned(like, shape, dtype):
        made = np.empty(shape, dtype)
        made.view(np.uint8)[...] = 0xFF
        return made

    monkeypatch.setattr(count_sketch_rows, "empty", poisoned)
    monkeypatch.setattr(count_sketch_moments, "empty", poisoned)
    gradients = [some_rows((60, 37), 41), dense((60, 37), 1)]
    assert_same_steps(Simulated(), count_sketch.step, RULES[name], hard((60, 37), seed=1, share=0), gradients)


@pytest.mark.parametrize("make", MACHINES)
def test_nan_and_infinity_of_either_sign_go_where_they_go_in_the_reference(make):
    machine = make()
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for name in ("adam", "adam-conservative", "adagrad", "adam-mean"):
            g = some_rows((30, 37), 12, share=0)
            g.rows[3, 7] = value
            w = hard((30, 37), seed=1, share=0)
            gradients = [g, some_rows((30, 37), 30, 1, share=0)]
            assert_same_steps(machine, count_sketch.step, RULES[name], w, gradients)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["adam", "momentum", "adagrad-signed", "adam-row"])
def test_zeros_keep_their_signs(name, make):
    """A bucket's sum begins with its first increment, not with +0."""
    machine, shape = make(), (12, 37)
    rule, w = RULES[name], np.full(shape, -0.0, np.float32)
    minus = RowSparse(np.arange(12), np.full(shape, -0.0, np.float32), shape)
    state = rule.init_leaf(w)
    for table in (state[n] for n in MOMENTS if n in state):
        table[...] = -0.0
    expected = copy.deepcopy(state)
    stepped = rule.step_rows(w, minus, expected).whole(w, expected)
    there_w, there = machine.to(w), {n: machine.to(x) for n, x in state.items()}
    there_g = RowSparse(machine.to(minus.indices), machine.to(minus.rows), shape)
    with machine.running():
        count_sketch.step(rule, there_w, there_g, there)
    assert same_bits(machine.back(there_w), stepped["w"])
    assert all(same_bits(machine.back(there[n]), stepped[n]) for n in MOMENTS if n in state)


@simulated
def test_hashing_is_that_of_the_family():
    rng, device = np.random.default_rng(0), SimulatedDevice()
    items = np.sort(np.concatenate([rng.choice(2**32, 300), 2**32 + rng.choice(2**62, 300)]))
    for seed, width in ((0, 1), (7, 13_333), (2**63, 2**26)):
        for moment, name in ((1, "M"), (2, "V")):
            rule = ADAM(width=width)
            table = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (3, width, 1), (0, 0, 0))
            state = {"seed": np.uint64(seed), name: table}
            w = Matrix(np.zeros((1, 1), np.float32), 1)
            shape = count_sketch_rows.DEFAULT
            todo = count_sketch_rows.Pass(device, shape, w, w, items, 1, False, "none", np.float32(1))
            places, keys = count_sketch_rows.located(todo, rule, state, name, table)
            found, family = places.astype(np.int64), Avalanche()
            own = moment_seed(seed, moment)
            for j in range(3):
                place = j * width + family.buckets(items, j, width, own)
                negative = (family.signs(items, j, width, own) < 0) & (name == "M")
                assert np.array_equal(found[:, j] & ~np.int64(2**31), place)
                assert np.array_equal(found[:, j] >> 31, negative)
                expected = place << 32 | np.arange(items.size) << 1 | negative
                assert np.array_equal(keys.reshape(3, -1)[j], expected.astype(np.uint64))


class Counting(SimulatedDevice):
    """The bytes of each launch."""

    def launch(self, kernel, *arguments, **options):
        super().launch(kernel, *arguments, **options)
        self.moved = getattr(self, "moved", {})
        self.moved[kernel.name] = sum(t.bytes for t in self.traffic.values())


@simulated
def test_three_launches_move_what_active_rows_and_their_buckets_hold():
    device, shape, rule = Counting("check"), (64, 512), mo.CountSketchMomentum(depth=3, width=16)
    room = np.zeros((3, 64 * 512 + 64), np.float32)
    rows = [x[(-x.ctypes.data % 256) // 4 :][: 64 * 512].reshape(shape) for x in room]
    state = rule.init_leaf(rows[0])
    table = rows[2].reshape(-1)[: state["M"].size].reshape(state["M"].shape)
    items = np.arange(0, 64, 2)
    w, g = rows[0], rows[1][:32]
    g[...] = 1
    places = rule.sketch("M", state).locate(items).buckets
    buckets = sum(np.unique(row).size for row in places)
    count_sketch_engine.step(device, rule, w, g, {**state, "M": table}, 0, items)
    wanted = {
        # The gradient, the buckets that are asked, and the increments.
        "count_sketch_increments": (2 * 32 + buckets) * 2048,
        "count_sketch_scatter": (32 + 2 * buckets) * 2048,
        # The weights both ways; momentum has no use for the gradient.
        "count_sketch_step": (2 * 32 + buckets) * 2048,
    }
    assert device.launches == ["count_sketch_locate", *wanted]
    for name, moved in wanted.items():
        assert moved <= device.moved[name] <= moved * 1.04, name


@simulated
def test_indices_beyond_32_bits_reach_their_entries():
    """The last of three million rows of 4096 weights, in the last of two million buckets."""
    n, columns, buckets = 3 << 20, 4096, 2 << 20
    last, far = (n - 1) * columns, (buckets - 1) * columns
    form = Form(1, "min", False, None, False, False, False)
    g, table = hard((1, columns), share=0), hard((1, columns), seed=1, share=0)
    w, old = hard((columns,), seed=2, share=0), table.copy()
    scatter = count_sketch_bind.of_moment("scatter", form, F32, F32, 256, 4, False)
    device, one = SimulatedDevice("check"), np.int64(1)
    items, keys = np.array([n - 1]), np.array([(buckets - 1) << 32], np.uint64)
    pitches = np.int64(columns), np.int64(columns)
    numbers = np.int32(0), np.float32(1), np.float32(1)
    args = (g, Window(w, last), items, *pitches, *numbers, keys, Window(table, far), one, one, pitches[0])
    device.launch(scatter, (1, 4), (256, 1), args)
    assert same_bits(table, old + g)
    moments = (Table("m", "asked", "min"),)
    step = count_sketch_bind.step(count_sketch_bind.momentum, moments, 1, "none", F32, F32, 256, 4)
    places, before = np.array([buckets - 1], np.uint32), w.copy()
    args = (Window(w, last), g, Window(table, far), places, items, one, pitches[0], *pitches, numbers[0])
    device.launch(step, (1, 4), (256, 1), (*args, np.float32(0.5)))
    assert same_bits(w, before - np.float32(0.5) * table[0])


def test_no_atomics_and_no_barriers():
    for path in Path(count_sketch.__file__).parent.glob("count_sketch*.cu*"):
        text = path.read_text()
        assert "atomic" not in text
        assert "__syncthreads" not in text


def test_errors_are_those_of_the_rule_and_nothing_is_written():
    w = np.ones((40, 20), np.float32)
    crowded = ADAM(delta_from="row", width=1, beta1=0.5)
    state = crowded.init_leaf(w)
    before = copy.deepcopy(state)
    items = np.arange(40)
    with pytest.raises(StabilityError):
        count_sketch_engine.step(RecordingDevice(), crowded, w, np.ones_like(w), state, 1, items)
    short, far = np.zeros((3, 1, 1), np.float32), np.array([0, 2**31 - 1])
    table = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**31, 1), (0, 0))
    rule, state2 = mo.CountSketchAdaGrad(hash=CarterWegman(), width=1), {"V": short, "seed": np.uint64(0)}
    recorded = RecordingDevice()
    with pytest.raises(RowIndexError):
        count_sketch_engine.step(recorded, rule, table, np.ones((2, 1), np.float32), state2, 0, far)
    assert not recorded.launches
    assert np.all(w == 1)
    assert all(same_bits(state[n], before[n]) for n in before)


class Astray(HashFamily):
    """Leads out of every table."""

    def buckets(self, items, row, width, seed):
        return np.asarray(items) + width

    def signs(self, items, row, width, seed):
        return np.ones(len(items), np.int8)


@simulated
def test_tables_of_another_shape_or_dtype_and_hashes_that_lead_astray_are_refused():
    w, g = np.ones((40, 20), np.float32), np.ones((40, 20), np.float32)
    state = ADAM().init_leaf(w)
    wrong = (
        np.zeros((3, 2, 19), np.float32),
        np.zeros((3, 2, 20)),
        np.zeros((20, 2, 3), np.float32).T,
        np.zeros((3, 1, 20), np.float32),
    )
    with Simulated().running():
        for table in wrong:
            with pytest.raises(BackendError, match=r"V: got float.*, in one piece"):
                count_sketch.step(ADAM(), w, g, {**state, "V": table})
        with pytest.raises(BackendError, match=r"Astray: got buckets up to 41; wanted buckets in \[0, 2\)"):
            count_sketch.step(ADAM(hash=Astray()), w, g, state)
    assert np.all(w == 1)


def test_which_rules_are_served():
    assert all(count_sketch.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert count_sketch.supports(ADAM(), (4, 3), np.dtype(object)) == (False, "no kernel for object")
    assert count_sketch.supports(mo.Adam(), (4, 3), F32) == (False, "")
    assert count_sketch.supports(ADAM(depth=33), (4, 3), F32) == (False, "a sketch of more than 32 rows")
    assert count_sketch.supports(RULES["momentum-row"], (4, 3), F32)[1].endswith("hashes by LegacyHash")

    class Own(ADAM):
        def follow(self, items, g, state):
            return super().follow(items, 2 * g, state)

    assert count_sketch.supports(Own(), (4, 3), F32) == (False, "Own is a class of its own")
