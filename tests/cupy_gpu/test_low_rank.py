"""Adam with a rank-one second moment on a device, against the reference: bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import low_rank, low_rank_engine
from memopt_ref.errors import BackendError
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import KernelError, SimulatedDevice
from tests.cupy_gpu.machines import MACHINES, Simulated, assert_same_steps, simulated
from tests.cupy_gpu.test_mutants import Mutating
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits

RULES = {
    "paper": mo.LowRankAdam(),
    "decayed": mo.LowRankAdam(beta1=0.0, bias_correction="eps_hat", weight_decay=0.01),
    "decoupled": mo.LowRankAdam(weight_decay=0.01, weight_decay_mode="decoupled", bias_correction="none"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
SHAPES = ((), (1,), (1031,), (7, 3), (1, 4), (4, 1), (70, 520), (3, 5, 12), (4, 3, 5, 2))


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def gradients(shape, dtype="float32"):
    return [hard(shape, dtype, seed=90, share=0), hard(shape, dtype, seed=91, share=0.001)]


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("rule", EACH)
def test_every_rank_has_the_bits_of_the_reference(rule, make):
    machine = make()
    for k, shape in enumerate(SHAPES):
        w = hard(shape, seed=k, share=0)
        assert_same_steps(machine, low_rank.step, rule, w, [*gradients(shape), np.zeros(shape, np.float32)])


@pytest.mark.parametrize("make", MACHINES)
def test_sums_of_several_levels_have_the_order_of_the_reference(make):
    machine = make()
    if isinstance(machine, Simulated):
        machine = Simulated("plain")
    for shape in ((2, 300_000), (4200, 3), (130, 1000)):
        assert_same_steps(machine, low_rank.step, RULES["paper"], hard(shape, share=0), gradients(shape)[:1])


@pytest.mark.parametrize("make", MACHINES)
def test_singular_numbers_and_first_steps_of_zeros(make):
    """At the first step of no gradient mean(r) is the floor's; NaN in it reaches every entry."""
    machine = make()
    for value in (np.nan, -np.inf, 1e-45, 3e38):
        g = hard((10, 70), share=0)
        g[3, 7] = value
        w = hard((10, 70), seed=1, share=0.001)
        assert_same_steps(machine, low_rank.step, RULES["paper"], w, [g, hard((10, 70), seed=2, share=0)])
    w, rule = hard((10, 70), share=0), RULES["paper"]
    expected, state = rule.values(w, np.zeros_like(w), rule.init_leaf(w)), rule.init_leaf(w)
    there, slots = machine.to(w), {name: machine.to(x) for name, x in state.items()}
    with machine.running():
        low_rank.step(rule, there, machine.to(np.zeros_like(w)), slots)
    assert same_bits(machine.back(there), expected["w"])
    assert all(same_bits(machine.back(slots[name]), expected[name]) for name in slots)


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_beside_every_other(layout, make):
    machine = make()
    for other in LAYOUTS[::2]:
        for name, shape in (("paper", (11, 30)), ("decayed", (3, 20, 4)), ("paper", (40,))):
            w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1, share=0), other)
            assert_same_steps(machine, low_rank.step, RULES[name], w, [g])


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_with_gradients_of_every_dtype(dtype, make):
    machine = make()
    for shape, other in (
        ((6, 532), dtype),
        ((9, 12), "float32" if dtype == "float64" else "float64"),
        ((5,), dtype),
    ):
        w = hard(shape, dtype, share=0)
        assert_same_steps(machine, low_rank.step, RULES["paper"], w, [hard(shape, other, seed=1, share=0)])


@simulated
@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_no_order_of_threads_and_no_block_changes_a_bit(order):
    for block in (32, 512):

        def step(rule, w, g, state, block=block):
            low_rank.step(rule, w, g, state, block=block)

        for shape in ((131, 32), (5, 1200)):
            assert_same_steps(
                Simulated(order=order), step, RULES["paper"], hard(shape, share=0), gradients(shape)
            )


@pytest.mark.parametrize("make", MACHINES)
def test_tensors_without_entries_and_gradients_of_rows(make):
    machine = make()
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 5)):
        w = np.zeros(shape, np.float32)
        assert_same_steps(machine, low_rank.step, RULES["paper"], w, [w.copy()] * 2)
    g = RowSparse(np.array([5, 1, 5]), hard((3, 40), share=0), (9, 40))
    assert_same_steps(machine, low_rank.step, RULES["paper"], hard((9, 40), seed=1, share=0), [g, g])
    g = RowSparse(np.array([5, 1, 5]), hard((3,), share=0), (9,))
    assert_same_steps(machine, low_rank.step, RULES["paper"], hard((9,), seed=1, share=0), [g, g])


