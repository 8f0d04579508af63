// The increments of the active rows from QUERY's answers, all of them from the old table: nobody writes to it here.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_increments(const Gradient *__restrict__ g_all, const Weight *__restrict__ w_all,
                            const long long *__restrict__ items, const Word *__restrict__ places,
                            const Real *__restrict__ table, Real *ready, const long long rows, const long long columns,
                            const long long g_pitch, const long long w_pitch, const int dense, const Real factor,
                            const Real decay)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    const long long own = items[row];
    const Gradient *g = g_all + (dense ? own : row) * g_pitch;
    const long long apart = (long long)gridDim.y * blockDim.x * VEC;
#pragma unroll 1
    for (long long column = ((long long)blockIdx.y * blockDim.x + threadIdx.x) * VEC; column < columns; column += apart) {
        const Numbers d = entering(g + column, w_all + own * w_pitch + column, decay);
        Numbers x = estimate<HOW>(table, places + row * DEPTH, column, columns);
#pragma unroll
        for (int k = 0; k < VEC; ++k)
            x.at[k] = towards(x.at[k], d.at[k], factor);
        put<VEC>(ready + row * columns + column, x);
    }
}
