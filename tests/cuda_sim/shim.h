// CUDA C for g++: with this header before it the text of a kernel compiles as C++ and runs on the CPU.
//
// It includes nothing, so that a kernel compiles in a third of a second. What needs other threads
// (barriers, votes, shuffles) or the checker (atomics) is declared here and defined in runtime.cpp. All
// names of the shim's own begin with sim_, and its template parameters too: -DT=float must hurt nobody.
// __CUDACC__ is not defined, so that inline PTX can stand aside.
#pragma once
#define CUDA_SIM 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
// Own section: the runtime knows its bounds and poisons it before each block.
#define __shared__ static __attribute__((section("sim_shared")))
#define SIM_RAW __attribute__((no_sanitize("thread", "undefined", "kernel-address")))
#define SIM_INLINE static inline __attribute__((unused))

typedef unsigned long long sim_word;
extern "C" {
struct uint3 { unsigned x, y, z; };
extern uint3 threadIdx, blockIdx;
void sim_barrier(int line);
int sim_barrier_vote(int line, int kind, int predicate);
sim_word sim_shuffle(unsigned mask, sim_word value, int source, int own);
unsigned sim_ballot(unsigned mask, int predicate);
unsigned sim_match(unsigned mask, sim_word value);
sim_word sim_reduce(unsigned mask, sim_word value, int kind);
void sim_syncwarp(unsigned mask);
void sim_atomic(void *address, int size, void *from);
void sim_trap();
float sim_half_to_float(unsigned short bits);
unsigned short sim_float_to_half(float value);
}
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
extern "C" dim3 blockDim, gridDim;
static const int warpSize = 32;

// ---- vectors: aligned as on the device ------------------------------------------------------------------
#define SIM_VECTORS(type, name, aligned) \
    struct aligned(2) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct aligned(4) name##4 { type x, y, z, w; }; \
    SIM_INLINE name##2 make_##name##2(type x, type y) { return {x, y}; } \
    SIM_INLINE name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define SIM_1(n) __align__(n)
#define SIM_2(n) __align__(2 * n)
#define SIM_4(n) __align__(4 * n)
#define SIM_8(n) __align__(16)
#define uint3 sim_uint3_twin
SIM_VECTORS(unsigned, uint, SIM_4)
#undef uint3
SIM_VECTORS(signed char, char, SIM_1)
SIM_VECTORS(unsigned char, uchar, SIM_1)
SIM_VECTORS(short, short, SIM_2)
SIM_VECTORS(unsigned short, ushort, SIM_2)
SIM_VECTORS(int, int, SIM_4)
SIM_VECTORS(float, float, SIM_4)
SIM_VECTORS(double, double, SIM_8)
SIM_VECTORS(long long, longlong, SIM_8)
SIM_VECTORS(sim_word, ulonglong, SIM_8)

// ---- mathematics: GCC knows these names and inlines what one instruction does ----------------------------
#define SIM_MATH1(d, s) \
    extern "C" double d(double) noexcept; \
    extern "C" float s(float) noexcept; \
    SIM_INLINE float d(float x) { return s(x); }
#define SIM_MATH2(d, s) \
    extern "C" double d(double, double) noexcept; \
    extern "C" float s(float, float) noexcept; \
    SIM_INLINE float d(float x, float y) { return s(x, y); }
