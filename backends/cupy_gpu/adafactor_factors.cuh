// What Adafactor's steps multiply with, from C, and from R over its mean.

// 1 / sqrt x; at 0 infinity where a clamp follows, else 0.
__device__ __forceinline__ Real inverse_root(const Real x, const Real one)
{
    return CLAMPED ? one / square_root(x) : ratio(one, square_root(x));
}

__device__ __forceinline__ Real column_of(const Real v, const Real one)
{
    return inverse_root(v, one);
}

__device__ __forceinline__ Real row_of(const Real v, const Real mean, const Real one, const Real eps1)
{
    return inverse_root(ratio(v, CLAMPED ? maximum(mean, eps1) : mean), one);
}
