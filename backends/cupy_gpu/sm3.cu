// SM3-II over a matrix, one pass: a thread walks down VEC columns and keeps their maxima; the lanes that share a
// row join theirs at every row. New maxima go to arrays of zeros, never to the accumulators that others read.
//
// A block is blockDim.x (a power of two) packs wide and takes deep * blockDim.y rows of one of `across` strips.
// listed: if there is such an argument, for each row of the gradient the row of the other arrays; maxima are by
// the gradient's rows.

__device__ __forceinline__ Image larger(Image x, Image y)
{
    return x > y ? x : y;
}

// The largest among the lanes of a warp that share a row; every lane of the warp calls it.
__device__ __forceinline__ Word joined(Word x)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    if (blockDim.x >= 32)
        return __reduce_max_sync(0xFFFFFFFFu, x);
#endif
    for (unsigned apart = 1; apart < blockDim.x && apart < 32; apart *= 2) {
        const Word other = __shfl_xor_sync(0xFFFFFFFFu, x, (int)apart);
        x = x > other ? x : other;
    }
    return x;
}

__device__ __forceinline__ Long joined(Long x)
{
    for (unsigned apart = 1; apart < blockDim.x && apart < 32; apart *= 2) {
        const Long other = __shfl_xor_sync(0xFFFFFFFFu, x, (int)apart);
        x = x > other ? x : other;
    }
    return x;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name($pointers, const Real *__restrict__ row_least, const Real *__restrict__ column_least, Image *row_most,
          Image *column_most, ${listed}const long long rows, const long long columns, $pitches, const int deep, const int across$numbers)
{
    __shared__ Image folded[BLOCK * VEC];
    const long long column = ((long long)(blockIdx.x % across) * blockDim.x + threadIdx.x) * VEC;
    const long long first = (long long)(blockIdx.x / across) * deep * blockDim.y;
    const long long left = (rows - first + blockDim.y - 1) / blockDim.y;
    const int steps = left < deep ? (int)left : deep;
    const bool inside = column < columns;
    // One lane group owns whole rows: nobody else writes their maxima.
    const bool alone = across == 1 && blockDim.x <= 32;
    Pack<Real, VEC> above;
    Image most[VEC];
    for (int k = 0; k < VEC; ++k) {
        above.at[k] = inside ? column_least[column + k] : (Real)0;
        most[k] = 0;
    }
#pragma unroll 1
    for (int k = 0; k < steps; ++k) {
        const long long row = first + (long long)k * blockDim.y + threadIdx.y;
        Image top = 0;
        if (inside && row < rows) {
            const long long own = $own;
            const Real beside = row_least[own];
            $get
            for (int n = 0; n < VEC; ++n) {
                Real nu = minimum(beside, above.at[n]);
                step_entry($entries, nu$passed);
                const Image image = image_of(nu);
                most[n] = larger(most[n], image);
                top = larger(top, image);
            }
            $put
        }
        top = joined(top);
        if (threadIdx.x % 32 == 0 && row < rows) {
            if (alone)
                row_most[row] = top;
            else if (top)
                atomicMax(row_most + row, top);
        }
    }
    if (blockDim.y == 1) {
        for (int k = 0; k < VEC; ++k)
            if (inside && most[k])
                atomicMax(column_most + column + k, most[k]);
        return;
    }
    const int wide = blockDim.x * VEC;
    for (int k = 0; k < VEC; ++k)
        folded[threadIdx.y * wide + threadIdx.x * VEC + k] = most[k];
    __syncthreads();
    const long long strip = (long long)(blockIdx.x % across) * wide;
    for (int k = (int)(threadIdx.y * blockDim.x + threadIdx.x); k < wide; k += BLOCK) {
        Image top = 0;
        for (unsigned y = 0; y < blockDim.y; ++y)
            top = larger(top, folded[y * wide + k]);
        if (strip + k < columns && top)
            atomicMax(column_most + strip + k, top);
    }
}
