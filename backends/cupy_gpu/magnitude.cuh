// What Top-K orders by: of the larger magnitude the larger image; all NaN tie, one above infinity.

__device__ __forceinline__ Image magnitude(const Real x)
{
    const Image nan = (sizeof(Real) == 4 ? (Image)0x7F800000u : (Image)0x7FF0000000000000ull) + 1;
    const Image image = image_of(x) & ~(Image)0 >> 1;
    return image < nan ? image : nan;
}