@simulated
def test_a_gradient_that_is_the_parameter_itself():
    for shape in ((9, 30), (40,)):
        w, rule = hard(shape, share=0), RULES["paper"]
        expected = rule.values(w, w, rule.init_leaf(w))
        with Simulated().running():
            low_rank.step(rule, w, w, rule.init_leaf(w))
        assert same_bits(w, expected["w"])


class Counting(SimulatedDevice):
    """Adds up the bytes of all launches."""

    moved = 0

    def launch(self, *arguments, **options):
        super().launch(*arguments, **options)
        self.moved += sum(t.bytes for t in self.traffic.values())


@simulated
def test_it_moves_24_bytes_an_entry_in_five_launches():
    """Without m 8 less; where decay is part of the gradient the sums read the parameter too."""
    shape = 512, 512
    for name, wanted in (("paper", 24), ("decayed", 20)):
        device, rule = Counting("check"), RULES[name]
        room = np.ones(3 * shape[0] * shape[1] + 64, np.float32)
        w, g, m = room[(-room.ctypes.data % 256) // 4 :][: 3 * shape[0] * shape[1]].reshape(3, *shape)
        state = rule.init_leaf(w)
        if "m" in state:
            m[...], state["m"] = 0, m
        low_rank_engine.step(device, rule, w, g, state, 1)
        between = ["fold_runs", "factor_averages", "factor_ratios"]
        assert device.launches == ["low_rank_squares", *between, "low_rank_step"]
        assert wanted <= device.moved / w.size < 1.08 * wanted


def test_arrays_that_are_not_the_rule_s_own_are_refused_and_nothing_is_written():
    rule, w = RULES["paper"], np.ones((4, 6), np.float32)
    state = rule.init_leaf(w)
    for name, wrong in (("r", np.zeros(5, np.float32)), ("c", np.zeros(6)), ("m", np.zeros(6, np.float32))):
        with Simulated().running(), pytest.raises(BackendError, match=f"{name}: got float"):
            low_rank.step(rule, w, w.copy(), {**state, name: wrong})
    assert np.all(w == 1)
    assert state["t"] == 0


def test_which_rules_are_served():
    class Own(mo.LowRankAdam):
        def step(self, w, g, state):
            return {}

    f32 = np.dtype(np.float32)
    assert all(low_rank.supports(rule, (4, 3), f32)[0] for rule in RULES.values())
    assert low_rank.supports(mo.Adam(), (4, 3), f32) == (False, "")
    assert low_rank.supports(Own(), (4, 3), f32) == (False, "Own has a step() of its own")
    assert low_rank.supports(RULES["paper"], (4, 3), np.dtype(object)) == (False, "no kernel for object")


MISTAKES = {
    "the floor is left out": ("square + floor_", "square"),
    "means over the other axis": ("row_sums[at] / wide_", "row_sums[at] / tall_"),
    "c is the new mean's root": ("    return v;\n", "    return square_root(v);\n"),
    "the ratio's convention for 0": ("return v / mean;", "return ratio(mean, v);"),
    "the mean of a leaf": (
        "leaf_of(sums + warp / leaves * parts, parts) / tall_",
        "leaf_of(sums, 1) / tall_",
    ),
    "a number of the first row": ("const Real r_ = r_all[row];", "const Real r_ = r_all[0];"),
    "columns that move on with rows": ("row / height * columns", "row * columns / height"),
    "the mean is not kept": ("m_one = m;", ""),
    "decay is forgotten": ("const Real begun = w_ * decay_;", "const Real begun = w_;"),
}


def steps_of_every_kind(machine):
    for shape in ((131, 517), (700, 4)):
        w, g = hard(shape, seed=1, share=0), hard(shape, share=0)
        g[5] = 0
        g *= np.float32(1e-14)
        state = RULES["decoupled"].init_leaf(w)
        expected = RULES["decoupled"].values(w, g, state)
        with machine.running():
            low_rank.step(RULES["decoupled"], w, g, state)
        assert same_bits(w, expected["w"])
        assert all(same_bits(state[name], expected[name]) for name in state)


@simulated
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_kernels_is_caught(name):
    device = Mutating(*MISTAKES[name])
    with pytest.raises((AssertionError, KernelError)):
        steps_of_every_kind(Simulated.on(device))
    assert device.changed, "the text has changed: bring the mistake up to it"


@simulated
def test_what_catches_the_mistakes_passes_without_one():
    steps_of_every_kind(Simulated())
