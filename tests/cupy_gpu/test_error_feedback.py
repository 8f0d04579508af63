"""Steps with compressors on a device have the reference's bits, whatever compressor, block and error."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import error_feedback, error_feedback_engine, folds
from memopt_ref.errors import BackendError
from memopt_ref.parts.compressors import Identity, OneBit, ScaledSign, TopK
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import LAYOUTS, hard, laid

F32 = np.dtype(np.float32)
EF, EF21, ADAM = mo.ErrorFeedbackSGD, mo.EF21, mo.TopKAdam
RULES = {
    "whole": EF(),
    "blocks": EF(compressor=TopK(density=0.3, block=31)),
    "k": EF(compressor=TopK(k=5, block=64), weight_decay=0.1, weight_decay_mode="decoupled"),
    "all": EF(compressor=TopK(density=1.0)),
    "sign": EF(compressor=ScaledSign(), weight_decay=0.1),
    "sign-blocks": EF(compressor=ScaledSign(block=29)),
    "sign-long-blocks": EF(compressor=ScaledSign(block=700)),
    "one-bit": EF(compressor=OneBit(), weight_decay=0.1, weight_decay_mode="independent"),
    "identity": EF(compressor=Identity()),
    "no-feedback": EF(compressor=ScaledSign(), error_bits=0),
    "no-feedback-top-k": EF(compressor=TopK(density=0.2, block=50), error_bits=0),
    "4-bit": EF(error_bits=4, bucket=6),
    "4-bit-blocks": EF(compressor=TopK(density=0.2, block=60), error_bits=4, bucket=9),
    "8-bit-sign": EF(compressor=ScaledSign(), error_bits=8, bucket=64, bounds_dtype="float32"),
    "1-bit-one-bit": EF(compressor=OneBit(), error_bits=1, bucket=5, bounds_dtype="float64"),
    "random": EF(compressor=TopK(density=0.2), error_bits=3, bucket=70, rounding="stochastic", seed=3),
    "ef21": EF21(compressor=TopK(density=0.1)),
    "ef21-blocks": EF21(compressor=TopK(density=0.1, block=33), weight_decay=0.1),
    "ef21-sign": EF21(compressor=ScaledSign(block=100)),
    "ef21-one-bit": EF21(compressor=OneBit(), weight_decay=0.1, weight_decay_mode="decoupled"),
    "adam": ADAM(),
    "adam-feedback": ADAM(error_feedback=True, compressor=TopK(density=0.1, block=32), weight_decay=0.1),
    "adam-l2": ADAM(weight_decay=0.1, weight_decay_mode="l2"),
    "adam-whole": ADAM(error_feedback=True, compressor=TopK(k=3), eps=0.0),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = ((5,), (1,), (), (7, 3), (67, 13), (3, 5, 11), (1031,))


@pytest.fixture(autouse=True)
def _memory_is_never_clean(monkeypatch):
    """What a launch does not write is NaN or as strange, as on a device it may be anything."""
    room = folds.room

    def poisoned(*arguments):
        x = room(*arguments)
        x.view(np.uint8)[...] = 0xFF
        return x

    monkeypatch.setattr(folds, "room", poisoned)


def tied(shape, seed=0, dtype="float32"):
    """Few magnitudes, each many times, of both signs."""
    rng = np.random.default_rng(seed)
    return rng.choice([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0], shape).astype(hard((), dtype).dtype)


def searched(rule, w, g, state):
    """Every block of Top-K counts as a large one."""
    error_feedback.step(rule, w, g, state, large=0)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_compressor_has_the_bits_of_the_reference(rule, make):
    machine = make()
    for k, shape in enumerate(SHAPES):
        w = hard(shape, seed=k, share=0)
        given = [hard(shape, seed=20 + k, share=0.001), tied(shape), hard(shape, share=0)]
        assert_same_steps(machine, error_feedback.step, rule, w, given)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["whole", "k", "sign", "one-bit", "4-bit-blocks", "ef21", "adam-feedback"])
def test_packs_of_neighbours_change_no_bit(name, make):
    """Rows of which four entries are read at once, which ends in a part that is not."""
    machine = make()
    for shape in ((130, 12), (3, 4, 51)):
        w = hard(shape, seed=1, share=0)
        assert_same_steps(machine, error_feedback.step, RULES[name], w, [tied(shape), hard(shape, share=0)])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("name", ["whole", "no-feedback-top-k", "ef21", "adam"])
def test_a_block_that_many_thread_blocks_search_keeps_the_same(name, make, monkeypatch):
    monkeypatch.setattr(error_feedback_engine, "TILE", 300)
    machine = make()
    for shape in ((37, 41), (5,)):
        w = hard(shape, seed=1, share=0)
        given = [hard(shape, seed=2, share=0.01), tied(shape), np.zeros(shape, np.float32)]
        assert_same_steps(machine, searched, RULES[name], w, given)


@pytest.mark.parametrize("make", MACHINES)
def test_large_blocks_and_columns_at_the_shape_that_ships(make):
    """Several tiles and a short one; a block of Adam's default; sums of several levels."""
    machine = make()
    if isinstance(machine, Simulated):
        machine = Simulated("plain")
    large = error_feedback_engine.LARGE + 12_345
    for rule, shape in (
        (RULES["whole"], (large,)),
        (EF(compressor=TopK(density=0.01, block=large)), (large + 33,)),
        (ADAM(compressor=TopK(density=0.6)), (large,)),
        (RULES["adam"], (3, 4099)),
        (RULES["sign"], (300_001,)),
        (RULES["one-bit"], (4200, 3)),
    ):
        w = hard(shape, seed=1, share=0)
        given = [hard(shape, seed=2, share=0.001), tied(shape)]
        assert_same_steps(machine, error_feedback.step, rule, w, given)


