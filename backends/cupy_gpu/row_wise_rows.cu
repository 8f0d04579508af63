// Rows of at most a leaf, read once: a group of threads, a power of two of them in one warp, adds the
// squares of a row, brings its number up to date and steps it. Lanes beyond a short row would add +0, and
// are left out.
//
// listed: if there is such an argument, for each row of the gradient the row of the other arrays.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    row_wise_rows(const Gradient *__restrict__ g_all, Weight *w_all, Real *s_all,
                  ${listed}const long long rows, const long long columns, const int group$numbers)
{
    const long long row = ((long long)blockIdx.x * BLOCK + threadIdx.x) / group;
    const int first = (int)threadIdx.x % group * 4;
    const bool inside = row < rows;
    const long long own = inside ? $own : 0;
    const Gradient *g_row = g_all + row * columns;
    Weight *w_row = w_all + own * columns;
    Real x[LEAF / LANES][4];
    Real lanes[4] = {};
#pragma unroll
    for (int k = 0; k < LEAF / LANES; ++k) {
        const long long column = k * LANES + first;
#if VEC == 4
        if (inside && column < columns)
            square<4>(g_row + column, w_row + column, x[k], lanes$passed);
#else
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (inside && column + n < columns)
                square<1>(g_row + column + n, w_row + column + n, x[k] + n, lanes + n$passed);
#endif
    }
    Real sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    for (int apart = 1; apart < group; apart *= 2)
        sum = sum + __shfl_xor_sync(0xFFFFFFFFu, sum, apart);
    const Real s = inside ? s_all[own] + sum / share_ : (Real)0;
    // All lanes of the row have read its number.
    __syncwarp();
    if (inside && first == 0)
        s_all[own] = s;
#pragma unroll
    for (int k = 0; k < LEAF / LANES; ++k) {
        const long long column = k * LANES + first;
#if VEC == 4
        if (inside && column < columns)
            descend<4>(w_row + column, x[k], s$passed);
#else
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (inside && column + n < columns)
                descend<1>(w_row + column + n, x[k] + n, s$passed);
#endif
    }
}
