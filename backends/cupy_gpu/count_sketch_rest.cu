// The weights of the rows without a gradient, times their decay.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_rest(Weight *w_all, const unsigned char *__restrict__ active, const long long rows,
                      const long long columns, const long long w_pitch, const Real decay)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const long long row = place / columns;
    if (row >= rows || active[row])
        return;
    Weight *w = w_all + row * w_pitch + place % columns;
    narrow_into(*w, widened(*w) * decay);
}
