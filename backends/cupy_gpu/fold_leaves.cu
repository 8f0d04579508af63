// Leaves of rows of numbers: a warp a leaf.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    fold_leaves(const Real *__restrict__ from, Real *sums, const long long rows, const long long columns,
                const long long leaves)
{
    const long long warp = warp_of_grid();
    if (warp >= rows * leaves)
        return;
    const long long first = warp % leaves * LEAF;
    const Real sum = leaf_of(from + warp / leaves * columns + first, columns - first);
    if (threadIdx.x % 32 == 0)
        sums[warp] = sum;
}
