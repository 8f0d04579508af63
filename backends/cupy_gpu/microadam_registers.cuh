// The entries of a block in registers: a thread has RUNS runs of eight neighbours, whose error is a word of
// codes, and a bucket is the runs of BUCKET / 8 neighbouring lanes.

struct Entries {
    Real a[RUNS][8];
    int length;

    static __device__ __forceinline__ int first_of(int run) { return (run * BLOCK + (int)threadIdx.x) * 8; }

    template <class Visit> __device__ __forceinline__ void runs(Visit visit)
    {
#pragma unroll
        for (int r = 0; r < RUNS; ++r)
            if (first_of(r) < length)
                visit(first_of(r), a[r]);
    }

    // An entry of a run; registers have no addresses.
    static __device__ __forceinline__ Real pick(const Real *a, int n)
    {
        Real x = a[0];
#pragma unroll
        for (int k = 1; k < 8; ++k)
            x = n == k ? a[k] : x;
        return x;
    }
};

__device__ __forceinline__ Real smaller(Real x, Real y)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (sizeof(Real) == 4) {
        float least;
        asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"((float)x), "f"((float)y));
        return (Real)least;
    }
#endif
    return minimum(x, y);
}

__device__ __forceinline__ Real larger(Real x, Real y)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (sizeof(Real) == 4) {
        float most;
        asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"((float)x), "f"((float)y));
        return (Real)most;
    }
#endif
    return maximum(x, y);
}

// a = g + Q^-1(e); pointers are to the block's first.
__device__ __forceinline__ void
load(Entries &entries, const Weight *w, const Gradient *g, const Error &error, const Real decay)
{
#pragma unroll
    for (int r = 0; r < RUNS; ++r) {
        const int first = Entries::first_of(r);
        Real *const a = entries.a[r];
        const int count = entries.length - first;
        Word word = 0;
        Real low = (Real)0, unit = (Real)0;
        if (count > 0) {
            low = widened(error.low[first / BUCKET]);
            unit = (widened(error.high[first / BUCKET]) - low) / error.levels;
        }
        if (count >= 8) {
            word = *reinterpret_cast<const Word *>(error.codes + first / 2);
#pragma unroll
            for (int k = 0; k < 8; k += VEC) {
                const Pack<Gradient, VEC> some = get<VEC>(g + first + k);
#if L2
                const Pack<Weight, VEC> beside = get<VEC>(w + first + k);
#endif
#pragma unroll
                for (int n = 0; n < VEC; ++n) {
                    a[k + n] = widened(some.at[n]);
#if L2
                    const Real shrinks = decay * widened(beside.at[n]);
                    a[k + n] = a[k + n] + shrinks;
#endif
                }
            }
        } else {
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                a[n] = n < count ? widened(g[first + n]) : (Real)0;
#if L2
                const Real shrinks = n < count ? decay * widened(w[first + n]) : (Real)0;
                a[n] = a[n] + shrinks;
#endif
                if (n < count && n % 2 == 0)
                    word |= (Word)error.codes[first / 2 + n / 2] << 4 * n;
            }
        }
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            // Two codes a byte, the first in its high half.
            const Real held = (Real)(int)(word >> (4 * n ^ 4) & 15u) * unit + low;
            a[n] = alike(a[n] + held);
        }
        if (count < 8) {
#pragma unroll
            for (int n = 0; n < 8; ++n)
                a[n] = n < count ? a[n] : (Real)0;
        }
    }
}

// e = Q(a)
__device__ __forceinline__ void store(Entries &entries, const Error &error)
{
    const Real infinity = number_of(~(Image)0 << (sizeof(Real) == 4 ? 23 : 52) & ~(Image)0 >> 1);
#pragma unroll
    for (int r = 0; r < RUNS; ++r) {
        const int first = Entries::first_of(r);
        Real *const a = entries.a[r];
        const int count = entries.length - first;
        Real low = infinity, high = -infinity;
        if (count < 8) {
            // What is not there is like the first, which changes no bound.
#pragma unroll
            for (int n = 1; n < 8; ++n)
                a[n] = n < count ? a[n] : a[0];
        }
        if (count > 0) {
            low = high = a[0];
#pragma unroll
            for (int n = 1; n < 8; ++n) {
                low = smaller(low, a[n]);
                high = larger(high, a[n]);
            }
        }
#pragma unroll
        for (int apart = 1; apart < BUCKET / 8; apart *= 2) {
            low = smaller(low, __shfl_xor_sync(ALL, low, apart));
            high = larger(high, __shfl_xor_sync(ALL, high, apart));
        }
        Value kept_low, kept_high;
        keep(kept_low, low + (Real)0);
        keep(kept_high, high + (Real)0);
        if (count > 0 && threadIdx.x % (BUCKET / 8) == 0) {
            error.low[first / BUCKET] = kept_low;
            error.high[first / BUCKET] = kept_high;
        }
        const Coder coder(kept_low, kept_high, error.levels);
        Word word = 0;
#pragma unroll
        for (int n = 0; n < 8; ++n)
            word |= coder.code(a[n]) << (4 * n ^ 4);
        if (count >= 8)
            *reinterpret_cast<Word *>(error.codes + first / 2) = word;
        else
            for (int k = 0; 2 * k < count; ++k) {
                const Word both = 2 * k + 1 < count ? 0xFFu : 0xF0u;
                error.codes[first / 2 + k] = (unsigned char)(word >> 8 * k & both);
            }
    }
}
