// How many entries of each tile of a long row have the least magnitude that is kept: a tile a block.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    top_k_ties(const Real *__restrict__ x, const Image *__restrict__ least, Long *ties,
               const long long columns, const long long tiles, const long long tile)
{
    __shared__ Long totals[BLOCK / 32];
    const long long row = blockIdx.x / tiles;
    const long long begin = blockIdx.x % tiles * tile;
    const long long end = columns - begin < tile ? columns - begin : tile;
    const Real *from = x + row * columns + begin;
    const Image wanted = least[row];
    Long own = 0;
    for (long long place = threadIdx.x; place < end; place += BLOCK)
        own += magnitude(from[place]) == wanted;
    Long all;
    ties_before(own, totals, &all);
    if (threadIdx.x == 0)
        ties[blockIdx.x] = all;
}
