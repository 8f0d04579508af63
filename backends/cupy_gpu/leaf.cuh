// Sums in the order of memopt_ref/parts/sums.py: a warp adds a leaf of 512 neighbours. Its thread t has the
// lanes 4 t ... 4 t + 3 of 128, each of which adds its entry of every 128 in turn, from +0; then
// neighbouring lanes are joined, first those of a thread, then those of neighbouring threads.

#define LEAF 512
#define LANES 128
#define RUN 64

__device__ __forceinline__ Real joined(const Real *lanes)
{
    Real sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2)
        sum = sum + __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
    return sum;
}

// The sum of at most a leaf; every lane of the warp calls it.
__device__ __forceinline__ Real leaf_of(const Real *from, const long long count)
{
    Real lanes[4] = {};
    for (int k = 0; k < LEAF / LANES; ++k)
        for (int n = 0; n < 4; ++n) {
            const long long at = k * LANES + threadIdx.x % 32 * 4 + n;
            if (at < count)
                lanes[n] = lanes[n] + from[at];
        }
    return joined(lanes);
}

__device__ __forceinline__ long long warp_of_grid()
{
    return (long long)blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
}
