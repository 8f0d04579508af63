// The means of the two sides of each column; where a side has no members, 0.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    feedback_means(Real *sides, const Long *__restrict__ members, const long long rows,
                   const long long columns)
{
    const long long column = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (column >= columns)
        return;
    const long long below = (long long)members[column];
    sides[column] = ratio(sides[column], (Real)(rows - below));
    sides[columns + column] = ratio(sides[columns + column], (Real)below);
}
