// What v is the product of: C, and R over its mean.

__device__ __forceinline__ Real column_of(const Real v, const Real)
{
    return v;
}

__device__ __forceinline__ Real row_of(const Real v, const Real mean, const Real, const Real)
{
    return v / mean;
}
