"""The simulator of CUDA kernels: each detector fires on a wrong kernel and is silent on its right twin."""

from __future__ import annotations

import doctest
import os
import re
import time
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.cuda_sim import build
from tests.cuda_sim import device as device_module
from tests.cuda_sim.device import KernelError, SimulatedDevice, Text, Window

pytestmark = pytest.mark.skipif(not build.available()[0], reason=build.available()[1])

ORDERS = ("forward", "reverse", 7)
N, T = 100, 64
GRID = (-(-N // T),)


def kernel(body: str, parameters: str, name: str = "k", before: str = "") -> Text:
    return Text(name, f'{before}\nextern "C" __global__ void {name}({parameters})\n{{\n{body}\n}}\n')


def floats(n: int = N) -> Any:
    return np.arange(1, n + 1, dtype=np.float32)


class Pair(NamedTuple):
    """A mistake as two bodies, and what is said of the wrong one."""

    wrong: str
    right: str
    says: str
    parameters: str = "float *x, const float *y, const int n"
    args: Any = lambda: (floats(), floats(), np.int32(N))
    grid: tuple[int, ...] = GRID
    block: tuple[int, ...] = (T,)
    shared: int = 0


I = "const int i = blockIdx.x * blockDim.x + threadIdx.x; const int t = threadIdx.x;"  # noqa: E741
DYNAMIC = f"extern __shared__ float tile[]; {I}"
TILE = f"{I} __shared__ float tile[{T}]; tile[t] = (float)t;"
PAIRS = {
    "a read one past the end": Pair(
        f"{I} if (i < n) x[i] = y[i + 1];",
        f"{I} if (i < n) x[i] = y[min(i + 1, n - 1)];",
        "read of 4 bytes out of bounds, 0 bytes after 'y'.*block .1,0,0. thread .35,0,0.*at line ",
    ),
    "a write one past the end": Pair(
        f"{I} if (i <= n) x[i] = y[0];",
        f"{I} if (i < n) x[i] = y[0];",
        "write of 4 bytes out of bounds, 0 bytes after 'x'",
    ),
    "a read before the start": Pair(
        f"{I} if (i < n) x[i] = y[i - 1];",
        f"{I} if (i < n) x[i] = y[max(i - 1, 0)];",
        "4 bytes before 'y'",
    ),
    "a pack across the end": Pair(
        f"{I} if (4 * i < n) ((float4 *)x)[i] = make_float4(1.f, 2.f, 3.f, 4.f);",
        f"{I} if (4 * i + 3 < n) ((float4 *)x)[i] = make_float4(1.f, 2.f, 3.f, 4.f);",
        "write of .* bytes out of bounds",
        args=lambda: (aligned(floats(102)), floats(), np.int32(102)),
    ),
    "a race between threads": Pair(
        f"{TILE} __syncthreads(); tile[t] = tile[(t + 1) % {T}]; __syncthreads(); if (i < n) x[i] = tile[t];",
        f"{TILE} __syncthreads(); const float v = tile[(t + 1) % {T}]; __syncthreads(); tile[t] = v;"
        "__syncthreads(); if (i < n) x[i] = tile[t];",
        "race: (read|write) of 4 bytes at 'static shared memory'.*by thread.*of this block.*array 'tile'",
    ),
    "a shift in place": Pair(
        f"{I} x[t] = x[t + 1];",
        f"{I} const float v = x[t + 1]; __syncthreads(); x[t] = v;",
        "race: (read of 4 bytes at 'x'.* after a write|write of 4 bytes at 'x'.* after a read) by thread",
        grid=(1,),
    ),
    "a block that writes what another has read": Pair(
        f"{I} if (t == 0) {{ const float v = x[0]; x[1 + i] = v; if (blockIdx.x == 1) x[0] = v + 1.f; }}",
        f"{I} if (t == 0) {{ const float v = y[0]; x[1 + i] = v; if (blockIdx.x == 1) x[0] = v + 1.f; }}",
        "race: .* at 'x'.0. after a (read|write) by block",
    ),
    "a warp that writes what another has read": Pair(
        f"{I} if (t % 32 == 0) {{ const float v = x[0]; x[1 + t] = v; if (t == 32) x[0] = v + 1.f; }}",
        f"{I} if (t % 32 == 0) x[1 + t] = x[0]; __syncthreads(); if (t == 32) x[0] = 1.f;",
        "race: .* at 'x'.0. after a (read|write) by thread",
        grid=(1,),
    ),
    "a lane that writes what another has read": Pair(
        f"{I} if (t < 2) {{ const float v = x[0]; x[1 + t] = v; if (t == 1) x[0] = v + 1.f; }}",
        f"{I} if (t < 2) x[1 + t] = x[0]; __syncwarp(); if (t == 1) x[0] = 1.f;",
        "race: .* at 'x'.0. after a (read|write) by thread",
        grid=(1,),
    ),
    "a missing barrier": Pair(
        f"{TILE} if (i < n) x[i] = tile[{T - 1} - t];",
        f"{TILE} __syncthreads(); if (i < n) x[i] = tile[{T - 1} - t];",
        "race|uninitialised",
    ),
    "a missing __syncwarp": Pair(
        f"{TILE} if (i < n) x[i] = tile[t ^ 1];",
        f"{TILE} __syncwarp(); if (i < n) x[i] = tile[t ^ 1];",
        "race|uninitialised",
    ),
    "a shuffle for a __syncwarp": Pair(
        f"{TILE} const int s = __shfl_xor_sync(~0u, t, 1); if (i < n) x[i] = tile[s];",
        f"{TILE} const int s = __shfl_xor_sync(~0u, t, 1); __syncwarp(); if (i < n) x[i] = tile[s];",
        "race|uninitialised",
    ),
    "a race between blocks": Pair(
        f"{I} if (t == 0) x[0] += y[blockIdx.x];",
        f"{I} if (t == 0) x[blockIdx.x] += y[blockIdx.x];",
        "race: (read|write) of 4 bytes at 'x'.0. after a write by block [01]",
    ),
    "a plain store beside an atomic": Pair(
        f"{I} if (t == 0) {{ if (blockIdx.x) x[0] = 1.f; else atomicAdd(&x[0], 1.f); }}",
        f"{I} if (t == 0) {{ if (blockIdx.x) atomicAdd(&x[0], 1.f); else atomicAdd(&x[0], 1.f); }}",
        "race",
    ),
    "a histogram without atomics": Pair(
        f"{I} if (i < n) h[i % 8]++;",
        f"{I} if (i < n) atomicAdd(&h[i % 8], 1);",
        "race: .* at 'h'",
        parameters="unsigned *h, const int n",
        args=lambda: (np.zeros(8, np.uint32), np.int32(N)),
    ),
    "uninitialised shared memory": Pair(
        f"{I} __shared__ float tile[{T}]; if (t) tile[t] = 1.f; __syncthreads(); if (i < n) x[i] = tile[t];",
        f"{I} __shared__ float tile[{T}]; tile[t] = 1.f; __syncthreads(); if (i < n) x[i] = tile[t];",
        "read of 4 bytes of uninitialised 'static shared memory'",
    ),
    "uninitialised dynamic shared memory": Pair(
        f"{DYNAMIC} if (i < n) tile[t] = 1.f; __syncthreads(); if (t == 0) x[i] = tile[63];",
        f"{DYNAMIC} if (i < n) tile[t] = 1.f; __syncthreads(); if (i < n) x[i] = tile[t];",
        "uninitialised 'dynamic shared memory'",
        shared=4 * T,
    ),
    "less dynamic shared memory than is used": Pair(
        f"{DYNAMIC} tile[t + 1] = 1.f; if (i < n) x[i] = y[i];",
        f"{DYNAMIC} tile[t] = 1.f; if (i < n) x[i] = y[i];",
        "write of 4 bytes out of bounds, 0 bytes after 'dynamic shared memory'",
        shared=4 * T,
    ),
    "an index of a shared array that is its length": Pair(
        f"{TILE} __syncthreads(); if (i < n) x[i] = tile[t + 1];",
        f"{TILE} __syncthreads(); if (i < n) x[i] = tile[t];",
        "undefined: index out of an array's bounds",
    ),
    "a pointer past all shared arrays": Pair(
        f"{TILE} __syncthreads(); const float *p = tile + t; if (i < n) x[i] = p[100000];",
        f"{TILE} __syncthreads(); const float *p = tile + t; if (i < n) x[i] = p[0];",
        "read of 4 bytes out of bounds, .* bytes after 'static shared memory'",
    ),
    "a variable of the module": Pair(
        f"{I} if (i < n) module_variable = i;",
        f"{I} if (i < n) x[i] = module_table[i & 3];",
        "out of bounds",
    ),
    "a barrier that some threads never reach": Pair(
        f"{I} if (i >= n) return; __syncthreads(); x[i] = y[i];",
        f"{I} __syncthreads(); if (i < n) x[i] = y[i];",
        "divergent barrier: .*(returned|have returned)",
    ),
    "two barriers in two branches": Pair(
        f"{I} if (t < 32) {{\n __syncthreads();\n }} else {{\n __syncthreads();\n }} if (i < n) x[i] = y[i];",
        f"{I} __syncthreads(); if (i < n) x[i] = y[i];",
        "divergent barrier: a thread is at line .* while .* wait at line",
    ),
    "a barrier for some, a shuffle for others": Pair(
        f"{I} if (t < 40) __syncthreads(); const float s = __shfl_sync(~0u, 1.f, 0); if (i < n) x[i] = s;",
        f"{I} __syncthreads(); const float s = __shfl_sync(~0u, 1.f, 0); if (i < n) x[i] = s;",
        "deadlock|divergent",
    ),
    "a shuffle from a lane that is not there": Pair(
        f"{I} if (t < 16) x[t] = __shfl_down_sync(0xffffu, y[t], 8);",
        f"{I} if (t < 16) x[t] = __shfl_down_sync(0xffffu, y[t], 8, 16);",
        "a shuffle reads lane (1[6-9]|2[0-3]), which takes no part in it",
        grid=(1,),
    ),
    "a shuffle after some lanes have returned": Pair(
        f"{I} if (t % 32 > 3) return; x[t] = __shfl_xor_sync(~0u, y[t], 1);",
        f"{I} if (t % 32 > 3) return; x[t] = __shfl_xor_sync(15u, y[t], 1);",
        "a shuffle waits for lane .*, which has returned|a lane has returned while lane .* waits for it",
        grid=(1,),
    ),
    "a mask without the caller": Pair(
        f"{I} x[i] = __ballot_sync(0xffffu, 1);",
        f"{I} x[i] = __ballot_sync(0xffffffffu, 1);",
        "a vote is called by lane .*, which its mask 0000ffff leaves out",
        grid=(1,),
    ),
    "a misaligned pack": Pair(
        f"{I} if (i < 8) x[i] = ((const float4 *)(y + 1))[i].x;",
        f"{I} if (i < 8) x[i] = ((const float4 *)(y + 4))[i].x;",
        "misaligned",
        args=lambda: (floats(), aligned(floats()), np.int32(N)),
    ),
    "a write to const": Pair(
        f"{I} if (i < n) ((float *)y)[i] = 1.f;",
        f"{I} if (i < n) x[i] = 1.f;",
        "write of 4 bytes to 'y', which is const",
    ),
    "a shift by the width": Pair(
        f"{I} if (i < n) x[i] = (float)(1u << (t / 2 + 1));",
        f"{I} if (i < n) x[i] = (float)(1u << (t / 2));",
        "undefined: shift",
    ),
    "NaN as an integer": Pair(
        f"{I} if (i < n) x[i] = (float)(int)(y[i] - 2.f > 0.f ? sqrtf(2.f - y[i]) : 0.f);",
        f"{I} if (i < n) x[i] = (float)__float2int_rz(sqrtf(2.f - y[i]));",
        "undefined: the number does not fit",
    ),
}
# All in one text: one compilation.
TEXT = "__device__ int module_variable; static const float module_table[4] = {1, 2, 3, 4};" + "".join(
    kernel(body, pair.parameters, f"{side}_{k}").source
    for k, pair in enumerate(PAIRS.values())
    for side, body in (("wrong", pair.wrong), ("right", pair.right))
)


def aligned(x: Any) -> Any:
    """A copy at a 256-byte boundary, where an allocator of the device would put it."""
    room = np.zeros(x.nbytes + 256, np.uint8)
    start = -room.ctypes.data % 256
    copy = room[start : start + x.nbytes].view(x.dtype)
    copy[:] = x
    return copy


@pytest.mark.parametrize("name", PAIRS)
def test_the_mistake_is_found_in_every_order_and_its_right_twin_passes(name):
    pair, number = PAIRS[name], list(PAIRS).index(name)
    for order in ORDERS:
        device = SimulatedDevice("check", order)
        with pytest.raises(KernelError, match=re.compile(pair.says, re.DOTALL)):
            device.launch(Text(f"wrong_{number}", TEXT), pair.grid, pair.block, pair.args(), pair.shared)
        device.launch(Text(f"right_{number}", TEXT), pair.grid, pair.block, pair.args(), pair.shared)


# ---- what is refused before a launch --------------------------------------------------------------------


SCALE = kernel(
    f"{I} if (i < n) x[i] = s * y[i];", "float *x, const float *__restrict__ y, const float s, const int n"
)


def scale(device: SimulatedDevice, x: Any, y: Any, s: Any = np.float32(2), n: Any = np.int32(N)) -> None:  # noqa: B008
    device.launch(SCALE, GRID, (T,), (x, y, s, n))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((floats().astype(np.float64), floats()), r"argument 0 \(x\) is an array of float64, .* float\*"),
        ((floats(), floats().astype(np.float16)), r"argument 1 \(y\) is an array of float16"),
        ((floats(), floats(), 2.0), "argument 2 .* is a Python float: pass a NumPy scalar for float"),
        ((floats(), floats(), np.float64(2)), "is float64, the parameter is float"),
        ((floats(), floats(), np.float32(2), N), "is a Python int"),
        ((floats(), floats(), np.float32(2), np.int64(N)), "is int64, the parameter is int"),
        ((floats(), list(floats())), "is a list: pass an array"),
    ],
)
def test_an_argument_of_another_type_is_refused_and_nothing_runs(args, says):
    device = SimulatedDevice("check")
    with pytest.raises(TypeError, match=says):
        scale(device, *args)
    assert device.launches == []


