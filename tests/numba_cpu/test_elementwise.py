"""Element-wise kernels against the reference: bit for bit, whatever the numbers, layouts and threads."""

from __future__ import annotations

import copy
import platform
import re
import subprocess
import sys

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import elementwise
from memopt_ref.parts import scalar
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.rules.elementwise import Elementwise, returns
from tests.numba_cpu.inputs import LAYOUTS, hard, laid, same_bits
from tests.table import all_cases, dtype_of

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import bind, drive, engine, move  # noqa: E402
from memopt_ref.backends.numba_cpu.admit import refusal  # noqa: E402
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402

F32 = np.dtype(np.float32)
CASES = [c for c in all_cases() if isinstance(c.rule, Elementwise) and not refusal(c.rule, (3,), F32)]
EACH = [pytest.param(case.rule, id=case.name) for case in CASES]
FEW = [
    mo.SGD(momentum=0.9, nesterov=True),
    mo.Adam(weight_decay=0.1),
    mo.FTRLProximal(centre="origin", l1=0.1),
]
SOME = [pytest.param(rule, id=rule.name) for rule in FEW]
SHAPES = ((), (1,), (5,), (0,), (33,), (7, 3), (4, 1), (0, 3), (2, 3, 5), (65, 70))


def settled(rule, w):
    """A state as after a while: positive, not all alike."""
    state = rule.init_leaf(w)
    for k, array in enumerate(x for x in state.values() if isinstance(x, np.ndarray)):
        array += np.abs(hard(array.shape, array.dtype.name, seed=50 + k, share=0)).astype(array.dtype)
    return state


def assert_same_steps(rule, w, gradients, kernel=elementwise.step):
    """Steps in place by a kernel and by the reference, from copies of everything."""
    state = settled(rule, w)
    other_w, other_state = w.copy(order="K"), copy.deepcopy(state)
    for g in gradients:
        before = copy.deepcopy(g)
        kernel(rule, w, g, state)
        numpy_ref.step(rule, other_w, before, other_state)
        assert same_bits(w, other_w)
        for name, value in other_state.items():
            assert same_bits(state[name], value), name
        values = (g.rows, before.rows) if isinstance(g, RowSparse) else (g, before)
        assert same_bits(*values), "the gradient was written"


@pytest.mark.parametrize("rule", EACH)
def test_every_rule_has_the_bits_of_the_reference_on_singular_numbers(rule):
    for k, shape in enumerate(SHAPES):
        w = laid(hard(shape, seed=k, share=0.05), LAYOUTS[k % len(LAYOUTS)])
        assert_same_steps(rule, w, [hard(shape, seed=90 + k), hard(shape, seed=190 + k, share=0)])


@pytest.mark.parametrize("rule", SOME)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_dtypes_are_stepped_with_the_bits_of_the_reference(rule, dtype):
    for k, shape in enumerate(SHAPES):
        w = laid(hard(shape, dtype, seed=k, share=0.05), LAYOUTS[k % len(LAYOUTS)])
        assert_same_steps(rule, w, [hard(shape, dtype, seed=90 + k), hard(shape, "float32", seed=k)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("other", ["float32", "float64", "bfloat16", "float16"])
def test_a_gradient_of_another_dtype_is_cast_first(dtype, other):
    w, g = hard((65, 70), dtype, share=0), hard((65, 70), other, seed=3)
    assert_same_steps(mo.Adam(), w, [g, g.T[::-1].copy().T])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(67, 130), (3, 70, 66), (2, 3, 2, 5)], ids=str)
def test_every_layout_beside_every_other(layout, gradient_layout, shape):
    w, g = laid(hard(shape, share=0), layout), laid(hard(shape, seed=1), gradient_layout)
    assert_same_steps(mo.Adam(), w, [g])


def test_what_lies_between_the_entries_of_a_view_is_not_touched():
    for dtype in ("float32", "bfloat16"):
        wide = np.full((70, 9), 7, dtype_of(dtype))
        w = wide[:, 1:8:2]
        elementwise.step(mo.SGD(learning_rate=1.0), w, np.ones((70, 4), np.float32), {})
        assert np.all(wide[:, ::2] == 7)
        assert np.all(w == 6)


@pytest.mark.parametrize("rule", SOME)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("run", [1, 17, 1000, 1 << 20])
def test_threads_and_tile_sizes_change_no_bit(rule, threads, run):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("one processor")

    def kernel(rule, w, g, state):
        t = int(state["t"]) + 1 if "t" in state else 0
        assert engine.step(rule, w, g, state, t, threads=threads, run=run)
        if "t" in state:
            state["t"] = np.int64(t)

    assert_same_steps(rule, hard((10_007,), share=0), [hard((10_007,), seed=1)], kernel)
    assert_same_steps(rule, hard((103, 97), "bfloat16", share=0).T, [hard((97, 103), seed=1)], kernel)


