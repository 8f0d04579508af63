"""The words of CUDA C that the shim defines, against their definitions, and that they are CUDA's.

Where NVRTC is installed every text is compiled for a device too: the shim invents no word and no signature.
Only 16-bit floats by name are left out, whose header NVRTC's wheel does not hold.
"""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest

from memopt_ref.backends.cupy_gpu import nvrtc
from memopt_ref.backends.cupy_gpu.kernel import Kernel
from tests.cuda_sim import build
from tests.cuda_sim.device import KernelError, SimulatedDevice, Text

pytestmark = pytest.mark.skipif(not build.available()[0], reason=build.available()[1])

WORDS = np.concatenate(
    [
        np.array([0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF], np.uint32),
        np.random.default_rng(0).integers(0, 2**32, 500, dtype=np.uint32),
    ]
)
OTHERS = WORDS[::-1].copy()
BITS = {
    "__popc(a)": lambda a, b: [x.bit_count() for x in a],
    "__ffs((int)a)": lambda a, b: [(x & -x).bit_length() for x in a],
    "__clz((int)a)": lambda a, b: [32 - x.bit_length() for x in a],
    "__brev(a)": lambda a, b: [int(f"{x:032b}"[::-1], 2) for x in a],
    "__umulhi(a, b)": lambda a, b: [x * y >> 32 for x, y in zip(a, b, strict=True)],
    "(unsigned)__umul64hi((unsigned long long)a << 32 | b, (unsigned long long)b << 32 | a)": lambda a, b: [
        ((x << 32 | y) * (y << 32 | x) >> 64) & 0xFFFFFFFF for x, y in zip(a, b, strict=True)
    ],
    "__funnelshift_l(a, b, a & 31)": lambda a, b: [
        (((y << 32 | x) << (x & 31)) >> 32) & 0xFFFFFFFF for x, y in zip(a, b, strict=True)
    ],
    "__funnelshift_r(a, b, a & 31)": lambda a, b: [
        ((y << 32 | x) >> (x & 31)) & 0xFFFFFFFF for x, y in zip(a, b, strict=True)
    ],
    "__byte_perm(a, b, 0x7c10)": lambda a, b: [
        x & 0xFFFF | (0xFF0000 if y >> 7 & 1 else 0) | y & 0xFF000000 for x, y in zip(a, b, strict=True)
    ],
    "__popcll((unsigned long long)a << 32 | b)": lambda a, b: [
        (x << 32 | y).bit_count() for x, y in zip(a, b, strict=True)
    ],
    "__clzll((long long)a)": lambda a, b: [64 - x.bit_length() for x in a],
    "__float_as_uint(__uint_as_float(a))": lambda a, b: list(a),
    "(unsigned)max((int)a, (int)b)": lambda a, b: list(
        np.maximum(np.array(a, np.uint32).view("i4"), np.array(b, np.uint32).view("i4")).view("u4")
    ),
}


