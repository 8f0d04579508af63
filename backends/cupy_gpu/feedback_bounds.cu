// The least and the largest error of each bucket as they are kept: a warp a bucket. NaN is both.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    feedback_bounds(const Real *__restrict__ error, Gradient *low, Gradient *high, const long long count,
                    const long long bucket, const long long buckets)
{
    const long long own = ((long long)blockIdx.x * BLOCK + threadIdx.x) / 32;
    if (own >= buckets)
        return;
    const long long first = own * bucket;
    const long long length = count - first < bucket ? count - first : bucket;
    Real least = error[first];
    Real most = error[first];
    for (long long k = threadIdx.x % 32; k < length; k += 32) {
        least = minimum(least, error[first + k]);
        most = maximum(most, error[first + k]);
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        least = minimum(least, __shfl_xor_sync(0xFFFFFFFFu, least, apart));
        most = maximum(most, __shfl_xor_sync(0xFFFFFFFFu, most, apart));
    }
    // A bound of zero has one sign.
    if (threadIdx.x % 32 == 0) {
        narrow_into(low[own], least + (Real)0);
        narrow_into(high[own], most + (Real)0);
    }
}
