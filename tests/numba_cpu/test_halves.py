"""16-bit numbers through integers: all of them one way, all ties and edges the other."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.numba_cpu.inputs import same_bits

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import halves  # noqa: E402
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402

KINDS = {
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), halves.from_bfloat16, halves.to_bfloat16),
    "float16": (np.dtype(np.float16), halves.from_float16, halves.to_float16),
}


def over(function):
    @numba.njit(**STRICT)
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return loop


@pytest.mark.parametrize("kind", KINDS)
def test_every_16_bit_number_is_widened_exactly(kind):
    dtype, widen, _ = KINDS[kind]
    words = np.arange(2**16, dtype=np.uint16)
    out = np.empty(words.size, np.float32)
    over(widen)(words, out)
    assert same_bits(out, words.view(dtype).astype(np.float32))


def inconvenient(dtype):
    """Every 16-bit number, the midpoints to its neighbours, and one step to either side of each."""
    words = np.arange(2**16, dtype=np.uint16)
    exact = words.view(dtype).astype(np.float32)
    with np.errstate(all="ignore"):
        middle = ((exact.astype(np.float64) + np.roll(exact, 1).astype(np.float64)) / 2).astype(np.float32)
        near = [np.nextafter(x, np.float32(to)) for x in (exact, middle) for to in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, np.uint32).view(np.float32)
    payloads = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    return np.concatenate([exact, middle, *near, bits, payloads.view(np.float32)])


@pytest.mark.parametrize("kind", KINDS)
def test_narrowing_rounds_to_nearest_even_and_keeps_nan(kind):
    dtype, _, narrow = KINDS[kind]
    x = inconvenient(dtype)
    out = np.empty(x.size, np.uint16)
    over(narrow)(x, out)
    with np.errstate(all="ignore"):
        assert same_bits(out.view(dtype), x.astype(dtype))


def test_rounding_without_the_guard_for_nan_is_caught():
    dtype = KINDS["bfloat16"][0]
    x = inconvenient(dtype)
    bits = x.view(np.uint32)
    unguarded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        assert not same_bits(unguarded, x.astype(dtype))
        finite = np.isfinite(x)
        assert same_bits(unguarded[finite], x[finite].astype(dtype))
