// UPDATE one active row after another, each from the table that its predecessor leaves: a thread owns a column of the
// whole table. CONSERVATIVE: buckets are raised to the estimate and the increment, if they are lower.
//
// found: what QUERY answers right after each row; if there is such an argument (SEQUENTIAL).

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    count_sketch_walk(const Gradient *__restrict__ g_all, const Weight *__restrict__ w_all,
                      const long long *__restrict__ items, const Word *__restrict__ places, Real *table,
#if SEQUENTIAL
                      Real *found,
#endif
                      const long long rows, const long long columns, const long long g_pitch, const long long w_pitch,
                      const int dense, const Real factor, const Real decay)
{
    const long long column = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (column >= columns)
        return;
#pragma unroll 1
    for (long long row = 0; row < rows; ++row) {
        const long long own = items[row];
        const Real d = entering(g_all + (dense ? own : row) * g_pitch + column, w_all + own * w_pitch + column, decay).at[0];
        const Word *where = places + row * DEPTH;
        const Real old = estimate<HOW>(table, where, column, columns).at[0];
        const Real x = LAZY ? towards(old, d, factor) : factor * d;
#pragma unroll
        for (int j = 0; j < DEPTH; ++j) {
            const bool negative = HOW != MINIMUM && where[j] >> 31;
            Real *bucket = table + (long long)(where[j] & 0x7FFFFFFFu) * columns + column;
            const Real mine = LAZY && BY_ROW ? towards(with_sign(*bucket, negative), d, factor) : x;
            *bucket = CONSERVATIVE ? maximum(*bucket, old + mine) : *bucket + with_sign(mine, negative);
        }
#if SEQUENTIAL
        found[row * columns + column] = estimate<HOW>(table, where, column, columns).at[0];
#endif
    }
}
