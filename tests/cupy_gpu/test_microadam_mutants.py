"""Deliberate mistakes in MicroAdam's kernel and its launches, each of which an ordinary run notices."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import microadam_bind, microadam_engine
from tests.cuda_sim.device import KernelError, SimulatedDevice
from tests.cupy_gpu.machines import Simulated, simulated
from tests.cupy_gpu.test_microadam import alikes, assert_same_steps, gradients
from tests.cupy_gpu.test_microadam_launches import placed
from tests.cupy_gpu.test_mutants import Mistake, Mutating, in_python_numbers, short_counts
from tests.numba_cpu.inputs import hard

pytestmark = simulated


def shipped(machine):
    """The shipped block and a short one after it, of an odd number of entries that are all positive.

    Some are kept at every step; the last one once.
    """
    rule, size = mo.MicroAdam(window=3), 4096 + 101
    grads = [np.abs(g) + np.float32(1) for g in gradients(size, 3)]
    for g in grads:
        g[::500] += 1000
    grads[1][-1] = 2000
    assert_same_steps(machine, rule, hard(size, share=0), [*grads, *next(gradients((2, size), 1, seed=1))])


def in_memory(machine):
    """A bucket that no lanes share, several blocks."""
    rule = mo.MicroAdam(window=2, density=0.03, block=1050, bucket=105)
    assert_same_steps(machine, rule, hard(2200, share=0), gradients(2200, 3))


def far(machine):
    """Sums in memory of their own, which several launches use after one another."""
    machine.device.processors = 1
    rule = mo.MicroAdam(window=2, block=12_544)
    w = hard(12_544 * 4 + 9, share=0)
    assert_same_steps(machine, rule, w, [np.random.default_rng(1).standard_normal(w.size).astype(w.dtype)])


def alike(machine):
    """All entries equal but for their signs, and candidates that differ in their last digits."""
    for name in ("signs", "two digits"):
        g = alikes(4096)[name].astype(np.float32)
        assert_same_steps(machine, mo.MicroAdam(), np.ones(4096, np.float32), [g, g])


def close(machine):
    """Ties among few candidates; numbers so close that their bounds lie within."""
    for name in ("one of many", "one digit"):
        g = alikes(4096)[name].astype(np.float32)
        assert_same_steps(machine, mo.MicroAdam(), np.ones(4096, np.float32), [g])


def with_nan(machine):
    g = np.ones(300, np.float32)
    g[10:200] = np.arange(0x7FC00000, 0x7FC00000 + 190, dtype=np.uint32).view(np.float32)
    assert_same_steps(machine, mo.MicroAdam(), np.ones(300, np.float32), [g])


TEXT = {
    "NaN of several kinds": Mistake("return x == x ? x :", "return true ? x :", with_nan),
    "nobody waits for empty bins": Mistake("decay);\n    __syncthreads();", "decay);", shipped),
    "nobody waits for full bins": Mistake(
        "        __syncthreads();\n        find_bin", "        find_bin", shipped
    ),
    "nobody waits for the bin": Mistake(
        "    __syncthreads();\n}\n\n// before[i]", "}\n\n// before[i]", shipped
    ),
    "nobody waits for the warps' sums": Mistake(
        "sums[threadIdx.x / 32] = x;\n    __syncthreads();", "sums[threadIdx.x / 32] = x;", shipped
    ),
    "nobody waits for the candidates": Mistake(
        "__syncthreads();\n        // The order of the list", "// The order of the list", shipped
    ),
    "nobody waits for what is taken": Mistake("    }\n    __syncthreads();\n}", "    }\n}", shipped),
    "nobody waits for the new row": Mistake(
        "store(entries, error);\n    __syncthreads();", "store(entries, error);", shipped
    ),
    "nobody waits between rows": Mistake(
        "            }\n            __syncthreads();", "            }", shipped
    ),
    "a plain sum in the bins": Mistake(
        "atomicAdd(room.bins + (Word)(key_of(a[n]) >> LOW_BITS), 1u)",
        "++room.bins[(Word)(key_of(a[n]) >> LOW_BITS)]",
        shipped,
    ),
    "a plain count of candidates": Mistake("atomicAdd(room.found + 3, 1u)", "room.found[3]++", shipped),
    "a plain store of candidates that win": Mistake(
        "atomicOr(room.taken + place / 32, 1u << place % 32)",
        "room.taken[place / 32] |= 1u << place % 32",
        shipped,
    ),
    "ties to the highest index": Mistake("room.places[i] < place", "room.places[i] > place", close),
    "one of equals too many": Mistake("rank < need", "rank <= need", alike),
    "the next digit in full bins": Mistake(
        "room.bins[k] = 0;\n            __syncthreads();", "__syncthreads();", alike
    ),
    "a digit of all entries": Mistake("key >> shift == least >> shift", "true", alike),
    "equals that count as stepped": Mistake(
        "        room.tied[k] = 0;\n    count_before", "        ;\n    count_before", alike
    ),
    "the last run is dropped": Mistake("first_of(r) < length", "first_of(r) + 8 <= length", shipped),
    "one past the end": Mistake(
        "n < count ? widened(g[first + n])", "n <= count ? widened(g[first + n])", shipped
    ),
    "the wrong stride": Mistake(
        "(run * BLOCK + (int)threadIdx.x) * 8", "(run + (int)threadIdx.x * RUNS) * 8", shipped
    ),
    "the wrong lane": Mistake("__shfl_xor_sync(ALL, low, apart)", "__shfl_up_sync(ALL, low, apart)", shipped),
    "what is not there counts as zero": Mistake(
        "n < count ? a[n] : a[0]", "n < count ? a[n] : (Real)0", shipped
    ),
    "half a byte beyond the end": Mistake("2 * k + 1 < count ? 0xFFu : 0xF0u", "0xFFu", shipped),
    "the division of the paper": Mistake("(a - low) * inverse", "(a - low) / (levels / inverse)", shipped),
    "codes beyond the last": Mistake("fmin(fmax(y, (Real)0), levels)", "fmax(y, (Real)0)", close),
    "the wrong ring slot": Mistake(
        "int place = row * kept", "int place = (row + 1) % window * kept", shipped
    ),
    "the ages of a ring that never went round": Mistake(
        "ago < 0 ? ago + ring.window : ago", "ago < 0 ? -ago : ago", shipped
    ),
    "the window of another block": Mistake(
        "number * window * kept_of_block", "number * window * kept", shipped
    ),
    "half of the sums are not cleared": Mistake(
        "j < length; j += BLOCK)\n        sums[j]", "j < length / 2; j += BLOCK)\n        sums[j]", shipped
    ),
    "entries that two rows name are stepped twice": Mistake(
        "if (!(atomicOr(room.tied + place / 32, bit) & bit))", "", shipped
    ),
    "threads without entries return": Mistake(
        "    Room room;", "    if ((int)threadIdx.x * 8 >= length)\n        return;\n    Room room;", shipped
    ),
    "as many rows as a thread has": Mistake(
        "i <= (most - 1) / ring.kept", "i <= (most - 1 - (int)threadIdx.x) / ring.kept", shipped
    ),
    "bounds of entries that are still there": Mistake(
        "#if ERROR > 0\n    __syncthreads();", "#if ERROR > 0", in_memory
    ),
    "codes by bounds to come": Mistake(
        "    __syncthreads();\n    // Two neighbours", "    // Two neighbours", in_memory
    ),
    "a block of the first launch": Mistake(
        "(long long)first_block + blockIdx.x", "(long long)blockIdx.x", far
    ),
    "every block in the same memory": Mistake("(long long)blockIdx.x * capacity * 2", "0", far),
}


@pytest.mark.parametrize("name", TEXT)
def test_a_mistake_in_the_kernel_is_noticed(name):
    mistake = TEXT[name]
    device = Mutating(mistake.old, mistake.new)
    with pytest.raises((AssertionError, KernelError)):
        mistake.noticed_by(Simulated.on(device))
    assert device.changed, "the text has changed: bring the mistake up to it"


@pytest.mark.parametrize("check", [shipped, in_memory, far, alike, close, with_nan])
def test_without_a_mistake_nothing_is_noticed(check):
    check(Simulated())


@pytest.mark.parametrize("check", [shipped, far])
def test_too_little_shared_memory_is_noticed(check, monkeypatch):
    right = microadam_bind.shared_bytes
    monkeypatch.setattr(microadam_bind, "shared_bytes", lambda *given: right(*given) - 64)
    with pytest.raises(KernelError, match="dynamic shared memory"):
        check(Simulated())


def test_too_little_memory_is_noticed(monkeypatch):
    right = microadam_engine.zeros
    monkeypatch.setattr(microadam_engine, "zeros", lambda like, shape, dtype: right(like, shape, dtype)[1:])
    with pytest.raises(KernelError, match="out of bounds"):
        far(Simulated())


@pytest.mark.parametrize("spoil", [in_python_numbers, short_counts])
def test_numbers_of_another_type_are_noticed(spoil, monkeypatch):
    machine = Simulated()
    spoil(monkeypatch, machine)
    with pytest.raises(TypeError):
        shipped(machine)


def test_packs_at_addresses_that_are_no_multiple_of_their_size_are_noticed(monkeypatch):
    monkeypatch.setattr(microadam_engine, "aligned", lambda arrays, most: most)
    g = placed(1000, np.float32, 1)
    with pytest.raises(KernelError, match="misaligned"):
        assert_same_steps(Simulated(), mo.MicroAdam(), hard(1000, share=0), [g])


def test_too_few_blocks_are_noticed():
    class Less(SimulatedDevice):
        def launch(self, kernel, grid, *rest, **options):
            super().launch(kernel, (grid[0] - 1,), *rest, **options)

    with pytest.raises(AssertionError):
        shipped(Simulated.on(Less()))


def test_fused_products_and_sums_are_noticed():
    with pytest.raises(AssertionError):
        assert_same_steps(Simulated("fma"), mo.MicroAdam(), hard(9000, share=0), gradients(9000, 4))