def test_a_wrong_number_of_arguments_a_read_only_array_and_restricted_overlap_are_refused():
    device, x, y = SimulatedDevice("check"), floats(), floats()
    with pytest.raises(TypeError, match="2 arguments for 4: x, y, s, n"):
        device.launch(SCALE, GRID, (T,), (x, y))
    with pytest.raises(TypeError, match="x and y overlap, and one of them is __restrict__"):
        scale(device, x, x)
    scale(device, y, np.broadcast_to(x, x.shape))
    y.flags.writeable = False
    with pytest.raises(TypeError, match="is read-only"):
        scale(device, y, x)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "says"),
    [
        ((0,), (32,), 0, "grid"),
        ((1, 65536), (32,), 0, "grid"),
        ((1,), (2048,), 0, "block"),
        ((1,), (64, 64), 0, "more than 1024 threads"),
        ((1,), (128,), 0, "128 threads a block, at most 64"),
        ((1,), (64,), 1 << 20, "bytes of shared memory, at most"),
    ],
)
def test_a_launch_that_a_device_would_refuse_is_refused(grid, block, shared, says):
    bounded = Text(
        "f", 'extern "C" __global__ void __launch_bounds__(BLOCK, 2) f(int *x) {}', ("-DBLOCK=64",)
    )
    with pytest.raises(ValueError, match=says):
        SimulatedDevice("check").launch(bounded, grid, block, (np.zeros(1, np.int32),), shared)