SIM_MATH1(sqrt, sqrtf) SIM_MATH1(fabs, fabsf) SIM_MATH1(floor, floorf) SIM_MATH1(ceil, ceilf)
SIM_MATH1(trunc, truncf) SIM_MATH1(rint, rintf) SIM_MATH1(round, roundf) SIM_MATH1(exp, expf)
SIM_MATH1(exp2, exp2f) SIM_MATH1(log, logf) SIM_MATH1(log2, log2f) SIM_MATH1(tanh, tanhf)
SIM_MATH1(cbrt, cbrtf) SIM_MATH1(sin, sinf) SIM_MATH1(cos, cosf) SIM_MATH2(fmin, fminf)
SIM_MATH2(fmax, fmaxf) SIM_MATH2(pow, powf) SIM_MATH2(fmod, fmodf) SIM_MATH2(copysign, copysignf)
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
extern "C" int abs(int) noexcept;
SIM_INLINE float rsqrtf(float x) { return 1.f / sqrtf(x); }
SIM_INLINE double rsqrt(double x) { return 1. / sqrt(x); }
template <class sim_a> SIM_INLINE bool isnan(sim_a x) { return __builtin_isnan(x); }
template <class sim_a> SIM_INLINE bool isinf(sim_a x) { return __builtin_isinf(x); }
template <class sim_a> SIM_INLINE bool isfinite(sim_a x) { return __builtin_isfinite(x); }
template <class sim_a> SIM_INLINE bool signbit(sim_a x) { return __builtin_signbit(x); }
#define SIM_MINMAX(type) \
    SIM_INLINE type min(type a, type b) { return b < a ? b : a; } \
    SIM_INLINE type max(type a, type b) { return a < b ? b : a; }
SIM_MINMAX(int) SIM_MINMAX(unsigned) SIM_MINMAX(long) SIM_MINMAX(unsigned long) SIM_MINMAX(long long)
SIM_MINMAX(sim_word)
SIM_INLINE float min(float a, float b) { return fminf(a, b); }
SIM_INLINE float max(float a, float b) { return fmaxf(a, b); }
SIM_INLINE double min(double a, double b) { return fmin(a, b); }
SIM_INLINE double max(double a, double b) { return fmax(a, b); }

// ---- bits ------------------------------------------------------------------------------------------------
template <class sim_to, class sim_from> SIM_INLINE sim_to sim_cast(sim_from x) {
    static_assert(sizeof(sim_to) == sizeof(sim_from), "sizes differ");
    return __builtin_bit_cast(sim_to, x);
}
SIM_INLINE unsigned __float_as_uint(float x) { return sim_cast<unsigned>(x); }
SIM_INLINE int __float_as_int(float x) { return sim_cast<int>(x); }
SIM_INLINE float __uint_as_float(unsigned x) { return sim_cast<float>(x); }
SIM_INLINE float __int_as_float(int x) { return sim_cast<float>(x); }
SIM_INLINE long long __double_as_longlong(double x) { return sim_cast<long long>(x); }
SIM_INLINE double __longlong_as_double(long long x) { return sim_cast<double>(x); }
SIM_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
SIM_INLINE int __popcll(sim_word x) { return __builtin_popcountll(x); }
SIM_INLINE int __ffs(int x) { return __builtin_ffs(x); }
SIM_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
SIM_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
SIM_INLINE int __clzll(long long x) { return x ? __builtin_clzll((sim_word)x) : 64; }
SIM_INLINE sim_word __brevll(sim_word x) {
    x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1;
    x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4;
    return __builtin_bswap64(x);
}
SIM_INLINE unsigned __brev(unsigned x) { return (unsigned)(__brevll(x) >> 32); }
SIM_INLINE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((sim_word)a * b >> 32); }
SIM_INLINE int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
SIM_INLINE sim_word __umul64hi(sim_word a, sim_word b) { return (sim_word)((unsigned __int128)a * b >> 64); }
SIM_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    sim_word bytes = (sim_word)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = s >> 4 * i & 15, byte = (unsigned)(bytes >> 8 * (pick & 7)) & 255;
        out |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return out;
}
SIM_INLINE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((sim_word)hi << 32 | lo) << (n & 31)) >> 32);
}
SIM_INLINE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)(((sim_word)hi << 32 | lo) >> (n & 31));
}

