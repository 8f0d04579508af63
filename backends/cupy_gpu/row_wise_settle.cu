// The numbers of rows from the sums of their squares.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    row_wise_settle(Real *s, const Real *__restrict__ sums, const long long rows, const Real share)
{
    const long long row = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (row < rows)
        s[row] = s[row] + sums[row] / share;
}
