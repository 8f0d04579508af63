"""The instructions on vectors of sixteen, each against NumPy, and what surrounds their memory left alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import vectors as v  # noqa: E402
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402
from memopt_ref.parts import scalar  # noqa: E402

# LLVM writes these vectors out for any processor, so the tests ask for none in particular.
SOME = np.array(
    [0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-45, -3e38, 7, 8.25, -9, 10, 11, 12, 13], np.float32
)


@numba.njit(**STRICT)
def arithmetic(x, y, out):
    a, b = v.floats_at(x), v.floats_at(y)
    v.put_floats(out, a + b)
    v.put_floats(out + 64, a - b)
    v.put_floats(out + 128, a * b)
    v.put_floats(out + 192, a / b)
    v.put_floats(out + 256, v.root(a))
    v.put_floats(out + 320, v.smaller(a, b))
    v.put_floats(out + 384, v.larger(a, b))
    v.put_floats(out + 448, v.evens(a, b))
    v.put_floats(out + 512, v.odds(a, b))
    v.put_pairs(out + 576, a, b)
    v.put_floats(out + 704, v.everywhere(np.float32(2.5)))
    v.add_pair(out + 704, x + 8)
    v.put_floats(out + 768, v.lesser(a, b))
    v.put_floats(out + 832, v.greater(a, b))
    # What expressions call, on vectors.
    v.put_floats(out + 896, scalar.sqrt(a))
    v.put_floats(out + 960, scalar.ratio(a, b))
    v.put_floats(out + 1024, scalar.minimum(a, b))
    v.put_floats(out + 1088, scalar.maximum(a, b))


def expected_arithmetic(x, y):
    both = np.concatenate([x, y])
    filled = np.full(16, 2.5, np.float32)
    filled[:2] += x[2:4]
    return [
        x + y,
        x - y,
        x * y,
        x / y,
        np.sqrt(x),
        np.where(x < y, x, y),
        np.where(x > y, x, y),
        both[::2],
        both[1::2],
        np.stack([x, y], axis=1).reshape(-1),
        filled,
        *(np.minimum(x, y), np.maximum(x, y)),
        *(scalar.sqrt(x), scalar.ratio(x, y), scalar.minimum(x, y), scalar.maximum(x, y)),
    ]


def bits(x):
    """NaN are alike: which of two an addition returns depends on the order of operands."""
    return np.where(np.isnan(x), np.uint32(0x7FC00000), np.ascontiguousarray(x).view(np.uint32))


def assert_arithmetic(function):
    out = np.zeros(18 * 16, np.float32)
    for y in (np.roll(SOME, 5), np.roll(SOME[::-1], 2), np.zeros(16, np.float32)):
        function(SOME.ctypes.data, y.ctypes.data, out.ctypes.data)
        with np.errstate(all="ignore"):
            assert np.array_equal(bits(out), bits(np.concatenate(expected_arithmetic(SOME, y))))


def test_arithmetic_choices_and_shuffles_are_those_of_numpy():
    assert_arithmetic(arithmetic)


def test_the_comparison_catches_operands_in_the_wrong_order():
    with pytest.raises(AssertionError):
        assert_arithmetic(lambda x, y, out: arithmetic(y, x, out))


@numba.njit(**STRICT)
def without_nan(x, y, z):
    return v.ordered(v.floats_at(x), v.floats_at(y), v.floats_at(z))


def test_one_nan_in_any_lane_of_any_of_three_is_seen():
    three = np.zeros((3, 16), np.float32)
    three[0, 3], three[1, 4] = np.inf, -0.0
    at = [x.ctypes.data for x in three]
    assert without_nan(*at)
    for lane in np.ndindex(3, 16):
        before = three[lane]
        for nan in (np.nan, -np.nan):
            three[lane] = nan
            assert not without_nan(*at)
        three[lane] = before


@numba.njit(**STRICT)
def extremes(x, y):
    return v.extremes_of(v.floats_at(x), v.floats_at(y))


def test_extremes_wherever_they_stand():
    for k in range(16):
        x = np.roll(np.arange(-3, 13, dtype=np.float32), k)
        y = np.roll(x, 3) - 20
        assert extremes(x.ctypes.data, y.ctypes.data) == (-3, -8)
    zeros = np.where(np.arange(16) % 3, np.float32(-0.0), np.float32(0))
    assert extremes(zeros.ctypes.data, zeros.ctypes.data) == (0, 0)


@numba.njit(**STRICT)
def chosen(x, limit, first, out):
    where = v.reaches(v.floats_at(x), v.everywhere(limit))
    v.put_chosen(out, v.places_from(first), where)
    return v.count(where)


def test_places_where_a_magnitude_reaches_a_limit_and_no_byte_more():
    rng = np.random.default_rng(0)
    for limit in (0.0, 0.5, 1.5, np.inf, np.nan):
        for _ in range(5):
            x = rng.standard_normal(16).astype(np.float32)
            x[rng.integers(16)], x[rng.integers(16)] = np.nan, -np.inf
            out = np.full(20, -7, np.int32)
            found = chosen(x.ctypes.data, np.float32(limit), 100, out.ctypes.data)
            want = 100 + np.flatnonzero(~(np.abs(x) < np.float32(limit)))
            assert out[:found].tolist() == want.tolist()
            assert np.all(out[found:] == -7)


@numba.njit(**STRICT)
def counted(x, limit):
    return v.count(v.is_from(v.integers_at(x), v.integer_everywhere(limit)))


def test_integers_from_a_limit_on_are_counted():
    x = np.array([0, 1, 2, 3, 0x7F800000, 0x7FC00000, -1, -5, *range(8)], np.int32)
    for limit in (1, 3, 0x7F800000, 0x7FFFFFFF):
        assert counted(x.ctypes.data, limit) == np.count_nonzero(x >= limit)


@numba.njit(**STRICT)
def largest_images(x, y, out):
    images = v.larger_integers(v.images_of(v.floats_at(x)), v.integers_at(y))
    v.put_integers(out, images)
    return v.greatest_of(images)


def test_of_images_nan_of_either_sign_is_the_largest():
    for shift in range(16):
        for without in (False, True):
            x, y = np.roll(np.abs(SOME), shift), np.arange(16, dtype=np.uint32) * 0x0F000000
            x[np.isnan(x)] = 1 if without else -np.nan
            y = y if not without else y & np.uint32(0x7FFFFFFF)
            out = np.full(18, 7, np.uint32)
            greatest = largest_images(x.ctypes.data, y.ctypes.data, out.ctypes.data)
            assert np.array_equal(out[:16], np.maximum(x.view(np.uint32), y))
            assert greatest == out[:16].max()
            assert np.all(out[16:] == 7)


@numba.njit(**STRICT)
def there_and_back(codes, numbers, packed):
    x, y = v.nibbles_at(codes), v.nibbles_at(codes + 8)
    v.put_floats(numbers, x)
    v.put_floats(numbers + 64, y)
    v.put_nibbles(packed, x + v.everywhere(np.float32(0.75)), y)


def test_nibbles_lie_as_the_quantiser_has_them():
    from memopt_ref.parts.quantize import unpack

    codes = np.random.default_rng(1).integers(0, 256, 16).astype(np.uint8)
    numbers, packed = np.zeros(32, np.float32), np.full(20, 99, np.uint8)
    there_and_back(codes.ctypes.data, numbers.ctypes.data, packed.ctypes.data)
    assert np.array_equal(numbers, unpack(codes, 32).astype(np.float32))
    assert np.array_equal(packed[:16], codes)
    assert np.all(packed[16:] == 99)


@numba.njit(**STRICT)
def widened(x, out):
    v.put_floats(out, v.bfloat16_at(x))


def test_bfloat16_are_widened():
    with np.errstate(invalid="ignore", over="ignore"):
        x = SOME.astype(ml_dtypes.bfloat16)
    out = np.zeros(16, np.float32)
    widened(x.ctypes.data, out.ctypes.data)
    assert np.array_equal(bits(out), bits(x.astype(np.float32)))


@numba.njit(**STRICT)
def fetched(address):
    v.fetch(address)
    return address


def test_any_address_may_be_fetched():
    assert fetched(0) == 0


def test_whether_there_are_vectors_follows_from_the_features_that_code_is_compiled_for(monkeypatch):
    def features(triple, text):
        class Context:
            def codegen(self):
                return self

            def magic_tuple(self):
                return triple, "some-cpu", text

        class Target:
            target_context = Context()

        v.available.cache_clear()
        monkeypatch.setattr(v, "cpu_target", Target)
        return v.available()

    full = "+sse2,+avx,+avx2,+avx512f"
    assert features("x86_64-unknown-linux-gnu", full)
    assert features("x86_64-unknown-linux-gnu", "+sse2,+avx2,-avx512f")
    assert not features("x86_64-unknown-linux-gnu", "+sse2,+avx,-avx2,-avx512f")
    assert not features("x86_64-unknown-linux-gnu", "")
    assert not features("aarch64-unknown-linux-gnu", full)
    monkeypatch.undo()
    v.available.cache_clear()