def test_a_text_that_does_not_compile_is_reported_with_its_own_line_numbers():
    with pytest.raises(build.CompileError, match=r"kernel\.cu:5:.*missing"):
        SimulatedDevice("plain").launch(
            kernel("\nmissing(1);", "int *x"), (1,), (1,), (np.zeros(1, np.int32),)
        )


# ---- what the other modes are for -----------------------------------------------------------------------


def test_only_the_asan_mode_tells_neighbouring_shared_arrays_apart():
    body = """__shared__ float a[32]; __shared__ float b[32]; const int t = threadIdx.x;
float *p = a; a[t] = 1.f; b[t] = 2.f; __syncthreads(); x[t] = p[t + %d]; """
    for over, wrong in ((1, True), (0, False)):
        text = kernel(body % over, "float *x")
        SimulatedDevice("plain").launch(text, (1,), (32,), (floats(32),))
        device = SimulatedDevice("asan")
        if wrong:
            with pytest.raises(KernelError, match=r"out of bounds of a shared array .*'a' \+ 128 bytes"):
                device.launch(text, (1,), (32,), (floats(32),))
        else:
            device.launch(text, (1,), (32,), (floats(32),))


def test_the_modes_with_red_zones_find_a_write_past_the_end_of_an_argument():
    text = kernel(f"{I} x[i + 4] = 1.f;", "float *x")
    for mode, says in (
        ("plain", "write 0 bytes after 'x'"),
        ("asan", "write of 4 bytes .* 0 bytes after 'x'.*thread .60"),
    ):
        with pytest.raises(KernelError, match=says):
            SimulatedDevice(mode).launch(text, (1,), (T,), (floats(T + 1)[:-1],))


