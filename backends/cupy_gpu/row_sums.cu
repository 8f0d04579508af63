// Sums of rows in the order of memopt_ref/parts/sums.py, of squares if SQUARED: a warp adds a leaf of 512 neighbours,
// its thread t the lanes 4 t ... 4 t + 3 of 128, and neighbours are joined. Entries are first multiplied with two
// powers of two, whose product may be out of range.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    row_sums(const Gradient *__restrict__ from, Real *sums, const long long rows, const long long columns,
             const long long leaves, const Real first, const Real second)
{
    const long long warp = (long long)blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    if (warp >= rows * leaves)
        return;
    const long long begin = warp % leaves * 512;
    const Gradient *row = from + warp / leaves * columns;
    Real lanes[4] = {};
    for (int k = 0; k < 4; ++k)
        for (int n = 0; n < 4; ++n) {
            const long long place = begin + k * 128 + threadIdx.x % 32 * 4 + n;
            if (place < columns) {
                const Real x = widened(row[place]) * first * second;
                lanes[n] = lanes[n] + (SQUARED ? x * x : x);
            }
        }
    Real sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (int apart = 1; apart < 32; apart *= 2)
        sum = sum + __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
    if (threadIdx.x % 32 == 0)
        sums[warp] = sum;
}
