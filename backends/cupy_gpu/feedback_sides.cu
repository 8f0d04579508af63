// One-bit signs: the sums of the entries of a column that are below 0 and of the others, a run of 64 rows a
// thread, and how many are below. sides: first the sums of the others.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    feedback_sides(const Real *__restrict__ x, Real *sides, Long *members, const long long rows,
                   const long long columns, const long long strips)
{
    const long long thread = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (thread >= strips * columns)
        return;
    const long long first = thread / columns * RUN;
    const long long column = thread % columns;
    const int steps = rows - first < RUN ? (int)(rows - first) : RUN;
    Real above = (Real)0;
    Real below = (Real)0;
    int negatives = 0;
    for (int step = 0; step < steps; ++step) {
        const Real entry = x[(first + step) * columns + column];
        const bool negative = entry < (Real)0;
        above = above + (negative ? (Real)0 : entry);
        below = below + (negative ? entry : (Real)0);
        negatives += negative;
    }
    sides[thread] = above;
    sides[strips * columns + thread] = below;
    if (negatives)
        atomicAdd(members + column, (Long)negatives);
}
