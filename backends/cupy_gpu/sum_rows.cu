// Rows of one number are added in the order in which they occur, from +0: a thread adds a column of a sum.
//
// order: places of the rows, those of one number together. first: for each sum where its places begin, and the end.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    sum_rows(const Real *__restrict__ rows, const long long *__restrict__ order, const long long *__restrict__ first,
             Real *sums, const long long count, const long long columns)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (place >= count * columns)
        return;
    const long long own = place / columns;
    Real sum = (Real)0;
    for (long long k = first[own]; k < first[own + 1]; ++k)
        sum = sum + rows[order[k] * columns + place % columns];
    sums[place] = sum;
}
