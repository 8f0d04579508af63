// UPDATE: each bucket sums the increments of its active rows in their order, the first alone, then adds the sum to
// its content once. The first of a bucket's rows leads and does it all, so that no two threads write one number.
//
// keys: of count_sketch_locate, sorted. SCAN: not sorted; the lanes of a warp, which share a row, look for a bucket's
// rows 32 at a time. READY: increments are there already; otherwise they come from the gradient, and BY_ROW each
// bucket's own content enters them.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_scatter(
#if READY
        const Real *__restrict__ ready,
#else
        const Gradient *__restrict__ g_all, const Weight *__restrict__ w_all, const long long *__restrict__ items,
        const long long g_pitch, const long long w_pitch, const int dense, const Real factor, const Real decay,
#endif
        const Long *__restrict__ keys, Real *table, const long long count, const long long rows, const long long columns)
{
    const long long leader = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (leader >= count)
        return;
    const Long first = keys[leader];
    const Word place = (Word)(first >> 32);
#if SCAN
    const long long begin = leader / rows * rows, end = begin + rows;
    const int lane = threadIdx.x % 32;
    for (long long from = begin; from < leader; from += 32) {
        const bool same = from + lane < leader && (Word)(keys[from + lane] >> 32) == place;
        if (__ballot_sync(0xFFFFFFFFu, same))
            return;
    }
#else
    if (leader > 0 && (Word)(keys[leader - 1] >> 32) == place)
        return;
#endif
    const long long apart = (long long)gridDim.y * blockDim.x * VEC;
#pragma unroll 1
    for (long long strip = (long long)blockIdx.y * blockDim.x * VEC; strip < columns; strip += apart) {
        const long long column = strip + (long long)threadIdx.x * VEC;
        const bool inside = column < columns;
        Real *bucket = table + place * columns + column;
        Numbers old, sum;
        // The increment of one active row, with its sign.
        const auto increment = [&](const Long key) {
            const long long row = (long long)((Word)key >> 1);
            const bool negative = key & 1u;
            Numbers x;
#if READY
            x = get<VEC>(ready + row * columns + column);
#else
            const long long own = items[row];
            const Numbers d = entering(g_all + (dense ? own : row) * g_pitch + column, w_all + own * w_pitch + column, decay);
#pragma unroll
            for (int k = 0; k < VEC; ++k)
                x.at[k] = BY_ROW ? towards(with_sign(old.at[k], negative), d.at[k], factor) : factor * d.at[k];
#endif
#pragma unroll
            for (int k = 0; k < VEC; ++k)
                x.at[k] = with_sign(x.at[k], negative);
            return x;
        };
        const auto join = [&](const Long key) {
            const Numbers x = increment(key);
#pragma unroll
            for (int k = 0; k < VEC; ++k)
                sum.at[k] = sum.at[k] + x.at[k];
        };
        if (inside) {
            old = get<VEC>(bucket);
            sum = increment(first);
        }
#if SCAN
#pragma unroll 1
        for (long long from = leader + 1; from < end; from += 32) {
            const bool same = from + lane < end && (Word)(keys[from + lane] >> 32) == place;
            for (Word mine = __ballot_sync(0xFFFFFFFFu, same); mine; mine &= mine - 1)
                if (inside)
                    join(keys[from + __ffs(mine) - 1]);
        }
#else
#pragma unroll 1
        for (long long next = leader + 1; next < count && (Word)(keys[next] >> 32) == place; ++next)
            if (inside)
                join(keys[next]);
#endif
        if (inside) {
#pragma unroll
            for (int k = 0; k < VEC; ++k)
                sum.at[k] = old.at[k] + sum.at[k];
            put<VEC>(bucket, sum);
        }
    }
}