def each(body: str, n: int, *args, before: str = "", parameters: str, mode: str = "check") -> None:
    """Run a body once for each ``i < n``, in blocks of 64."""
    text = f"""{before}
extern "C" __global__ void f({parameters}, const int n)
{{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {{ {body} }}
}}"""
    device = SimulatedDevice(mode)
    device.launch(checked(text, headers=mode == "check"), (-(-n // 64),), (64,), (*args, np.int32(n)))


@functools.cache
def checked(text: str, headers: bool = True) -> Text:
    """The kernel ``f`` of a text that NVRTC compiles without a warning, if NVRTC is there to be asked."""
    if headers and nvrtc.available():
        compiled = nvrtc.compiled(Kernel("f", text), 90)
        assert "warning" not in compiled.log, compiled.log
    return Text("f", text)


def test_functions_of_bits():
    n, out = WORDS.size, np.zeros((len(BITS), WORDS.size), np.uint32)
    body = "const unsigned a = x[i], b = y[i];" + "".join(
        f"out[{k} * n + i] = {word};" for k, word in enumerate(BITS)
    )
    each(body, n, WORDS, OTHERS, out, parameters="const unsigned *x, const unsigned *y, unsigned *out")
    for row, (word, expected) in zip(out, BITS.items(), strict=True):
        assert row.tolist() == [int(v) for v in expected(WORDS.tolist(), OTHERS.tolist())], word


def test_16_bit_floats_have_the_bits_of_numpy_and_ml_dtypes():
    """All halves to float and back, and the floats where rounding is tight."""
    halves = np.arange(2**16, dtype=np.uint16)
    wide = np.zeros((2, halves.size), np.float32)
    body = (
        "const __half h = {x[i]}; const __nv_bfloat16 b = {x[i]};"
        "out[i] = __half2float(h); out[n + i] = __bfloat162float(b);"
    )
    each(body, halves.size, halves, wide, parameters="const unsigned short *x, float *out", mode="plain")
    f16, b16 = halves.view(np.float16).astype(np.float32), halves.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(wide[0], f16, equal_nan=True)
    assert np.array_equal(wide[1], b16, equal_nan=True)
    steps = np.array([-1, 0, 1], np.int32)
    beside = (f16.view(np.uint32)[:, None] + 0x1000 + steps).ravel()
    ties = np.concatenate([beside, halves * np.uint32(65536) + 0x8000])
    floats = np.concatenate([ties.astype(np.uint32).view(np.float32), f16, b16])
    out = np.zeros((2, floats.size), np.uint16)
    body = "out[i] = __float2half_rn(x[i]).bits; out[n + i] = __float2bfloat16_rn(x[i]).bits;"
    each(body, floats.size, floats, out, parameters="const float *x, unsigned short *out", mode="plain")
    finite = ~np.isnan(floats)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(out[0][finite], floats.astype(np.float16).view(np.uint16)[finite])
        assert np.array_equal(out[1][finite], floats.astype(ml_dtypes.bfloat16).view(np.uint16)[finite])
    assert np.isnan(out[0].view(np.float16)[~finite]).all()
    assert np.isnan(out[1].view(ml_dtypes.bfloat16).astype(np.float32)[~finite]).all()


def test_conversions_to_integers_clamp_and_turn_nan_into_zero():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 5e9, np.nan, np.inf, -np.inf], np.float32)
    out = np.zeros((4, x.size), np.int64)
    body = (
        "out[i] = __float2int_rn(x[i]); out[n + i] = __float2int_rz(x[i]);"
        "out[2 * n + i] = __float2uint_rn(x[i]); out[3 * n + i] = __float2int_rd(x[i]);"
    )
    each(body, x.size, x, out, parameters="const float *x, long long *out")
    top, bottom = 2**31 - 1, -(2**31)
    assert out[0].tolist() == [0, 2, 2, 0, -2, top, bottom, top, 0, top, bottom]
    assert out[1].tolist() == [0, 1, 2, 0, -1, top, bottom, top, 0, top, bottom]
    assert out[2].tolist() == [0, 2, 2, 0, 0, 3_000_000_000, 0, 2**32 - 1, 0, 2**32 - 1, 0]
    assert out[3].tolist() == [0, 1, 2, -1, -2, top, bottom, top, 0, top, bottom]


SHUFFLES = {
    "__shfl_sync(m, x, (lane * 7) & 31)": lambda lane: lane * 7 & 31,
    "__shfl_sync(m, x, 3, 8)": lambda lane: (lane & ~7) + 3,
    "__shfl_up_sync(m, x, 3)": lambda lane: lane - 3 if lane >= 3 else lane,
    "__shfl_up_sync(m, x, 2, 4)": lambda lane: lane - 2 if lane & 3 >= 2 else lane,
    "__shfl_down_sync(m, x, 5)": lambda lane: lane + 5 if lane < 27 else lane,
    "__shfl_down_sync(m, x, 1, 16)": lambda lane: lane + 1 if lane & 15 < 15 else lane,
    "__shfl_xor_sync(m, x, 12)": lambda lane: lane ^ 12,
}


@pytest.mark.parametrize("order", ["forward", "reverse", 5])
@pytest.mark.parametrize("kind", ["float", "double", "int", "unsigned long long"])
def test_shuffles(kind, order):
    dtype = {"float": "f4", "double": "f8", "int": "i4"}.get(kind, "u8")
    x, out = np.arange(64).astype(dtype) + 100, np.zeros((len(SHUFFLES), 64), dtype)
    body = "".join(f"out[{64 * k} + threadIdx.x] = {word};" for k, word in enumerate(SHUFFLES))
    text = f"""extern "C" __global__ void f(const {kind} *in, {kind} *out)
{{
    const unsigned m = 0xffffffffu;
    const int lane = threadIdx.x & 31;
    const {kind} x = in[threadIdx.x];
    {body}
}}"""
    SimulatedDevice("check", order).launch(checked(text), (1,), (64,), (x, out))
    for row, (word, source) in zip(out, SHUFFLES.items(), strict=True):
        assert row.tolist() == [x[t & 32 | source(t & 31)] for t in range(64)], word


@pytest.mark.parametrize("order", ["forward", "reverse", 5])
def test_votes_matches_and_reductions_by_the_lanes_of_a_mask(order):
    """Half of each warp, which is the odd lanes; the last warp is short."""
    words = {
        "__ballot_sync(m, a & 1)": lambda v, own: sum(1 << lane for lane, x in v.items() if x & 1),
        "__match_any_sync(m, a & 3)": lambda v, own: sum(
            1 << lane for lane, x in v.items() if x & 3 == own & 3
        ),
        "(unsigned)__any_sync(m, a == 7)": lambda v, own: 7 in v.values(),
        "(unsigned)__all_sync(m, a != 7)": lambda v, own: 7 not in v.values(),
        "__reduce_add_sync(m, a)": lambda v, own: sum(v.values()) & 0xFFFFFFFF,
        "__reduce_max_sync(m, a)": lambda v, own: max(v.values()),
        "__reduce_min_sync(m, a)": lambda v, own: min(v.values()),
        "(unsigned)__reduce_max_sync(m, (int)a)": lambda v, own: (
            max((x ^ 1 << 31) for x in v.values()) ^ 1 << 31
        ),
        "(unsigned)__reduce_min_sync(m, (int)a)": lambda v, own: (
            min((x ^ 1 << 31) for x in v.values()) ^ 1 << 31
        ),
        "__reduce_or_sync(m, a)": lambda v, own: int(np.bitwise_or.reduce(list(v.values()))),
        "__reduce_and_sync(m, a)": lambda v, own: int(np.bitwise_and.reduce(list(v.values()))),
        "__reduce_xor_sync(m, a)": lambda v, own: int(np.bitwise_xor.reduce(list(v.values()))),
    }
    n, masks = 50, (0xFFFFFFFF, 0xAAAAAAAA)
    values, out = WORDS[:n].copy(), np.zeros((2, len(words), n), np.uint32)
    body = "".join(f"out[{n * k} + t] = {word};" for k, word in enumerate(words))
    text = f"""extern "C" __global__ void f(const unsigned *in, unsigned *out)
{{
    const int t = threadIdx.x; const unsigned a = in[t];
    {{ const unsigned m = ~0u; {body} }}
    out += {n * len(words)};
    if (t & 1) {{ const unsigned m = {"0xaaaaaaaau"} & (t < 32 ? ~0u : 0x3ffffu); {body} }}
}}"""
    SimulatedDevice("check", order).launch(checked(text), (1,), (n,), (values, out))
    for which, mask in enumerate(masks):
        for row, (word, expected) in zip(out[which], words.items(), strict=True):
            for t in range(n):
                lanes = {lane: int(values[t & 32 | lane]) for lane in range(32) if (t & 32 | lane) < n}
                taking = {lane: v for lane, v in lanes.items() if mask >> lane & 1}
                want = expected(taking, int(values[t])) if mask >> (t & 31) & 1 else 0
                assert row[t] == want, (word, mask, t)


def test_barriers_that_vote_and_indices_in_three_directions():
    text = """extern "C" __global__ void f(int *out, int *where)
{
    const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const int n = __syncthreads_count(t % 3 == 0);
    const int all = __syncthreads_and(t < 24), any = __syncthreads_or(t > 24);
    const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    where[24 * b + t] = threadIdx.z * 100 + threadIdx.y * 10 + threadIdx.x;
    if (t == 0) out[b] = n * 100 + all * 10 + any;
}"""
    out, where = np.zeros(12, np.int32), np.zeros(12 * 24, np.int32)
    SimulatedDevice("check", 3).launch(checked(text), (3, 2, 2), (4, 3, 2), (out, where))
    assert (out == 810).all()
    inside = [100 * z + 10 * y + x for z in range(2) for y in range(3) for x in range(4)]
    assert where.tolist() == inside * 12


ATOMICS = {
    "atomicAdd(p, v)": lambda a: int(a.sum()) & 0xFFFFFFFF,
    "atomicSub(p, v)": lambda a: -int(a.sum()) & 0xFFFFFFFF,
    "atomicMax(p, v)": lambda a: int(a.max()),
    "atomicMin(p, v)": lambda a: 0,
    "atomicOr(p, v)": lambda a: int(np.bitwise_or.reduce(a)),
    "atomicXor(p, v)": lambda a: int(np.bitwise_xor.reduce(a)),
    "atomicAnd(p, v)": lambda a: 0,
    "atomicInc(p, 99u)": lambda a: a.size % 100,
}


@pytest.mark.parametrize("order", ["forward", "reverse", 5])
def test_atomics_on_global_and_shared_memory(order):
    values, k = WORDS[:480].copy(), len(ATOMICS)
    body = "".join(f"{{ unsigned *p = out + {i}; {word}; }}" for i, word in enumerate(ATOMICS))
    text = f"""extern "C" __global__ void f(const unsigned *in, unsigned *out, unsigned *largest, double *sum)
{{
    __shared__ unsigned top;
    const unsigned v = in[blockIdx.x * blockDim.x + threadIdx.x];
    {body}
    if (threadIdx.x == 0) top = 0;
    __syncthreads();
    unsigned old = 0, seen;
    while ((seen = atomicCAS(&top, old, v > old ? v : old)) != old) old = seen;
    __syncthreads();
    if (threadIdx.x == 0) largest[blockIdx.x] = top;
    atomicAdd(sum, 0.5);
}}"""
    out, largest, total = np.zeros(k, np.uint32), np.zeros(5, np.uint32), np.zeros(1)
    SimulatedDevice("check", order).launch(checked(text), (5,), (96,), (values, out, largest, total))
    assert out.tolist() == [f(values) for f in ATOMICS.values()]
    assert np.array_equal(largest, values.reshape(5, 96).max(axis=1))
    assert total[0] == 240.0


def test_shared_memory_is_forgotten_between_blocks():
    text = """extern "C" __global__ void f(unsigned *out)
{ __shared__ unsigned s; extern __shared__ __align__(16) unsigned char raw[];
  out[2 * blockIdx.x] = s; out[2 * blockIdx.x + 1] = raw[3]; s = 1; raw[3] = 1; }"""
    out = np.zeros(6, np.uint32)
    SimulatedDevice("plain").launch(checked(text), (3,), (1,), (out,), 16)
    assert out.tolist() == [0xFFFFFFFF, 0xFF] * 3
    with pytest.raises(KernelError, match="uninitialised"):
        SimulatedDevice("check").launch(Text("f", text), (3,), (1,), (out,), 16)