ODD_THREADS = """
import numpy as np, memopt_ref as mo, numba
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import engine
from tests.numba_cpu.inputs import hard, same_bits
assert numba.config.NUMBA_NUM_THREADS == 3
for shape in ((40_003,), (203, 201)):
    w = hard(shape, share=0); g = hard(shape, seed=1); v = w.copy(); state = {}
    assert engine.step(mo.SGD(), w, g, state, 0, threads=3, run=1000)
    numpy_ref.step(mo.SGD(), v, g, state)
    assert same_bits(w, v)
"""


def test_three_threads_change_no_bit(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    done = subprocess.run([sys.executable, "-c", ODD_THREADS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rule", EACH)
def test_row_sparse_steps_touch_their_rows_with_the_bits_of_the_reference(rule):
    for k, shape in enumerate([(5,), (9, 3), (40, 100), (6, 3, 5)]):
        rows = np.random.default_rng(k).permutation(shape[0])[: shape[0] // 2 + 1]
        g = RowSparse(rows, hard((rows.size, *shape[1:]), seed=k), shape)
        again = RowSparse(rows[[0, 1, 0]], hard((3, *shape[1:]), seed=k + 20), shape)
        one = RowSparse(np.array([shape[0] - 2]), hard((1, *shape[1:]), seed=8), shape)
        none = RowSparse(rows[:0], np.zeros((0, *shape[1:]), np.float32), shape)
        w = laid(hard(shape, seed=k, share=0.05), LAYOUTS[k % len(LAYOUTS)])
        assert_same_steps(rule, w, [g.coalesced(), g, again, one, none])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_row_sparse_steps_of_other_dtypes_and_layouts(dtype, layout):
    for shape in ((50, 70), (20, 3, 40)):
        rows = np.arange(1, shape[0], 3)
        g = RowSparse(rows, laid(hard((rows.size, *shape[1:]), "float32"), layout), shape)
        assert_same_steps(mo.AdaGrad(), laid(hard(shape, dtype, share=0), layout), [g])


def test_untouched_rows_are_not_even_read_as_numbers():
    w = np.full((1000, 64), np.nan, np.float32)
    w[[3, 500]] = 1
    kept = w.copy()
    elementwise.step(mo.SGD(), w, RowSparse(np.array([3, 500]), np.ones((2, 64)), w.shape), {})
    w[[3, 500]] = 1
    assert w.tobytes() == kept.tobytes()


def test_a_gradient_in_the_memory_of_the_state_is_read_as_it_was():
    rule, w = mo.SGD(momentum=0.5), hard((1000,), share=0)
    state = settled(rule, w)
    other_w, other = w.copy(), copy.deepcopy(state)
    elementwise.step(rule, w, state["m"][::-1], state)
    numpy_ref.step(rule, other_w, other["m"][::-1], other)
    assert same_bits(w, other_w)
    assert same_bits(state["m"], other["m"])


def test_arrays_that_no_pointer_can_walk_are_stepped_by_the_reference():
    packed = np.zeros(40, np.dtype([("a", "i1"), ("x", "f4")]))
    w = packed["x"]
    w[...] = hard((40,), share=0)
    assert_same_steps(mo.Adam(), w, [hard((40,)), hard((40,)).astype(">f4")])


def test_an_expression_of_someone_else_is_compiled_too():
    rule = Lion(learning_rate=0.25)
    assert elementwise.supports(rule, (3,), F32)[0]
    assert_same_steps(rule, hard((100,), share=0), [hard((100,)), hard((100,), seed=1)])


@returns("w", "m")
def lion(w, g, m, learning_rate, beta1, fresh1, beta2, fresh2):
    u = scalar.sign(beta1 * m + fresh1 * g)
    return w - learning_rate * u, beta2 * m + fresh2 * g


class Lion(mo.SGD):
    def slots(self, shape, dtype):
        return mo.SGD(momentum=0.5).slots(shape, dtype)

    def expression(self, slots):
        return lion

    def coefficients(self, t):
        return {
            "learning_rate": self.learning_rate,
            "beta1": 0.9,
            "fresh1": 0.1,
            "beta2": 0.99,
            "fresh2": 0.01,
        }


# Machine code


def fused(compiled) -> int:
    """Fused multiply-adds in the machine code of a C function."""
    return len(re.findall(r"\b(vfn?m(add|sub)|fn?m(add|sub)|fml[as])", compiled._library.get_asm_str()))


@pytest.mark.parametrize("rule", EACH)
def test_no_multiplication_is_fused_with_an_addition(rule):
    state = rule.init_leaf(np.ones(2, np.float32))
    expression = rule.expression(state.keys())
    slots = tuple(name for name in state if name != "t")
    for dtype in ("float32", "float64") if isinstance(rule, mo.AMSGrad) else ("float32",):
        decay = engine.decay_of(rule, np.ones(2, np.float32))[0]
        compiled = bind.bind(expression, slots, decay, dtype, disk=False).compiled
        assert fused(compiled) == 0
        if platform.machine() in ("x86_64", "AMD64"):
            assert "ymm" in compiled._library.get_asm_str(), "not vectorised"


def divisors(rule, t=3):
    return engine.ones_of(rule, rule.coefficients(t))


def test_divisors_that_are_1_at_every_step_are_constants():
    assert divisors(mo.RMSProp()) == ("correction",)
    assert divisors(mo.AMSGrad()) == ("correction1", "before_max", "after_max")
    assert divisors(mo.Adam(bias_correction="none")) == ("correction1", "correction2")
    # Averages of one number are that number, and 1 - beta^t is 1 in the end: the loop stays the same.
    assert divisors(mo.Adam(beta1=0.0)) == ("correction1",)
    assert divisors(mo.Adam(), t=10**9) == divisors(mo.SGD()) == divisors(mo.AdaGrad()) == ()


def divisions(rule, ones):
    expression, slots = rule.expression(("v", "t")), ("v",)
    compiled = bind.bind(expression, slots, bind.Form(ones=ones), "float32", disk=False).compiled
    return len(re.findall(r"vdivps", compiled._library.get_asm_str()))


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="it reads the code of another processor"
)
def test_a_division_by_a_constant_1_is_not_made():
    assert divisions(mo.RMSProp(), ("correction",)) < divisions(mo.RMSProp(), ())


def test_no_mover_fuses_either_and_one_that_does_is_caught():
    for (kind, native), way in move.WAYS.items():
        for inwards in (True, False) if way[3] else (True,):
            if (compiled := move.mover(inwards, kind, native)).cache_hits == 0:
                assert fused(compiled) == 0
    lax = {**STRICT, "fastmath": {"contract"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bind, "STRICT", lax)
        contracted = bind.bind(
            mo.Adam().expression(("m", "v", "t")), ("m", "v"), "none", "float32", disk=False
        )
    if platform.machine() in ("x86_64", "AMD64", "aarch64", "arm64"):
        assert fused(contracted.compiled) > 0


def test_drivers_and_callees_state_their_options_themselves():
    for function in (drive.serial, drive.parallel, drive.step_tiles, drive.batch_offset):
        assert {name: function.targetoptions[name] for name in STRICT} == STRICT


# Memory


PEAK = """
import sys
import numpy as np, memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.numba_cpu import elementwise, engine
from tests.table import dtype_of

def peak():
    # Not ru_maxrss, which a process inherits from its parent.
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024

kernel = numpy_ref.step if sys.argv[1] == "reference" else elementwise.step
w, g = (np.ones((2048, 2048), dtype_of(name)) for name in sys.argv[2:4])
if sys.argv[4] == "across":
    g = np.asfortranarray(g)
rule = mo.Adam()
state = rule.init_leaf(w)
small = {name: x[:8] if np.ndim(x) else x for name, x in state.items()}
kernel(rule, w[:8], g[:8], small)
if kernel is elementwise.step:
    engine.step(rule, w[:8], g[:8], small, 1, threads=2, run=100)
before = peak()
kernel(rule, w, g, state)
print(peak() - before)
"""


def growth(*arguments) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_step_needs_no_memory_of_the_size_of_a_parameter():
    for arguments in (("float32", "float32", "along"), ("bfloat16", "float64", "across")):
        assert growth("kernel", *arguments) < 4, "MiB, beside arrays of 16 MiB"
    assert growth("reference", "float32", "float32", "along") > 4


# The comparison itself, seen to fail on deliberate mistakes


def drops_nan(rule, w, g, state):
    elementwise.step(rule, w, np.nan_to_num(g, posinf=np.inf, neginf=-np.inf), state)


def loses_the_sign_of_zero(rule, w, g, state):
    elementwise.step(rule, w, g, state)
    state["m"] += np.float32(0.0)


def fuses(rule, w, g, state):
    wide = {name: x.astype(np.float64) for name, x in state.items()}
    numpy_ref.step(rule, wide_w := w.astype(np.float64), g.astype(np.float64), wide)
    w[...] = wide_w
    state["m"][...] = wide["m"]


def forgets_the_last_entry(rule, w, g, state):
    elementwise.step(rule, w[:-1], g[:-1], {"m": state["m"][:-1]})


@pytest.mark.parametrize("kernel", [drops_nan, loses_the_sign_of_zero, fuses, forgets_the_last_entry])
def test_a_wrong_kernel_is_caught(kernel):
    rule, w = mo.SGD(momentum=0.5), hard((1001,), share=0)
    g = hard((1001,), seed=1)
    g[:3] = -0.0

    def flat(rule, w, g, state):
        state["m"][:3] = -0.0
        kernel(rule, w, g, state)

    def right(rule, w, g, state):
        state["m"][:3] = -0.0
        elementwise.step(rule, w, g, state)

    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        assert_same_steps_from_negative_zero(rule, w.copy(), g, flat)
    assert_same_steps_from_negative_zero(rule, w, g, right)


def assert_same_steps_from_negative_zero(rule, w, g, kernel):
    state = settled(rule, w)
    other_w, other = w.copy(), copy.deepcopy(state)
    other["m"][:3] = -0.0
    kernel(rule, w, g, state)
    numpy_ref.step(rule, other_w, g, other)
    assert same_bits(w, other_w)
    assert same_bits(state["m"], other["m"])
