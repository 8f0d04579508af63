// r from R and its mean: a warp a leaf of R, and the sum of R's leaves, of which there are at most 512,
// again.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    factor_ratios(const Real *__restrict__ R, const Real *__restrict__ sums, Real *r,
                  const long long matrices, const long long height, const long long leaves,
                  const long long parts, const Real one_, const Real tall_, const Real eps1_)
{
    const long long warp = warp_of_grid();
    if (warp >= matrices * leaves)
        return;
    const Real mean = leaf_of(sums + warp / leaves * parts, parts) / tall_;
#pragma unroll 4
    for (int k = 0; k < LEAF / 32; ++k) {
        const long long row = warp % leaves * LEAF + k * 32 + threadIdx.x % 32;
        const long long at = warp / leaves * height + row;
        if (row < height)
            r[at] = row_of(R[at], mean, one_, eps1_);
    }
}