// ---- arithmetic that is never contracted, and conversions as the device does them ------------------------
#if defined(__x86_64__)
#define SIM_KEEP(x) __asm__("" : "+x"(x))
#else
#define SIM_KEEP(x) __asm__("" : "+w"(x))
#endif
#define SIM_ROUNDED(name, type, expression) \
    SIM_INLINE type name(type a, type b) { type r = expression; SIM_KEEP(r); return r; }
SIM_ROUNDED(__fadd_rn, float, a + b) SIM_ROUNDED(__fsub_rn, float, a - b) SIM_ROUNDED(__fmul_rn, float, a * b)
SIM_ROUNDED(__fdiv_rn, float, a / b) SIM_ROUNDED(__dadd_rn, double, a + b) SIM_ROUNDED(__dsub_rn, double,
    a - b)
SIM_ROUNDED(__dmul_rn, double, a * b) SIM_ROUNDED(__ddiv_rn, double, a / b)
SIM_INLINE float __fsqrt_rn(float a) { return sqrtf(a); }
SIM_INLINE float __frcp_rn(float a) { return 1.f / a; }
SIM_INLINE double __dsqrt_rn(double a) { return sqrt(a); }
SIM_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
SIM_INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
SIM_INLINE float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
// NaN becomes 0 and the rest is clamped, as PTX says; a C cast of such a number is undefined.
SIM_INLINE int sim_to_int(double x) {
    return x != x ? 0 : x >= 2147483647. ? 2147483647 : x <= -2147483648. ? -2147483647 - 1 : (int)x;
}
SIM_INLINE unsigned sim_to_unsigned(double x) {
    return x != x || x <= 0. ? 0u : x >= 4294967295. ? 4294967295u : (unsigned)x;
}
#define SIM_FROM_FLOAT(suffix, f) \
    SIM_INLINE int __float2int_##suffix(float x) { return sim_to_int(f((double)x)); } \
    SIM_INLINE unsigned __float2uint_##suffix(float x) { return sim_to_unsigned(f((double)x)); }
SIM_FROM_FLOAT(rn, rint) SIM_FROM_FLOAT(rz, trunc) SIM_FROM_FLOAT(rd, floor) SIM_FROM_FLOAT(ru, ceil)
SIM_INLINE float __int2float_rn(int x) { return (float)x; }
SIM_INLINE float __uint2float_rn(unsigned x) { return (float)x; }
SIM_INLINE float __ll2float_rn(long long x) { return (float)x; }
SIM_INLINE float __double2float_rn(double x) { return (float)x; }

// ---- 16-bit floats: NVRTC brings no headers, so kernels that want them by name must bring their own there
// --
struct __half { unsigned short bits; };
struct __nv_bfloat16 { unsigned short bits; };
typedef __half half;
SIM_INLINE float __half2float(__half h) { return sim_half_to_float(h.bits); }
SIM_INLINE __half __float2half_rn(float x) { return {sim_float_to_half(x)}; }
SIM_INLINE __half __float2half(float x) { return __float2half_rn(x); }
SIM_INLINE float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float((unsigned)h.bits << 16); }
SIM_INLINE __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned u = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {(unsigned short)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}
SIM_INLINE __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

// ---- memory ----------------------------------------------------------------------------------------------
template <class sim_a> SIM_INLINE sim_a __ldg(const sim_a *p) { return *p; }
template <class sim_a> SIM_INLINE sim_a __ldcs(const sim_a *p) { return *p; }
template <class sim_a> SIM_INLINE sim_a __ldcg(const sim_a *p) { return *p; }
template <class sim_a> SIM_INLINE sim_a __ldca(const sim_a *p) { return *p; }
template <class sim_a> SIM_INLINE sim_a __ldlu(const sim_a *p) { return *p; }
template <class sim_a> SIM_INLINE void __stcs(sim_a *p, sim_a x) { *p = x; }
template <class sim_a> SIM_INLINE void __stcg(sim_a *p, sim_a x) { *p = x; }
template <class sim_a> SIM_INLINE void __stwt(sim_a *p, sim_a x) { *p = x; }
// Fences order nothing here: what depends on one between blocks is a race, and reported as such.
SIM_INLINE void __threadfence() {}
SIM_INLINE void __threadfence_block() {}
SIM_INLINE void __trap() { sim_trap(); }