def test_dynamic_shared_memory_has_a_red_zone_in_every_mode():
    text = kernel("extern __shared__ int s[]; s[threadIdx.x] = 1;", "int *x")
    for mode in ("plain", "fma", "ubsan"):
        SimulatedDevice(mode).launch(text, (1,), (32,), (np.zeros(1, np.int32),), 128)
        with pytest.raises(KernelError, match="write beyond the 124 bytes of dynamic shared memory"):
            SimulatedDevice(mode).launch(text, (1,), (32,), (np.zeros(1, np.int32),), 124)


def test_the_ubsan_mode_names_undefined_arithmetic_that_the_check_mode_lets_pass():
    text = kernel("x[1] = __builtin_clz(x[0]);", "int *x")
    SimulatedDevice("check").launch(text, (1,), (1,), (np.zeros(2, np.int32),))
    with pytest.raises(KernelError, match="undefined: __builtin_clz or ctz of 0"):
        SimulatedDevice("ubsan").launch(text, (1,), (1,), (np.zeros(2, np.int32),))


def test_the_fma_mode_fuses_what_the_others_round_and_leaves_rounded_intrinsics_alone():
    x, y = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    results = {}
    for mode in build.MODES:
        for product in ("x[i] * y[i]", "__fmul_rn(x[i], y[i])"):
            z = np.zeros_like(x)
            text = kernel(
                f"{I} if (i < n) z[i] = {product} + x[i];", "const float *x, const float *y, float *z, int n"
            )
            SimulatedDevice(mode).launch(text, (16,), (T,), (x, y, z, np.int32(1000)))
            results[mode, product[0] == "_"] = np.array_equal(z, x * y + x)
    for (mode, rounded), equal in results.items():
        assert equal == (mode != "fma" or rounded or not build.FUSES), (mode, rounded)


