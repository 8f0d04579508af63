// New R and C from the sums of squares; the leaves of R, and what c is to the step. The first blocks have a
// leaf of R a warp, the others a column a thread.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    factor_averages(const Real *__restrict__ row_sums, const Real *__restrict__ column_sums, Real *R,
                    Real *C, Real *leaves_of_R, Real *c, const long long matrices,
                    const long long height, const long long columns, const long long leaves,
                    const int first_blocks, const Real one_, const Real wide_, const Real tall_,
                    const Real beta2_, const Real fresh2_)
{
    if ((int)blockIdx.x < first_blocks) {
        const long long warp = warp_of_grid();
        if (warp >= matrices * leaves)
            return;
        Real lanes[4] = {};
#pragma unroll 1
        for (int k = 0; k < LEAF / LANES; ++k)
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const long long row = warp % leaves * LEAF + k * LANES + threadIdx.x % 32 * 4 + n;
                const long long at = warp / leaves * height + row;
                if (row < height) {
                    const Real v = averaged(R[at], row_sums[at] / wide_, beta2_, fresh2_);
                    R[at] = v;
                    lanes[n] = lanes[n] + v;
                }
            }
        const Real sum = joined(lanes);
        if (threadIdx.x % 32 == 0)
            leaves_of_R[warp] = sum;
        return;
    }
    const long long at = (long long)((int)blockIdx.x - first_blocks) * BLOCK + threadIdx.x;
    if (at >= matrices * columns)
        return;
    const Real v = averaged(C[at], column_sums[at] / tall_, beta2_, fresh2_);
    C[at] = v;
    c[at] = column_of(v, one_);
}
