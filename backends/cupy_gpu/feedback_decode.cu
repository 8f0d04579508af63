// A quantised error as numbers: an entry a thread. Up to 4 bits two codes share a byte, the first in its
// high half.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    feedback_decode(const unsigned char *__restrict__ codes, const Gradient *__restrict__ low,
                    const Gradient *__restrict__ high, Real *error, const long long count, const long long bucket,
                    const int half, const Real levels)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (place >= count)
        return;
    const int code = half ? codes[place / 2] >> (place % 2 ? 0 : 4) & 15 : codes[place];
    const Real least = widened(low[place / bucket]);
    const Real unit = (widened(high[place / bucket]) - least) / levels;
    error[place] = (Real)code * unit + least;
}