@pytest.mark.parametrize("mode", ["plain", "check"])
def test_a_crash_becomes_an_error_that_names_the_thread(mode):
    for body, says in (
        ("if (threadIdx.x == 3) *(int *)16 = x[0];", "memory fault|out of bounds"),
        ("if (threadIdx.x == 3) x[0] = 7 / x[1];", "division by zero"),
        ("if (threadIdx.x == 3) __trap();", "__trap"),
    ):
        with pytest.raises(KernelError, match=rf"({says}).*thread \(3,0,0\)"):
            SimulatedDevice(mode).launch(kernel(body, "int *x"), (1,), (8,), (np.zeros(2, np.int32),))


def test_a_launch_without_an_end_is_ended():
    spin = kernel("volatile int *v = x; while (v[0] == 0) {}", "int *x")
    with pytest.raises(KernelError, match="without an end"):
        SimulatedDevice("plain", seconds=0.05).launch(spin, (1,), (2,), (np.zeros(1, np.int32),))


# ---- orders, parts of a launch, traffic -----------------------------------------------------------------


def test_orders_differ_are_repeatable_and_run_every_thread_once():
    text = kernel(
        "const int k = atomicAdd(count, 1); when[blockIdx.x * blockDim.x + threadIdx.x] = k; __syncthreads();"
        "if (threadIdx.x == 0) after[blockIdx.x] = atomicAdd(count, 1);",
        "int *when, int *after, int *count",
    )
    seen = {}
    for order in ("forward", "reverse", 1, 2):
        for repeat in range(2):
            when, after = np.full(4 * T, -1, np.int32), np.full(4, -1, np.int32)
            SimulatedDevice("check", order).launch(text, (4,), (T,), (when, after, np.zeros(1, np.int32)))
            assert sorted([*when, *after]) == list(range(4 * T + 4))
            assert repeat == 0 or np.array_equal(seen[order], when)
            seen[order] = when
    assert (np.diff(seen["forward"].reshape(4, T)) == 1).all()
    assert (np.diff(seen["reverse"].reshape(4, T)) == -1).all()
    assert len({tuple(when) for when in seen.values()}) == 4
    shuffled = np.array([seen[seed].reshape(4, T) for seed in (1, 2)])
    assert (np.diff(shuffled.min(axis=2)) < 0).any(), "blocks"
    assert (np.diff(shuffled, axis=2) < -1).any(), "threads"