template <class sim_a> struct sim_same { typedef sim_a type; };
#define SIM_ATOMIC(name, expression) \
    template <class sim_a> SIM_RAW __attribute__((noinline)) sim_a name(sim_a *p, \
        typename sim_same<sim_a>::type v) { \
        sim_atomic((void *)p, sizeof(sim_a), __builtin_return_address(0)); \
        sim_a old = *p; \
        *p = expression; \
        return old; \
    }
SIM_ATOMIC(atomicAdd, (sim_a)(old + v)) SIM_ATOMIC(atomicSub, (sim_a)(old - v)) SIM_ATOMIC(atomicExch, v)
SIM_ATOMIC(atomicMax, old < v ? v : old) SIM_ATOMIC(atomicMin, v < old ? v : old)
SIM_ATOMIC(atomicAnd, (sim_a)(old & v)) SIM_ATOMIC(atomicOr, (sim_a)(old | v)) SIM_ATOMIC(atomicXor,
    (sim_a)(old ^ v))
SIM_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
template <class sim_a>
SIM_RAW __attribute__((noinline)) sim_a atomicCAS(
    sim_a *p, typename sim_same<sim_a>::type compare, typename sim_same<sim_a>::type v) {
    sim_atomic((void *)p, sizeof(sim_a), __builtin_return_address(0));
    sim_a old = *p;
    if (old == compare) *p = v;
    return old;
}

// ---- other threads ---------------------------------------------------------------------------------------
#define __syncthreads() sim_barrier(__LINE__)
#define __syncthreads_count(p) sim_barrier_vote(__LINE__, 0, p)
#define __syncthreads_and(p) sim_barrier_vote(__LINE__, 1, p)
#define __syncthreads_or(p) sim_barrier_vote(__LINE__, 2, p)
SIM_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { sim_syncwarp(mask); }
SIM_INLINE unsigned sim_thread() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
template <class sim_a> SIM_INLINE sim_word sim_word_of(sim_a x) {
    sim_word word = 0;
    __builtin_memcpy(&word, &x, sizeof(sim_a));
    return word;
}
template <class sim_a> SIM_INLINE sim_a sim_shuffled(unsigned mask, sim_a x, int source, int own) {
    sim_word word = sim_shuffle(mask, sim_word_of(x), source, own);
    __builtin_memcpy(&x, &word, sizeof(sim_a));
    return x;
}
// The lane read is in the caller's own segment of `width` lanes; outside it the lane keeps its value.
template <class sim_a> SIM_INLINE sim_a __shfl_sync(unsigned mask, sim_a x, int source, int width = 32) {
    int lane = (int)(sim_thread() & 31u);
    return sim_shuffled(mask, x, (lane & ~(width - 1)) | (source & (width - 1)), 0);
}
template <class sim_a> SIM_INLINE sim_a __shfl_up_sync(unsigned mask, sim_a x, unsigned by, int width = 32) {
    int lane = (int)(sim_thread() & 31u), from = lane - (int)by;
    return sim_shuffled(mask, x, from, from < (lane & ~(width - 1)));
}
template <class sim_a> SIM_INLINE sim_a __shfl_down_sync(unsigned mask, sim_a x, unsigned by,
    int width = 32) {
    int lane = (int)(sim_thread() & 31u), from = lane + (int)by;
    return sim_shuffled(mask, x, from, from > (lane | (width - 1)));
}
template <class sim_a> SIM_INLINE sim_a __shfl_xor_sync(unsigned mask, sim_a x, int by, int width = 32) {
    int lane = (int)(sim_thread() & 31u), from = lane ^ by;
    return sim_shuffled(mask, x, from, from > (lane | (width - 1)));
}
SIM_INLINE unsigned __ballot_sync(unsigned mask, int p) { return sim_ballot(mask, p); }
SIM_INLINE int __any_sync(unsigned mask, int p) { return sim_ballot(mask, p) != 0; }
SIM_INLINE int __all_sync(unsigned mask, int p) { return sim_ballot(mask, !p) == 0; }
template <class sim_a> SIM_INLINE unsigned __match_any_sync(unsigned mask, sim_a x) {
    return sim_match(mask, sim_word_of(x));
}
// Kinds of sim_reduce: 0 sum, 1 least and 2 largest unsigned, 3 least and 4 largest signed, 5 and, 6 or, 7
// xor.
#define SIM_REDUCE(name, signed_kind, unsigned_kind) \
    SIM_INLINE int name(unsigned m, int x) { return (int)(unsigned)sim_reduce(m, (unsigned)x, \
        signed_kind); } \
    SIM_INLINE unsigned name(unsigned m, unsigned x) { return (unsigned)sim_reduce(m, x, unsigned_kind); }
