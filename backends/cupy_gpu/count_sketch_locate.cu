// Where the family Avalanche of memopt_ref/parts/hashing.py sends active rows: `places`, DEPTH of a row side by side,
// and a key for each place: the place, then which active row it is, then its sign. Sorted keys have the active rows of
// a bucket side by side, in ascending order.

__device__ __forceinline__ Word lowbias32(Word x)
{
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_locate(const long long *__restrict__ items, const Long *__restrict__ seeds, Word *places, Long *keys,
                        const long long rows, const Word width, const int with_signs)
{
    const long long row = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (row >= rows)
        return;
    const Long item = (Long)items[row];
    const Word x = (Word)item ^ lowbias32((Word)(item >> 32));
#pragma unroll
    for (int j = 0; j < DEPTH; ++j) {
        const Word hash = lowbias32(((Word)seeds[4 * j] | 1u) * x + (Word)seeds[4 * j + 1]);
        const Word sign = lowbias32(((Word)seeds[4 * j + 2] | 1u) * x + (Word)seeds[4 * j + 3]) >> 31;
        const Word place = j * width + __umulhi(hash, width);
        const Word negative = with_signs ? sign : 0u;
        places[row * DEPTH + j] = place | negative << 31;
        keys[j * rows + row] = (Long)place << 32 | (Long)row << 1 | negative;
    }
}
