// The place of the last tie that is kept, a block a row: first its tile, then its place in the tile.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    top_k_last(const Real *__restrict__ x, const Image *__restrict__ least, const Long *__restrict__ wanted,
               const Long *__restrict__ ties, long long *last, const long long columns, const long long tiles,
               const long long tile)
{
    __shared__ Long totals[BLOCK / 32];
    __shared__ long long its;
    __shared__ Long missing;
    const long long row = blockIdx.x;
    const Long kept = wanted[row];
    Long done = 0;
    for (long long begin = 0; begin < tiles && done < kept; begin += BLOCK) {
        const long long k = begin + threadIdx.x;
        const Long own = k < tiles ? ties[row * tiles + k] : 0;
        Long all;
        const Long before = done + ties_before(own, totals, &all);
        if (before < kept && kept <= before + own) {
            its = k;
            missing = kept - before;
        }
        done += all;
    }
    __syncthreads();
    const long long begin = its * tile;
    const long long count = columns - begin < tile ? columns - begin : tile;
    place_of(x, row * columns + begin, count, least[row], missing, last + row, totals);
}
