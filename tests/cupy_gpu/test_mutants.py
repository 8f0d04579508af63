"""Deliberate mistakes in kernels and launches, each of which an ordinary comparison or check notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import elementwise, engine, gradients, many, prepare, sm3, sm3_engine
from memopt_ref.backends.cupy_gpu.kernel import Kernel
from memopt_ref.backends.registry import Leaf
from memopt_ref.parts.row_sparse import RowSparse
from memopt_ref.parts.sums import over_tensor
from tests.cuda_sim.device import KernelError, SimulatedDevice
from tests.cupy_gpu.machines import Simulated, assert_same_steps, simulated
from tests.numba_cpu.inputs import hard, laid, same_bits
from tests.table import dtype_of

pytestmark = simulated


class Mutating(SimulatedDevice):
    """Changes the text of a kernel, and remembers whether there was anything to change."""

    def __init__(self, old: str, new: str, **options) -> None:
        super().__init__("check", **options)
        self.old, self.new, self.changed = old, new, False

    def launch(self, kernel, *arguments, **options) -> None:
        if self.old in kernel.source:
            self.changed = True
            kernel = Kernel(kernel.name, kernel.source.replace(self.old, self.new), kernel.options)
        super().launch(kernel, *arguments, **options)


def adam(machine):
    assert_same_steps(machine, elementwise.step, mo.Adam(), hard((1033,), share=0), [hard((1033,), seed=1)])


def looping(machine):
    """Each thread takes several packs."""

    def step(rule, w, g, state):
        elementwise.step(rule, w, g, state, block=32, per_processor=1)

    assert_same_steps(machine, step, mo.SGD(), hard((1033,), share=0), [hard((1033,), seed=1)])


def ties(machine):
    """Every result lies half-way between two 16-bit numbers."""
    for dtype, bits in (("bfloat16", 7), ("float16", 10)):
        w, g = np.full(64, 1 + 2.0**-bits), np.full(64, 2.0**-bits)
        w, g = w.astype(dtype_of(dtype)), g.astype(dtype_of(dtype))
        assert_same_steps(machine, elementwise.step, mo.SGD(learning_rate=0.5), w, [g, g])


def bfloat16(machine):
    w = hard((700,), "bfloat16", share=0)
    assert_same_steps(machine, elementwise.step, mo.SGD(), w, [hard((700,), "bfloat16", seed=1)])


def float16(machine):
    w = hard((700,), "float16", share=0)
    assert_same_steps(machine, elementwise.step, mo.SGD(), w, [hard((700,), "float16", seed=1)])


def strided(machine):
    w, g = laid(hard((9, 5, 7), share=0), "every-second"), laid(hard((9, 5, 7), seed=1), "fortran")
    assert_same_steps(machine, elementwise.step, mo.SGD(momentum=0.9), w, [g])


def by_rows(machine):
    g = RowSparse(np.array([1, 4, 7]), hard((3, 40), seed=1), (9, 40))
    assert_same_steps(machine, elementwise.step, mo.SGD(), hard((9, 40), share=0), [g])


def ftrl(machine):
    w, g = hard((700,), share=0), hard((700,), seed=1)
    assert_same_steps(machine, elementwise.step, mo.FTRLProximal(l1=0.5), w, [g, g])


def adagrad(machine):
    """Entries without a gradient: 0/0."""
    g = hard((700,), seed=1, share=0)
    g[::3] = 0
    w = hard((700,), share=0)
    slots = {"s": np.zeros(700, np.float32)}
    expected = mo.AdaGrad().values(w, g, slots)
    with machine.running():
        elementwise.step(mo.AdaGrad(), w, g, slots)
    assert np.array_equal(w, expected["w"], equal_nan=True)


def wide(machine):
    """Rows of more than a warp, several strips and blocks."""
    shape = (70, 2056)
    w, g = hard(shape, share=0), hard(shape, seed=1, share=0.0001)
    assert_same_steps(machine, sm3.step, mo.SM3(), w, [g, hard(shape, seed=2, share=0)])


def narrow(machine):
    """Several rows a warp, odd numbers of both."""
    for shape in ((333, 5), (70, 12)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0.0001)
        assert_same_steps(machine, sm3.step, mo.SM3(), w, [g, hard(shape, seed=2, share=0)])


def matrix_with_nan(machine):
    g = hard((40, 20), share=0)
    g[3, 2] = -np.nan
    assert_same_steps(machine, sm3.step, mo.SM3(), hard((40, 20), seed=1, share=0), [g, abs(g)])


def rank_three(machine):
    w, g = hard((5, 4, 6), share=0), hard((5, 4, 6), seed=1, share=0)
    assert_same_steps(machine, sm3.step, mo.SM3(), w, [g, hard((5, 4, 6), seed=2, share=0)])


def ratchet(machine):
    w, g = hard((9, 8), share=0), hard((9, 8), seed=1, share=0)
    assert_same_steps(machine, sm3.step, mo.SM3(beta2=0.5, ema="ratchet"), w, [g, g / 100])


def sparse_matrix(machine):
    g = RowSparse(np.array([1, 4, 7]), hard((3, 40), seed=1, share=0), (9, 40))
    assert_same_steps(machine, sm3.step, mo.SM3(), hard((9, 40), share=0), [g, g])


def together(machine):
    sizes = (5, 1300, 70)
    leaves = [Leaf(mo.SGD(), hard((n,), share=0), hard((n,), seed=1), {}, {}) for n in sizes]
    expected = [mo.SGD().values(leaf.w, leaf.g, {})["w"] for leaf in leaves]
    with machine.running():
        assert many.together(leaves, 1.0, 1.0, False) == []
    assert all(np.array_equal(leaf.w, w, equal_nan=True) for leaf, w in zip(leaves, expected, strict=True))


def prepared(machine):
    """Scale, policy, factor."""
    g = hard((700,), seed=1)
    with machine.running(), np.errstate(all="ignore"):
        found = prepare.prepared(g, np.dtype(np.float32), 1 / 3, True, 0.7)
    scaled = g * np.float32(1 / 3)
    assert same_bits(found, np.where(np.isfinite(scaled), scaled, np.float32(0)) * np.float32(0.7))


def largest_of_all(machine):
    """Several tensors, each of which has the largest once."""
    for k in range(3):
        arrays = [np.full(n, -1.0, np.float32) for n in (5, 2049, 4000)]
        arrays[k][-1] = -7
        with machine.running():
            assert prepare.largest(arrays) == np.float32(7).view(np.uint32)


def norm_of_all(machine):
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((3, 2000))
        with machine.running():
            assert prepare._squares(x, 0) == over_tensor(x * x)


def duplicates(machine):
    indices = np.array([4, 2, 4, 0, 2, 4])
    g = RowSparse(indices, hard((6, 40), seed=1, share=0), (9, 40))
    with machine.running():
        rows, _ = gradients.apart(np.zeros((9, 40), np.float32), g)
    assert same_bits(rows, g.coalesced().rows)


class Mistake(NamedTuple):
    """A change of the text that the comparison ``noticed_by`` must notice."""

    old: str
    new: str
    noticed_by: Callable


TEXT = {
    "the tail is dropped": Mistake("rest < count", "rest < 0", adam),
    "one past the end": Mistake("rest < count", "rest <= count", adam),
    "packs past the end": Mistake("pack < packs", "pack <= packs", adam),
    "a stride of one block": Mistake("(long long)gridDim.x * BLOCK)", "BLOCK)", looping),
    "a stride of two grids": Mistake("(long long)gridDim.x * BLOCK)", "2 * gridDim.x * BLOCK)", looping),
    "a thread takes its neighbour's pack": Mistake("pack * VEC", "pack * VEC / 2", adam),
    "the second moment is not written": Mistake("put<N>(v_all", "put<N>(m_all", adam),
    "bfloat16 is cut off": Mistake("bits + 0x7FFFu + (bits >> 16 & 1u)", "bits", bfloat16),
    "ties go up": Mistake("0x7FFFu + (bits >> 16 & 1u)", "0x8000u", ties),
    "float16 ties go up": Mistake("0xFFFu + (size >> 13 & 1u)", "0x1000u", ties),
    "float16 has no subnormal numbers": Mistake(
        "size < 0x38800000u ? subnormal", "size < 0u ? subnormal", float16
    ),
    "a rule without its last term": Mistake("w_ - e1", "w_ - g_", bfloat16),
    "an axis too few": Mistake("axis = leading - 1", "axis = leading - 2", strided),
    "steps of another array": Mistake(
        "m_all += own * layout[leading + 2", "m_all += own * layout[leading + 0", strided
    ),
    "columns past the end": Mistake(
        "column < columns; column += apart", "column <= columns; column += apart", strided
    ),
    "rows past the end": Mistake("row >= rows", "row > rows", strided),
    "the list of rows is not looked at": Mistake("axis == 0 ? listed[place] : place", "place", by_rows),
    "a minimum that loses NaN": Mistake("x < y || x != x ? x : y", "x < y ? x : y", matrix_with_nan),
    "a minimum that is a maximum": Mistake("x < y || x != x ? x : y", "x > y || x != x ? x : y", ftrl),
    "0/0 is NaN": Mistake("denominator == (T)0 ? (T)0 : ", "", adagrad),
    "no barrier before the maxima are joined": Mistake("__syncthreads();", "", narrow),
    "a barrier that some do not reach": Mistake("__syncthreads();", "if (inside) __syncthreads();", narrow),
    "threads that return early": Mistake(
        "    Pack<Real, VEC> above;", "    if (!inside) return;\n    Pack<Real, VEC> above;", wide
    ),
    "uneven trip counts": Mistake(
        "k < steps", "first + k * blockDim.y + threadIdx.y < rows && k < deep", narrow
    ),
    "a plain store for rows": Mistake("atomicMax(row_most + row, top)", "row_most[row] = top", wide),
    "a plain store for columns": Mistake(
        "atomicMax(column_most + strip + k, top)", "column_most[strip + k] = top", narrow
    ),
    "a plain store for columns of a wide matrix": Mistake(
        "atomicMax(column_most + column + k, most[k])", "column_most[column + k] = most[k]", wide
    ),
    "rows of several strips are thought of one": Mistake(
        "across == 1 && blockDim.x <= 32", "blockDim.x <= 256", wide
    ),
    "only the first warp's maximum": Mistake("threadIdx.x % 32 == 0", "threadIdx.x == 0", wide),
    "half of the lanes": Mistake("apart < 32; apart *= 2", "apart < 2; apart *= 2", narrow),
    "a mask without the caller": Mistake(
        "__shfl_xor_sync(0xFFFFFFFFu, x", "__shfl_xor_sync(0x0000FFFFu, x", narrow
    ),
    "the wrong lane": Mistake(
        "__shfl_xor_sync(0xFFFFFFFFu, x, (int)apart)", "__shfl_up_sync(0xFFFFFFFFu, x, apart)", narrow
    ),
    "the last rows are dropped": Mistake("rows - first + blockDim.y - 1", "rows - first", narrow),
    "a column of shared memory too many": Mistake(
        "threadIdx.y * wide + threadIdx.x * VEC + k]",
        "threadIdx.y * wide + threadIdx.x * VEC + k + 1]",
        narrow,
    ),
    "row maxima of columns": Mistake(
        "most[n] = larger(most[n], image)", "most[0] = larger(most[0], image)", narrow
    ),
    "the old accumulators are kept": Mistake(
        "mu = keep ? maximum(mu, number_of(most)) : number_of(most)",
        "mu = maximum(mu, number_of(most))",
        narrow,
    ),
    "a ratchet that falls": Mistake("keep ? maximum(mu, number_of(most)) : ", "", ratchet),
    "columns forget untouched rows": Mistake(
        "[thread - rows], keep_columns)", "[thread - rows], 0)", sparse_matrix
    ),
    "accumulators of the rows' numbers": Mistake("row_mu[listed[thread]]", "row_mu[thread]", sparse_matrix),
    "an axis folded along another": Mistake("k / inner * length", "k / length * inner", rank_three),
    "half of an axis is folded": Mistake("k < outer * inner", "k < outer", rank_three),
    "pairs the wrong way round": Mistake(
        "left[place / inner], right[place % inner]", "left[place % inner], right[place / inner]", rank_three
    ),
    "every block is of the first tensor": Mistake("tensor_of[blockIdx.x]", "tensor_of[0]", together),
    "blocks are counted from the launch's first": Mistake(
        "(long long)blockIdx.x - (long long)row[4 - 1]", "(long long)blockIdx.x", together
    ),
    "a table without the tail": Mistake("rest < count", "rest < 0", together),
    "a policy that is not heard": Mistake("zero && !finite", "0 && !finite", prepared),
    "infinity passes for a number": Mistake("rounded - rounded == (Real)0", "rounded == rounded", prepared),
    "the factor comes first": Mistake(
        "as_wide(from[place]) * scale", "as_wide(from[place]) * factor", prepared
    ),
    "the sign counts": Mistake("image_of(x) & 0x7FFFFFFFu", "image_of(x)", largest_of_all),
    "neighbours instead of blocks": Mistake("first + k * BLOCK", "first + k", largest_of_all),
    "a plain store for the largest": Mistake("atomicMax(top, most)", "*top = most", largest_of_all),
    "distant lanes are joined first": Mistake(
        "int apart = 1; apart < 32; apart *= 2", "int apart = 16; apart > 0; apart /= 2", norm_of_all
    ),
    "lanes side by side": Mistake(
        "k * 128 + threadIdx.x % 32 * 4 + n", "k * 128 + threadIdx.x % 32 + n * 32", norm_of_all
    ),
    "a row too few in a sum": Mistake("k < first[own + 1]", "k < first[own + 1] - 1", duplicates),
    "from the last to the first": Mistake(
        "sum + rows[order[k] * columns",
        "sum + rows[order[first[own] + first[own + 1] - 1 - k] * columns",
        duplicates,
    ),
    "coefficients of the first tensor": Mistake(
        "numbers[tensor * 1 + 0]", "numbers[tensor * 1 + 1]", together
    ),
}


@pytest.mark.parametrize("name", TEXT)
def test_a_mistake_in_a_kernel_is_noticed(name):
    mistake = TEXT[name]
    device = Mutating(mistake.old, mistake.new)
    with pytest.raises((AssertionError, KernelError)):
        mistake.noticed_by(Simulated.on(device))
    assert device.changed, "the text has changed: bring the mistake up to it"


@pytest.mark.parametrize("check", sorted({m.noticed_by for m in TEXT.values()}, key=lambda f: f.__name__))
def test_without_a_mistake_nothing_is_noticed(check):
    check(Simulated())


# Mistakes of the launch code


def garbage(like, shape, dtype):
    return np.full(shape, 0x7F000000, dtype)


def in_place(monkeypatch, machine):
    """Maxima go straight to the accumulators that other blocks read."""
    launch = machine.device.launch

    def shared(kernel, grid, block, args, *rest, **options):
        if kernel.name == "sm3":
            args = (*args[:4], args[2].view(np.uint32), args[3].view(np.uint32), *args[6:])
        launch(kernel, grid, block, args, *rest, **options)

    monkeypatch.setattr(machine.device, "launch", shared)


def aligned_always(arrays, most):
    return most


def in_python_numbers(monkeypatch, machine):
    launch = machine.device.launch
    monkeypatch.setattr(
        machine.device,
        "launch",
        lambda kernel, grid, block, args, *rest, **options: launch(
            kernel,
            grid,
            block,
            [float(x) if isinstance(x, np.float32) else x for x in args],
            *rest,
            **options,
        ),
    )


def short_counts(monkeypatch, machine):
    launch = machine.device.launch
    monkeypatch.setattr(
        machine.device,
        "launch",
        lambda kernel, grid, block, args, *rest, **options: launch(
            kernel,
            grid,
            block,
            [np.int32(x) if isinstance(x, np.int64) else x for x in args],
            *rest,
            **options,
        ),
    )


def test_scratch_that_is_not_cleared_is_noticed(monkeypatch):
    monkeypatch.setattr(sm3_engine, "zeros", garbage)
    with pytest.raises(AssertionError):
        narrow(Simulated())


def test_maxima_in_the_place_of_what_others_read_are_noticed(monkeypatch):
    machine = Simulated()
    in_place(monkeypatch, machine)
    with pytest.raises((TypeError, KernelError)):
        wide(machine)


def test_packs_at_addresses_that_are_no_multiple_of_their_size_are_noticed(monkeypatch):
    monkeypatch.setattr(engine, "aligned", aligned_always)
    room = hard((1040,), share=0)
    odd = room[1:] if room.ctypes.data % 16 == 0 else room
    with pytest.raises(KernelError, match="misaligned"):
        assert_same_steps(Simulated(), elementwise.step, mo.SGD(), odd[:1001], [hard((1001,))])


@pytest.mark.parametrize("spoil", [in_python_numbers, short_counts])
@pytest.mark.parametrize("check", [adam, narrow])
def test_numbers_of_another_type_are_noticed(spoil, check, monkeypatch):
    machine = Simulated()
    spoil(monkeypatch, machine)
    with pytest.raises(TypeError):
        check(machine)


def test_too_few_blocks_are_noticed(monkeypatch):
    monkeypatch.setattr(engine, "blocks", lambda device, wanted, shape: max(1, wanted - 1))
    loop, once = "pack += (long long)gridDim.x * BLOCK)", "pack = packs)"
    with pytest.raises(AssertionError):
        adam(Simulated.on(Mutating(loop, once)))


def test_a_gradient_that_is_written_meanwhile_is_noticed(monkeypatch):
    monkeypatch.setattr(engine, "overlap", lambda x, y: False)
    w = hard((2000,), share=0)
    with pytest.raises((TypeError, KernelError)), Simulated().running():
        elementwise.step(mo.SGD(), w, w[::-1], {})


# Numerics of another class


@pytest.mark.parametrize("check", [adam, wide])
def test_fused_products_and_sums_are_noticed(check):
    with pytest.raises(AssertionError):
        check(Simulated("fma"))


def test_a_device_that_flushes_subnormal_numbers_is_noticed():
    w, g = np.zeros(64, np.float32), np.full(64, 1e-20, np.float32)
    rule = mo.AdaGrad()
    assert_same_steps(Simulated(), elementwise.step, rule, w.copy(), [g])
    w, slots = w.copy(), {"s": np.zeros(64, np.float32)}
    expected = rule.values(w, g, slots)
    assert np.all(expected["s"] > 0)
    with Simulated(flush=True).running():
        elementwise.step(rule, w, g, slots)
    assert np.all(slots["s"] == 0)
