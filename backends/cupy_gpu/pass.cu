// One pass over a tensor as rows of neighbours: a warp takes a leaf of a row, its threads packs of four.
//
// height: rows of a matrix, where each matrix has its own c.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name($pointers$targets, const long long rows, const long long columns, const long long leaves,
          const long long height$numbers)
{
    const long long warp = warp_of_grid();
    if (warp >= rows * leaves)
        return;
    const long long row = warp / leaves;
    const long long from = row * columns;
    const long long beside = row / height * columns;
    $values
    Real lanes[4] = {};
#pragma unroll
    for (int k = 0; k < LEAF / LANES; ++k) {
        const long long column = warp % leaves * LEAF + k * LANES + threadIdx.x % 32 * 4;
#if VEC == 4
        if (column < columns)
            pass<4>($passed, from + column, beside + column, lanes);
#else
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (column + n < columns)
                pass<1>($passed, from + column + n, beside + column + n, lanes + n);
#endif
    }
    $end
}