@pytest.mark.parametrize("make", MACHINES)
def test_nan_and_infinity_are_kept_first_and_go_where_they_go_in_the_reference(make):
    machine = make()
    for value in (np.nan, -np.nan, -np.inf, 1e-45):
        for name in (
            "whole",
            "blocks",
            "sign",
            "one-bit",
            "4-bit-blocks",
            "8-bit-sign",
            "ef21",
            "adam-feedback",
        ):
            g = hard((9, 37), seed=3, share=0)
            g[3, 7] = g[7, 2] = value
            w = hard((9, 37), seed=1, share=0)
            step = searched if name in ("whole", "ef21") else error_feedback.step
            assert_same_steps(machine, step, RULES[name], w, [g, hard((9, 37), seed=2, share=0)])


@pytest.mark.parametrize("make", MACHINES)
def test_the_first_of_equal_magnitudes_are_kept(make):
    machine = make()
    for compressor, expected in ((TopK(k=310), np.arange(310)), (TopK(k=3, block=31), None)):
        rule, w = EF(learning_rate=1.0, compressor=compressor), np.zeros(505, np.float32)
        g = tied(w.shape)
        g[g == 0] = -2
        g /= np.abs(g)
        for large in (0, 1 << 16):
            there = machine.to(w.copy())
            with machine.running():
                slots = {"e": machine.to(np.zeros_like(w))}
                error_feedback.step(rule, there, machine.to(g), slots, large=large)
            starts = np.arange(0, w.size, 31)[:, None] + np.arange(3)
            wanted = starts[starts < w.size] if expected is None else expected
            assert np.array_equal(np.flatnonzero(machine.back(there)), wanted)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS[::2]:
        for name, shape in (("one-bit", (11, 30)), ("adam-feedback", (3, 20, 4)), ("4-bit-blocks", (9, 32))):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), other)
            assert_same_steps(machine, error_feedback.step, RULES[name], w, [g, g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype, make):
    machine = make()
    for k, name in enumerate(("whole", "8-bit-sign", "1-bit-one-bit", "4-bit", "adam-feedback")):
        others = (dtype, "float32", "float64")[: 3 if name == "whole" else 1]
        given = [hard((33, 12), d, seed=k, share=0.01) for d in others]
        w = hard((33, 12), dtype, share=0)
        assert_same_steps(machine, error_feedback.step, RULES[name], w, given)
        if name == "whole":
            assert_same_steps(machine, searched, RULES[name], w, [*given, tied((33, 12), dtype=dtype)])


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_and_no_block_changes_a_bit(order, monkeypatch):
    monkeypatch.setattr(error_feedback_engine, "TILE", 300)
    for k, name in enumerate(("whole", "one-bit", "4-bit-blocks", "adam-feedback")):

        def step(rule, w, g, state, block=(32, 128, 512, 32)[k], large=(0, 0, 1000, 10)[k]):
            error_feedback.step(rule, w, g, state, block=block, large=large)

        w = hard((41, 33), share=0)
        given = [hard(w.shape, seed=1, share=0.01), tied(w.shape)]
        assert_same_steps(Simulated(order=order), step, RULES[name], w, given)


@pytest.mark.parametrize("make", MACHINES)
def test_tensors_without_entries_and_gradients_of_rows(make):
    machine = make()
    for name in ("whole", "one-bit", "random", "adam"):
        for shape in ((0,), (0, 3), (3, 0)):
            w = np.zeros(shape, np.float32)
            assert_same_steps(machine, error_feedback.step, RULES[name], w, [w.copy()] * 2)
    g = RowSparse(np.array([5, 1, 5]), hard((3, 40), share=0), (9, 40))
    assert_same_steps(machine, error_feedback.step, RULES["whole"], hard((9, 40), seed=1, share=0), [g, g])


@simulated
def test_a_gradient_that_is_the_parameter_or_the_error_itself():
    for name in ("whole", "adam", "ef21"):
        w, rule = hard((9, 30), share=0), RULES[name]
        expected = rule.values(w, w, rule.init_leaf(w))
        with Simulated().running():
            error_feedback.step(rule, w, w, rule.init_leaf(w))
        assert np.array_equal(w, expected["w"])


class Counting(SimulatedDevice):
    """Adds up the bytes of all launches."""

    moved = 0

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        self.moved += sum(t.bytes for t in self.traffic.values())


@simulated
@pytest.mark.parametrize(
    ("name", "wanted", "launches"),
    [
        ("identity", 28, []),
        ("adam", 32, ["top_k_block"]),
        ("one-bit", 32, ["feedback_sides", "fold_runs", "feedback_means"]),
        ("sign", 36, ["feedback_magnitudes", "fold_leaves"]),
        ("whole", 44, ["top_k_digits", "top_k_narrow"] * 3 + ["top_k_ties", "top_k_last"]),
    ],
)
def test_what_a_step_moves_and_in_which_launches(name, wanted, launches):
    """Of these the decay of "sign" reads the parameter once more."""
    device, n = Counting("check"), 1 << 16
    room = np.ones(8 * n + 64, np.float32)
    room = room[(-room.ctypes.data % 256) // 4 :][: 8 * n].reshape(8, 128, n // 128)
    room[1] = hard((128, n // 128), share=0)
    rule, w = RULES[name], room[0]
    state = rule.init_leaf(w)
    for k, slot in enumerate(x for x in state if x != "t"):
        room[2 + k] = state[slot]
        state[slot] = room[2 + k]
    error_feedback_engine.step(device, rule, w, room[1], state, 1, large=1 << 14)
    first = [] if name == "adam" else ["feedback_argument"]
    assert device.launches == [*first, *launches, "feedback_step"]
    assert wanted <= device.moved / n < 1.07 * wanted


def test_arrays_that_are_not_the_rule_s_own_are_refused_and_nothing_is_written():
    w = np.ones((4, 6), np.float32)
    for name, slot, wrong in (
        ("whole", "e", np.zeros((4, 5), np.float32)),
        ("4-bit", "e", np.zeros(11, np.uint8)),
        ("4-bit", "e_min", np.zeros(4, np.float32)),
        ("ef21", "d", np.zeros((4, 6))),
    ):
        state = RULES[name].init_leaf(w)
        with Simulated().running(), pytest.raises(BackendError, match=f"{slot}: got"):
            error_feedback.step(RULES[name], w, w.copy(), {**state, slot: wrong})
    with Simulated().running(), pytest.raises(BackendError, match="gradient: got"):
        error_feedback.step(RULES["adam"], w, np.ones((4, 5), np.float32), RULES["adam"].init_leaf(w))
    assert np.all(w == 1)


def test_which_rules_are_served():
    class Own(EF):
        pass

    class Half(Identity):
        pass

    assert all(error_feedback.supports(rule, (4, 3), F32)[0] for rule in RULES.values())
    assert error_feedback.supports(mo.Adam(), (4, 3), F32) == (False, "")
    assert error_feedback.supports(Own(), (4, 3), F32) == (False, "Own is a class of its own")
    assert error_feedback.supports(EF(compressor=Half()), (4, 3), F32) == (False, "no kernel for Half")
    assert error_feedback.supports(EF(), (4, 3), np.dtype(object)) == (False, "no kernel for object")
