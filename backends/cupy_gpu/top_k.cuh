// The least magnitude that Top-K keeps: digits of the magnitudes' images are counted in bins, from the top
// one. Ties go to the lowest index.

#define DIGIT 11
#define BINS (1 << DIGIT)
#define BITS (8 * (int)sizeof(Real) - 1)

// Where the digit lies whose bin holds the one that is looked for, how many are in the bins above it, and
// in it.
struct Found {
    int digit;
    Long above;
    Long inside;
};

// Look for the `wanted`-th of the largest; every thread of the block calls it.
template <class Count>
__device__ __forceinline__ void find(const Count *bins, const Long wanted, Found *found, Long *totals)
{
    const int first = BINS - 1 - (int)threadIdx.x * (BINS / BLOCK);
    Long own = 0;
    for (int k = 0; k < BINS / BLOCK; ++k)
        own += bins[first - k];
    Long upto = own;
    for (int apart = 1; apart < 32; apart *= 2) {
        const Long other = __shfl_up_sync(0xFFFFFFFFu, upto, (unsigned)apart);
        upto += (int)threadIdx.x % 32 >= apart ? other : 0;
    }
    if (threadIdx.x % 32 == 31)
        totals[threadIdx.x / 32] = upto;
    __syncthreads();
    for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp)
        upto += totals[warp];
    if (upto - own < wanted && wanted <= upto) {
        int digit = first;
        Long above = upto - own;
        for (; above + bins[digit] < wanted; --digit)
            above += bins[digit];
        found->digit = digit;
        found->above = above;
        found->inside = bins[digit];
    }
    __syncthreads();
}

// How many ties the threads before this one have, and in `all` those of the block; every thread calls it.
__device__ __forceinline__ Long ties_before(const Long own, Long *totals, Long *all)
{
    Long upto = own;
    for (int apart = 1; apart < 32; apart *= 2) {
        const Long other = __shfl_up_sync(0xFFFFFFFFu, upto, (unsigned)apart);
        upto += (int)threadIdx.x % 32 >= apart ? other : 0;
    }
    if (threadIdx.x % 32 == 31)
        totals[threadIdx.x / 32] = upto;
    __syncthreads();
    Long sum = 0;
    for (unsigned warp = 0; warp < BLOCK / 32; ++warp) {
        upto += warp < threadIdx.x / 32 ? totals[warp] : 0;
        sum += totals[warp];
    }
    // The totals are written anew in the next round.
    __syncthreads();
    *all = sum;
    return upto - own;
}

// The place of the `wanted`-th entry of this magnitude among neighbours; every thread of the block calls it.
__device__ __forceinline__ void place_of(const Real *x, const long long from, const long long count,
                                         const Image least, const Long wanted, long long *last,
                                         Long *totals)
{
    Long done = 0;
    for (long long begin = 0; begin < count && done < wanted; begin += BLOCK) {
        const long long place = begin + threadIdx.x;
        const bool tie = place < count && magnitude(x[from + place]) == least;
        Long all;
        const Long rank = done + ties_before(tie, totals, &all) + 1;
        if (tie && rank == wanted)
            *last = from + place;
        done += all;
    }
}
