// Top-K of long rows, several blocks a row: count one digit of the magnitudes that agree in all digits
// before it.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    top_k_digits(const Real *__restrict__ x, const Image *__restrict__ prefixes, Long *bins,
                 const long long columns, const long long tiles, const long long tile, const int left,
                 const int width)
{
    __shared__ Word own[BINS];
    const long long row = blockIdx.x / tiles;
    const long long begin = blockIdx.x % tiles * tile;
    const long long end = columns - begin < tile ? columns - begin : tile;
    const Real *from = x + row * columns + begin;
    const Image prefix = prefixes[row];
    for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
        own[k] = 0;
    __syncthreads();
    for (long long place = threadIdx.x; place < end; place += BLOCK) {
        const Image digits = magnitude(from[place]) >> left;
        if (digits >> width == prefix)
            atomicAdd(&own[(int)digits & ((1 << width) - 1)], 1u);
    }
    __syncthreads();
    for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
        if (own[k])
            atomicAdd(bins + row * BINS + k, (Long)own[k]);
}
