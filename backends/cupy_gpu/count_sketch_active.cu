// Which rows of a dense gradient hold anything but zeros, with decay that is added to it; NaN is something.
// blockDim.x (a power of two, at most a warp) lanes share a row; fewer than a warp have a column each.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_active(const Gradient *__restrict__ g_all, const Weight *__restrict__ w_all, unsigned char *active,
                        const long long rows, const long long columns, const long long g_pitch, const long long w_pitch,
                        const Real decay)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    const Word first = (threadIdx.y * blockDim.x + threadIdx.x) % 32 / blockDim.x * blockDim.x;
    const Word lanes = (0xFFFFFFFFu >> (32 - blockDim.x)) << first;
    bool found = false;
#pragma unroll 1
    for (long long from = 0; from < columns && !found; from += blockDim.x) {
        const long long column = from + threadIdx.x;
        bool something = false;
        if (row < rows && column < columns)
            something = entering(g_all + row * g_pitch + column, w_all + row * w_pitch + column, decay).at[0] != (Real)0;
        found = (__ballot_sync(0xFFFFFFFFu, something) & lanes) != 0;
    }
    if (threadIdx.x == 0 && row < rows)
        active[row] = found;
}
