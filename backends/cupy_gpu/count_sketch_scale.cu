// A whole table, times two numbers one after the other: its cleaning and its decay.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_scale(Real *table, const long long count, const Real first, const Real second)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (place < count)
        table[place] = table[place] * first * second;
}
