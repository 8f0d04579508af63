"""Element-wise kernels against the reference: bit for bit, whatever the numbers, layouts and threads."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import elementwise, engine, state
from memopt_ref.backends.cupy_gpu.bind import Shape, bind
from memopt_ref.backends.cupy_gpu.device import RecordingDevice
from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.adam import adam
from memopt_ref.rules.elementwise import Elementwise
from tests.cuda_sim.arguments import Window
from tests.cuda_sim.device import KernelError, SimulatedDevice
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, settled, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits
from tests.table import all_cases

F32 = np.dtype(np.float32)
CASES = [
    c for c in all_cases() if isinstance(c.rule, Elementwise) and elementwise.supports(c.rule, (3,), F32)[0]
]
EACH = [pytest.param(case.rule, id=case.name) for case in CASES]
FEW = [
    mo.SGD(momentum=0.9, nesterov=True),
    mo.AdamW(weight_decay=0.1),
    mo.FTRLProximal(centre="origin", l1=0.1),
]
SOME = [pytest.param(rule, id=rule.name) for rule in FEW]


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_rule_has_the_bits_of_the_reference_on_singular_numbers(rule, make):
    machine = make()
    for k, size in enumerate(((), (0,), (1,), (3,), (1033,), (7, 32))):
        w, gradients = hard(size, seed=k, share=0.05), [hard(size, seed=90 + k), hard(size, seed=k, share=0)]
        assert_same_steps(machine, elementwise.step, rule, w, gradients)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", SOME)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_are_stepped_with_the_bits_of_the_reference(rule, dtype, make):
    w = hard((1033,), dtype, share=0.05)
    assert_same_steps(make(), elementwise.step, rule, w, [hard((1033,), dtype, seed=9)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(
    ("dtype", "other"), [("float32", "float64"), ("float32", "bfloat16"), ("float64", "float16")]
)
def test_a_gradient_of_another_dtype_is_cast_first(dtype, other, make):
    assert_same_steps(make(), elementwise.step, mo.SGD(), hard((500,), dtype, share=0), [hard((500,), other)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for shape in ((67, 30), (3, 20, 16), (2, 3, 2, 5), (9,), (1, 0), (300, 2)):
        for other in LAYOUTS:
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1), other)
            assert_same_steps(machine, elementwise.step, mo.SGD(momentum=0.9), w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", SOME)
def test_row_sparse_steps_touch_their_rows_with_the_bits_of_the_reference(rule, make):
    machine = make()
    for k, shape in enumerate([(5,), (9, 3), (40, 300), (6, 3, 5)]):
        rows = np.random.default_rng(k).permutation(shape[0])[: shape[0] // 2 + 1]
        g = RowSparse(rows, hard((rows.size, *shape[1:]), seed=k), shape)
        again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=k + 20), shape)
        none = RowSparse(rows[:0], np.zeros((0, *shape[1:]), np.float32), shape)
        w = laid(hard(shape, seed=k, share=0.05), LAYOUTS[k % len(LAYOUTS)])
        assert_same_steps(machine, elementwise.step, rule, w, [g.coalesced(), again, none])


@simulated
def test_what_lies_between_the_entries_of_a_view_is_not_touched():
    wide = np.full((70, 9), 7, np.float32)
    w = wide[:, 1:8:2]
    with Simulated().running():
        elementwise.step(mo.SGD(learning_rate=1.0), w, np.ones((70, 4), np.float32), {})
    assert np.all(wide[:, ::2] == 7)
    assert np.all(w == 6)


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_changes_a_bit(order):
    w, g = hard((7, 1001), share=0), hard((7, 1001), seed=1)
    for layout in ("c", "rows"):
        assert_same_steps(Simulated(order=order), elementwise.step, mo.SGD(), laid(w, layout), [g])


def shaped(device, shape):
    """A step with this shape instead of the rule of thumb."""

    def step(rule, w, g, state):
        engine.step(device, rule, w, g, state, int(state["t"]) + 1, shape=shape)
        state["t"] += np.int64(1)

    return step


@simulated
@pytest.mark.parametrize(
    "shape", [Shape(32, 1, 1), Shape(64, 2, 3), Shape(256, 8), Shape(1024, 4, 1)], ids=str
)
def test_shapes_change_no_bit(shape):
    machine = Simulated("check")
    w, g = hard((20_011,), share=0), hard((20_011,), seed=1)
    assert_same_steps(machine, shaped(machine.device, shape), mo.Adam(), w, [g, g])


@simulated
def test_adam_moves_28_bytes_a_parameter():
    device, n = SimulatedDevice("check"), 1 << 16
    room = np.zeros(4 * n + 64, np.float32)
    w, g, m, v = room[(-room.ctypes.data % 256) // 4 :][: 4 * n].reshape(4, n)
    engine.step(device, mo.Adam(), w, g, {"m": m, "v": v}, 1)
    assert sum(t.bytes for t in device.traffic.values()) == 28 * n
    assert {t.untouched for t in device.traffic.values()} == {0}


@simulated
def test_pointers_that_are_not_aligned_get_shorter_packs():
    room = hard((1040,), share=0)
    for shift in (1, 2, 3):
        w = room[shift : shift + 1001]
        assert_same_steps(Simulated(), elementwise.step, mo.SGD(), w, [hard((1001,))])


@simulated
def test_a_gradient_in_the_memory_of_the_state_is_read_as_it_was():
    rule, w = mo.SGD(momentum=0.5), hard((1000,), share=0)
    slots = settled(rule, w)
    expected = rule.values(w, slots["m"][::-1].copy(), slots)
    with Simulated().running():
        elementwise.step(rule, w, slots["m"][::-1], slots)
    assert same_bits(w, expected["w"])
    assert same_bits(slots["m"], expected["m"])


FAR = 5_000_000_003


def far_step(device, kernel):
    """The last blocks of a step of five billion entries, on small arrays at their end."""
    count, near = FAR, 4096 + 3
    small = [hard((near,), seed=k, share=0) for k in range(4)]
    small[3] = np.abs(small[3])
    windows = [Window(x, count - near) for x in small]
    numbers = [np.float32(x) for x in (0.1, 0.9, 0.1, 0.99, 0.01, 0.5, 0.5, 0.0, 1e-8)]
    blocks = -(-count // 1024)
    args = (*windows, np.int64(count), *numbers)
    before = [x.copy() for x in small]
    device.launch(kernel, (blocks,), (256,), args, blocks=range(blocks - 3, blocks))
    return before, small


@simulated
def test_indices_beyond_32_bits_reach_their_entries():
    kernel = bind("packed", adam, ("m", "v"), "none", F32, F32, Shape())
    before, after = far_step(SimulatedDevice("check"), kernel)
    last = FAR % 1024 + 2 * 1024
    for x, old in zip(after[2:], before[2:], strict=True):
        assert np.mean(x[-last:] != old[-last:]) > 0.99
        assert same_bits(x[:-last], old[:-last])
    short = kernel.source.replace("(long long)blockIdx.x * BLOCK", "(int)blockIdx.x * BLOCK")
    short = short.replace("const long long packs", "const int packs").replace(
        "long long pack =", "int pack ="
    )
    wrong = type(kernel)(kernel.name, short, kernel.options)
    with pytest.raises(KernelError, match=r"out of bounds|overflows"):
        far_step(SimulatedDevice("check"), wrong)


class Far:
    """As much of an array as the launch code looks at, of a size that no test can allocate."""

    class data:
        ptr = 1 << 40

    def __init__(self, shape, dtype="float32"):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.size, self.ndim, self.itemsize = (
            int(np.prod(shape, dtype=object)),
            len(shape),
            self.dtype.itemsize,
        )
        self.strides = tuple(
            self.itemsize * int(np.prod(shape[k + 1 :], dtype=object)) for k in range(len(shape))
        )
        self.flags = np.empty(1).flags


def test_a_step_of_six_billion_entries_is_launched_whole(monkeypatch):
    device, shape = RecordingDevice(), (6_000_000_000,)
    monkeypatch.setattr(engine, "overlap", lambda x, y: False)
    engine.step(device, mo.SGD(), Far(shape), Far(shape), {}, 0)
    engine.step(device, mo.SGD(), Far(shape), Far(shape), {}, 0, shape=Shape(256, 4, 2))
    (whole, looping) = device.launches
    assert (whole.grid, whole.block) == ((5_859_375,), (256,))
    assert looping.grid == (264,)
    assert whole.args[2] == 6_000_000_000
    assert whole.args[2].dtype == np.int64
    assert [type(x) for x in whole.args[3:]] == [np.float32]


def test_which_rules_are_served():
    def reason(rule, dtype=F32):
        fits, why = elementwise.supports(rule, (3,), dtype)
        assert fits == (why == "one launch of the rule's expression")
        return why

    assert reason(mo.Adam()) == "one launch of the rule's expression"
    assert reason(mo.FTRLProximal(lr_power=-0.2)).startswith("iterate_power() uses power")
    assert reason(mo.Adam(), np.dtype(object)) == "no kernel for object"
    assert reason(mo.SM3()) == ""


def test_arrays_that_the_kernels_cannot_walk_are_refused_before_anything_is_written():
    w = np.ones(4, np.float32)
    packed = np.zeros(4, [("a", "i1"), ("x", "f4")])["x"]
    for g, slots, said in (
        (np.ones(3, np.float32), {}, "gradient: got float32 of shape"),
        (np.ones(4, np.int32), {}, "gradient: got int32"),
        (packed, {}, "whole steps"),
        (np.ones(4, np.float32), {"m": np.zeros(4)}, "m: got float64"),
        (np.ones(4, np.float32), {"m": np.zeros(5, np.float32)}, "m: got float32 of shape"),
    ):
        with pytest.raises(BackendError, match=said):
            elementwise.step(mo.SGD(momentum=0.5 if slots else 0.0), w, g, dict(slots))
    assert np.all(w == 1)


@pytest.mark.parametrize("rule", EACH)
def test_the_state_is_made_as_the_reference_makes_it(rule):
    for w in (np.ones((3, 4), np.float16), np.asfortranarray(hard((3, 4), share=0)), np.ones(())):
        made, expected = state.init_leaf(rule, w, "a/b"), rule.init_leaf(w, "a/b")
        assert list(made) == list(expected)
        for name, x in expected.items():
            assert same_bits(made[name], x)
            assert np.shape(x) == () or made[name].strides == x.strides
