// The entries of a block in shared memory, or in memory: blocks, buckets and codes of any kind.
// ERROR: 0 none, 1 the error itself, 2 a code a byte, 3 two codes a byte.

struct Entries {
    Real *a;
    int length;

    template <class Visit> __device__ __forceinline__ void runs(Visit visit)
    {
        for (int first = (int)threadIdx.x * 8; first < length; first += BLOCK * 8)
            visit(first, a + first);
    }

    static __device__ __forceinline__ Real pick(const Real *a, int n) { return a[n]; }
};

// a = g + Q^-1(e); pointers are to the block's first.
__device__ __forceinline__ void
load(Entries &entries, const Weight *w, const Gradient *g, const Error &error, const Real decay)
{
    const int rounded = (entries.length + 7) / 8 * 8;
    for (int j = (int)threadIdx.x; j < rounded; j += BLOCK) {
        Real a = (Real)0;
        if (j < entries.length) {
#if ERROR == 0
            const Real held = (Real)0;
#elif ERROR == 1
            const Real held = error.exact[j];
#else
            const Word code = ERROR == 3 ? error.codes[j / 2] >> (j % 2 ? 0 : 4) & 15u : error.codes[j];
            const Real low = widened(error.low[j / error.bucket]);
            const Real unit = (widened(error.high[j / error.bucket]) - low) / error.levels;
            const Real held = (Real)(int)code * unit + low;
#endif
#if L2
            const Real shrinks = decay * widened(w[j]);
            a = alike(widened(g[j]) + shrinks + held);
#else
            a = alike(widened(g[j]) + held);
#endif
        }
        entries.a[j] = a;
    }
}

// e = Q(a); the kept entries were zeroed by their own threads.
__device__ __forceinline__ void store(Entries &entries, const Error &error)
{
#if ERROR > 0
    __syncthreads();
    const int length = entries.length;
#endif
#if ERROR == 1
    for (int j = (int)threadIdx.x; j < length; j += BLOCK)
        error.exact[j] = entries.a[j];
#elif ERROR > 1
    for (int q = (int)threadIdx.x / 32; q * (long long)error.bucket < length; q += BLOCK / 32) {
        const int begin = q * error.bucket;
        const int end = length - begin < error.bucket ? length : begin + error.bucket;
        Real low = entries.a[begin], high = low;
        for (int j = begin + (int)(threadIdx.x % 32); j < end; j += 32) {
            low = minimum(low, entries.a[j]);
            high = maximum(high, entries.a[j]);
        }
        for (int apart = 1; apart < 32; apart *= 2) {
            low = minimum(low, __shfl_xor_sync(ALL, low, apart));
            high = maximum(high, __shfl_xor_sync(ALL, high, apart));
        }
        if (threadIdx.x % 32 == 0) {
            keep(error.low[q], low + (Real)0);
            keep(error.high[q], high + (Real)0);
        }
    }
    __syncthreads();
    // Two neighbours are one byte or two.
    for (int j = 2 * (int)threadIdx.x; j < length; j += 2 * BLOCK) {
        Word codes[2] = {0, 0};
        for (int n = 0; n < 2 && j + n < length; ++n) {
            const int q = (j + n) / error.bucket;
            codes[n] = Coder(error.low[q], error.high[q], error.levels).code(entries.a[j + n]);
        }
#if ERROR == 3
        error.codes[j / 2] = (unsigned char)(codes[0] << 4 | codes[1]);
#else
        for (int n = 0; n < 2 && j + n < length; ++n)
            error.codes[j + n] = (unsigned char)codes[n];
#endif
    }
#endif
}
