// One more digit of the least magnitude kept, a block a row; how many of those that begin with it are kept.
// The bins are left empty.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    top_k_narrow(Long *bins, Image *prefixes, Long *wanted, const int width)
{
    __shared__ Long totals[BLOCK / 32];
    __shared__ Found found;
    Long *own = bins + (long long)blockIdx.x * BINS;
    const Long missing = wanted[blockIdx.x];
    find(own, missing, &found, totals);
    for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
        own[k] = 0;
    if (threadIdx.x == 0) {
        prefixes[blockIdx.x] = prefixes[blockIdx.x] << width | (Image)found.digit;
        wanted[blockIdx.x] = missing - found.above;
    }
}