def test_a_32_bit_index_is_found_by_running_the_last_blocks_of_a_large_launch():
    count, blocks = 5_000_000_001, -(-5_000_000_001 // T)
    last = range(blocks - 3, blocks)
    start = last.start * T
    for index, wrong in (("int", True), ("long long", False)):
        text = kernel(
            f"const {index} i = ({index})blockIdx.x * blockDim.x + threadIdx.x; if (i < n) w[i] += 1.f;",
            "float *w, const long long n",
        )
        w = np.zeros(count - start, np.float32)
        args = Window(w, start), np.int64(count)
        if wrong:
            with pytest.raises(KernelError, match=r"bytes before 'w'|sum overflows|product overflows"):
                SimulatedDevice("check").launch(text, (blocks,), (T,), args, blocks=last)
        else:
            SimulatedDevice("check").launch(text, (blocks,), (T,), args, blocks=last)
            assert (w == 1).all()


def test_bytes_and_entries_are_counted_by_argument():
    x, y = aligned(floats(256)), aligned(floats(256))
    device = SimulatedDevice("check")
    text = kernel(f"{I} x[i] = y[2 * (i % 64)];", "float *x, const float *y")
    device.launch(text, (2,), (T,), (x, y))
    wrote, read = device.traffic["x"], device.traffic["y"]
    assert (wrote.stores, wrote.bytes_written, wrote.sectors_written, wrote.unwritten) == (128, 512, 16, 128)
    assert (read.loads, read.bytes_read, read.sectors_read, read.unread) == (128, 512, 16, 192)
    assert (wrote.loads, read.stores) == (0, 0)
    assert (wrote.bytes, read.bytes) == (512, 512)


def test_arrays_behind_addresses_are_reached_only_if_they_are_named():
    text = kernel("((float *)rows[blockIdx.x])[threadIdx.x] = 1.f;", "const unsigned long long *rows")
    x, y = floats(8), floats(8)
    rows = np.array([x.ctypes.data, y.ctypes.data], np.uint64)
    device = SimulatedDevice("check")
    with pytest.raises(KernelError, match="out of bounds"):
        device.launch(text, (2,), (8,), (rows,), touched=(x,))
    device.launch(text, (2,), (8,), (rows,), touched=(x, y))
    assert (x == 1).all()
    assert (y == 1).all()


def test_strided_and_interleaved_arrays_are_what_they_are_on_a_device():
    both = floats(64)
    text = kernel("x[-2 * (int)threadIdx.x] = y[2 * threadIdx.x];", "float *x, const float *y")
    SimulatedDevice("check").launch(text, (1,), (32,), (both[::-2], both[::2]))
    assert np.array_equal(both[::-2], floats(64)[::2])


@pytest.mark.skipif(not build.INTEL, reason="x86 only")
def test_subnormal_numbers_are_flushed_where_it_is_wished():
    text = kernel("x[0] *= 0.5f;", "float *x")
    for flush in (False, True):
        x = np.array([1e-38], np.float32)
        SimulatedDevice("plain", flush=flush).launch(text, (1,), (1,), (x,))
        assert (x[0] == 0) == flush
        assert np.float32(1e-38) * np.float32(0.5) > 0


def test_a_kernel_is_compiled_once_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_SIM_CACHE", str(tmp_path / "kernels"))
    build.folder.cache_clear()
    build.runtime.cache_clear()
    try:
        text = kernel("x[0] = 1;", "int *x").source
        build.library.__wrapped__(text)
        before = sorted(p.name for p in (tmp_path / "kernels").iterdir())
        monkeypatch.setattr(build, "_run", lambda command: pytest.fail(f"ran {command}"))
        build.library.__wrapped__(text)
        assert len(before) == 2
        assert sorted(p.name for p in (tmp_path / "kernels").iterdir()) == before
    finally:
        monkeypatch.undo()
        build.folder.cache_clear()
        build.runtime.cache_clear()


def test_the_cover_mode_names_the_lines_that_no_launch_has_reached():
    text = kernel(
        """if (n > 3)
  x[0] = 1.f;
else
  x[0] = 2.f;
for (int k = 5; k < n; k++)
  x[1] += 1.f;""",
        "float *x, const int n",
    )
    device = SimulatedDevice("cover")
    device.launch(text, (1,), (1,), (floats(2), np.int32(5)))
    assert [line for _, line in device.uncovered(text)] == ["x[0] = 2.f;", "x[1] += 1.f;"]
    device.launch(text, (1,), (1,), (floats(2), np.int32(2)))
    assert [line for _, line in device.uncovered(text)] == ["x[1] += 1.f;"]
    device.launch(text, (1,), (1,), (floats(2), np.int32(9)))
    assert device.uncovered(text) == []


def test_libraries_that_nobody_has_used_for_long_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_SIM_CACHE", str(tmp_path))
    for name, age in (("old.so", build.KEPT_SECONDS + 60), ("new.so", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() - age))
    assert build.folder.__wrapped__() == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["new.so"]


def test_the_examples_of_the_documentation_run():
    for module in (build, device_module):
        found = doctest.testmod(module)
        assert found.attempted > 1
        assert found.failed == 0
