// Sums along rows and down columns in one reading: a warp walks down a run of 64 rows of a
// leaf's columns. sums: a number for each row and leaf; runs: for each matrix, run and column.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name($pointers, Real *sums, Real *runs, const long long matrices, const long long height,
          const long long columns, const long long leaves, const long long strips$numbers)
{
    const long long warp = warp_of_grid();
    if (warp >= matrices * strips * leaves)
        return;
    const long long leaf = warp % leaves;
    const long long strip = warp / leaves;
    const long long first = strip / strips * height + strip % strips * RUN;
    const long long left = height - strip % strips * RUN;
    const int steps = left < RUN ? (int)left : RUN;
    const long long column = leaf * LEAF + threadIdx.x % 32 * 4;
    Real run[LEAF / LANES][4] = {};
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const long long from = (first + step) * columns + column;
        Real lanes[4] = {};
#pragma unroll
        for (int k = 0; k < LEAF / LANES; ++k) {
#if VEC == 4
            if (column + k * LANES < columns)
                pass<4>($passed, from + k * LANES, lanes, run[k]);
#else
#pragma unroll
            for (int n = 0; n < 4; ++n)
                if (column + k * LANES + n < columns)
                    pass<1>($passed, from + k * LANES + n, lanes + n, run[k] + n);
#endif
        }
        const Real sum = joined(lanes);
        if (threadIdx.x % 32 == 0)
            sums[(first + step) * leaves + leaf] = sum;
    }
#pragma unroll
    for (int k = 0; k < LEAF / LANES; ++k)
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (column + k * LANES + n < columns)
                runs[strip * columns + column + k * LANES + n] = run[k][n];
}
