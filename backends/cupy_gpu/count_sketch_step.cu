// The weights of the active rows, along what QUERY answers now.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name(Weight *w_all, const Gradient *__restrict__ g_all, ${moments}const long long *__restrict__ items,
          const long long rows, const long long columns, const long long w_pitch, const long long g_pitch,
          const int dense$numbers)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    const long long own = items[row];
    const long long apart = (long long)gridDim.y * blockDim.x * VEC;
#pragma unroll 1
    for (long long column = ((long long)blockIdx.y * blockDim.x + threadIdx.x) * VEC; column < columns; column += apart) {
        Pack<Weight, VEC> w_some = get<VEC>(w_all + own * w_pitch + column);
        const Pack<Gradient, VEC> g_some = get<VEC>(g_all + (dense ? own : row) * g_pitch + column);
        $open
#pragma unroll
        for (int k = 0; k < VEC; ++k)
            step_entry($entries$passed);
        put<VEC>(w_all + own * w_pitch + column, w_some);
        $close
    }
}
