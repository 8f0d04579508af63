// Top-K of rows, one a block: of each the least magnitude kept, and the place of the last entry kept of
// that magnitude.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    top_k_block(const Real *__restrict__ x, Image *least, long long *last, const long long columns,
                const Long kept)
{
    __shared__ Word bins[BINS];
    __shared__ Long totals[BLOCK / 32];
    __shared__ Found found;
    const long long from = (long long)blockIdx.x * columns;
    Image prefix = 0;
    Long wanted = kept;
    int left = BITS;
    bool all;
    do {
        const int width = left < DIGIT ? left : DIGIT;
        left -= width;
        for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
            bins[k] = 0;
        __syncthreads();
        for (long long place = threadIdx.x; place < columns; place += BLOCK) {
            const Image digits = magnitude(x[from + place]) >> left;
            if (digits >> width == prefix)
                atomicAdd(&bins[(int)digits & ((1 << width) - 1)], 1u);
        }
        __syncthreads();
        find(bins, wanted, &found, totals);
        prefix = prefix << width | (Image)found.digit;
        wanted -= found.above;
        all = found.inside == wanted;
    } while (left > 0 && !all);
    if (threadIdx.x == 0)
        least[blockIdx.x] = prefix << left;
    if (!all)
        place_of(x, from, columns, prefix, wanted, last + blockIdx.x, totals);
    else if (threadIdx.x == 0)
        last[blockIdx.x] = from + columns;
}
