// The codes of an error between the bounds of its buckets: a byte a thread, which has two of up to 4 bits.
// Rounded to nearest; or, if STOCHASTIC, up where a random number of the entry is below what would be cut
// off.

__device__ __forceinline__ Long mixed(const Long x)
{
    Long z = x + 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

__device__ __forceinline__ int code_of(const Real error, const Real low, const Real high, const Real levels,
                                       const Long stream)
{
    const Real span = high - low;
    const Real inverse = span == (Real)0 ? (Real)0 : levels / span;
    const Real raised = (error - low) * inverse;
    const Real positive = raised > (Real)0 ? raised : (Real)0;
    const Real y = positive < levels ? positive : levels;
#if STOCHASTIC
    const int below = (int)y;
    const float drawn = (float)(mixed(stream) >> 40) * 5.9604644775390625e-8f;
    return below + ((Real)drawn < y - (Real)below);
#else
    return (int)(y + (Real)0.5f);
#endif
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    feedback_encode(const Real *__restrict__ error, const Gradient *__restrict__ low,
                    const Gradient *__restrict__ high, unsigned char *codes, const long long count,
                    const long long bucket, const int half, const Real levels, const Long stream)
{
    const long long byte = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const long long first = half ? 2 * byte : byte;
    if (first >= count)
        return;
    int code = 0;
    for (long long place = first; place < first + 1 + half; ++place) {
        code <<= 4;
        if (place < count)
            code |= code_of(error[place], widened(low[place / bucket]), widened(high[place / bucket]), levels,
                            stream + (Long)place);
    }
    codes[byte] = (unsigned char)code;
}
