// The least of two groups of accumulators for every pair of their places: NaN wins.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    sm3_least(Real *least, const Real *__restrict__ left, const Real *__restrict__ right, const long long count,
              const long long inner)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (place < count)
        least[place] = minimum(left[place / inner], right[place % inner]);
}