SIM_REDUCE(__reduce_add_sync, 0, 0) SIM_REDUCE(__reduce_min_sync, 3, 1) SIM_REDUCE(__reduce_max_sync, 4, 2)
SIM_INLINE unsigned __reduce_and_sync(unsigned m, unsigned x) { return (unsigned)sim_reduce(m, x, 5); }
SIM_INLINE unsigned __reduce_or_sync(unsigned m, unsigned x) { return (unsigned)sim_reduce(m, x, 6); }
SIM_INLINE unsigned __reduce_xor_sync(unsigned m, unsigned x) { return (unsigned)sim_reduce(m, x, 7); }

// ---- launching: one entry for all kernels, in the form of cuLaunchKernel ----------------------------------
template <class... sim_a> struct sim_call {
    SIM_RAW sim_call(void (*kernel)(sim_a...), sim_a... a) { kernel(a...); }
};
template <class... sim_a> SIM_RAW void sim_invoke(void (*kernel)(sim_a...), void **p) {
    sim_call<sim_a...>{kernel, *(sim_a *)*p++...};  // braces: the arguments are evaluated in their order
}
template <class sim_a> struct sim_size { enum { bytes = sizeof(sim_a), item = 0 }; };
template <> struct sim_size<void *> { enum { bytes = 8, item = 1 }; };
template <class sim_a> struct sim_size<sim_a *> { enum { bytes = 8, item = sizeof(sim_a) }; };
template <class... sim_a> const char *sim_types(void (*)(sim_a...)) { return __PRETTY_FUNCTION__; }
template <class... sim_a> void sim_sizes(void (*)(sim_a...), int *out) {
    int sizes[] = {0, (sim_size<sim_a>::bytes | sim_size<sim_a>::item << 8)...};
    for (unsigned i = 0; i < sizeof...(sim_a); i++) out[i] = sizes[i + 1];
}
#define SIM_EXPORT(kernel) \
    extern "C" SIM_RAW void sim_run_##kernel(void **p) { sim_invoke(kernel, p); } \
    extern "C" SIM_RAW const char *sim_types_##kernel() { return sim_types(kernel); } \
    extern "C" SIM_RAW void sim_sizes_##kernel(int *out) { sim_sizes(kernel, out); }
extern "C" {
extern char sim_arena[] __attribute__((aligned(256)));
__attribute__((weak, visibility("hidden"))) extern char __start_sim_shared, __stop_sim_shared;
__attribute__((visibility("hidden"))) extern char __ehdr_start, _end, _DYNAMIC;
}
#define SIM_IMAGE \
    extern "C" SIM_RAW void sim_image(void **out) { \
        out[0] = &__start_sim_shared, out[1] = &__stop_sim_shared, out[2] = &__ehdr_start, out[3] = &_end; \
        out[4] = &_DYNAMIC; \
    }
