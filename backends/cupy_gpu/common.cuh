// What every kernel's text begins with: numbers as they are stored, the functions that rules may call, packs.
// Compiled by NVRTC, which has no header files here, and by a host compiler for tests: so nothing is included.
// REAL is what is computed with (float or double), WEIGHT and GRADIENT what is stored.

typedef REAL Real;
typedef unsigned int Word;
typedef unsigned long long Long;

struct Bfloat16 {
    unsigned short bits;
};
struct Float16 {
    unsigned short bits;
};

typedef WEIGHT Weight;
typedef GRADIENT Gradient;

// What a number's bits are as an integer: of numbers >= 0 the larger has the larger image, and a
// NaN of either sign the largest.
template <class T> struct ImageOf {
    typedef Word type;
};
template <> struct ImageOf<double> {
    typedef Long type;
};
typedef ImageOf<Real>::type Image;

__device__ __forceinline__ Word image_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ Long image_of(double x) { return (Long)__double_as_longlong(x); }
__device__ __forceinline__ float number_of(Word x) { return __uint_as_float(x); }
__device__ __forceinline__ double number_of(Long x) { return __longlong_as_double((long long)x); }

// 16-bit numbers: exact when widened, rounded to nearest, ties to even, when narrowed. NaN stays NaN.

__device__ __forceinline__ float wide(Bfloat16 x)
{
    return number_of((Word)x.bits << 16);
}

__device__ __forceinline__ Bfloat16 to_bfloat16(float x)
{
    const Word bits = image_of(x);
    // Rounding would carry a NaN of low payload into infinity.
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const Word rounded = nan ? bits | 0x400000u : bits + 0x7FFFu + (bits >> 16 & 1u);
    Bfloat16 narrow;
    narrow.bits = (unsigned short)(rounded >> 16);
    return narrow;
}

#ifdef __CUDA_ARCH__
__device__ __forceinline__ float wide(Float16 x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ Float16 to_float16(float x)
{
    Float16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
    return narrow;
}
#else
__device__ __forceinline__ float wide(Float16 x)
{
    const Word half = x.bits;
    const Word sign = (half & 0x8000u) << 16;
    const Word shifted = (half & 0x7FFFu) << 13;
    const Word exponent = shifted & 0x0F800000u;
    // A subnormal one is built as a sum with 2^-14, and the sum taken back exactly.
    const Word subnormal = image_of(number_of(shifted + (113u << 23)) - number_of(113u << 23));
    const Word finite = exponent == 0u ? subnormal : shifted + (112u << 23);
    return number_of(sign | (exponent == 0x0F800000u ? shifted + (224u << 23) : finite));
}

__device__ __forceinline__ Float16 to_float16(float x)
{
    const Word bits = image_of(x);
    const Word size = bits & 0x7FFFFFFFu;
    // The exponent's bias falls by 112; half a unit less one, and one more if odd, rounds ties to even.
    const Word normal = (size - (112u << 23) + 0xFFFu + (size >> 13 & 1u)) >> 13;
    // Beside 1/2 the last place is that of float16's subnormal numbers: adding it rounds to that place.
    const Word subnormal = image_of(number_of(size) + number_of(0x3F000000u)) - 0x3F000000u;
    const Word finite = size < 0x38800000u ? subnormal : normal;
    const Word large = size > 0x7F800000u ? 0x7E00u : 0x7C00u;
    Float16 narrow;
    narrow.bits = (unsigned short)((bits >> 16 & 0x8000u) | (size >= 0x477FF000u ? large : finite));
    return narrow;
}
#endif

__device__ __forceinline__ Real widened(float x) { return (Real)x; }
__device__ __forceinline__ Real widened(double x) { return (Real)x; }
__device__ __forceinline__ Real widened(Bfloat16 x) { return (Real)wide(x); }
__device__ __forceinline__ Real widened(Float16 x) { return (Real)wide(x); }

__device__ __forceinline__ void narrow_into(float &to, float x) { to = x; }
__device__ __forceinline__ void narrow_into(double &to, double x) { to = x; }
__device__ __forceinline__ void narrow_into(Bfloat16 &to, float x) { to = to_bfloat16(x); }
__device__ __forceinline__ void narrow_into(Float16 &to, float x) { to = to_float16(x); }

// The functions of an expression. Each is a choice of values with NumPy's result for NaN and for zeros.

__device__ __forceinline__ float square_root(float x) { return __fsqrt_rn(x); }
__device__ __forceinline__ double square_root(double x) { return __dsqrt_rn(x); }

template <class T> __device__ __forceinline__ T absolute(T x)
{
    return number_of(image_of(x) & ~(typename ImageOf<T>::type)0 >> 1);
}

template <class T> __device__ __forceinline__ T maximum(T x, T y)
{
    return x > y || x != x ? x : y;
}

template <class T> __device__ __forceinline__ T minimum(T x, T y)
{
    return x < y || x != x ? x : y;
}

template <class T> __device__ __forceinline__ T sign(T x)
{
    return x > (T)0 ? (T)1 : x < (T)0 ? (T)-1 : x == (T)0 ? (T)0 : x;
}

template <class T> __device__ __forceinline__ T select(bool condition, T x, T y)
{
    return condition ? x : y;
}

template <class T> __device__ __forceinline__ T ratio(T numerator, T denominator)
{
    return denominator == (T)0 ? (T)0 : numerator / denominator;
}

// N neighbours, read and written by one access; their address is a multiple of their size.

template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

template <int N, class T> __device__ __forceinline__ Pack<T, N> get(const T *from)
{
    return *reinterpret_cast<const Pack<T, N> *>(from);
}

template <int N, class T> __device__ __forceinline__ void put(T *to, const Pack<T, N> &pack)
{
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}
