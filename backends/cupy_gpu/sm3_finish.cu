// The new accumulators of rows and columns from the maxima of SM3's pass; where keep_... the old are kept if
// they are larger. listed: if there is such an argument, for each row of the gradient the row of the accumulators.

__device__ __forceinline__ void settle(Real &mu, const Image most, const int keep)
{
    mu = keep ? maximum(mu, number_of(most)) : number_of(most);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    sm3_finish(Real *row_mu, const Image *__restrict__ row_most,
               ${listed}const long long rows, const int keep_rows, Real *column_mu, const Image *__restrict__ column_most,
               const long long columns, const int keep_columns)
{
    const long long thread = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (thread < rows)
        settle(row_mu[$own], row_most[thread], keep_rows);
    else if (thread - rows < columns)
        settle(column_mu[thread - rows], column_most[thread - rows], keep_columns);
}
