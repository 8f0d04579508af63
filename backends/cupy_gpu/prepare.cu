// A gradient as a rule sees it: times a scale in the wider type WIDE, rounded once to the compute type, with 0 for
// what is not finite if so wished, times a factor.

__device__ __forceinline__ WIDE as_wide(float x) { return (WIDE)x; }
__device__ __forceinline__ WIDE as_wide(double x) { return (WIDE)x; }
__device__ __forceinline__ WIDE as_wide(Bfloat16 x) { return (WIDE)wide(x); }
__device__ __forceinline__ WIDE as_wide(Float16 x) { return (WIDE)wide(x); }

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    prepare(const Gradient *__restrict__ from, Real *to, const long long count, const WIDE scale, const int zero,
            const Real factor)
{
    const long long place = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (place >= count)
        return;
    const WIDE scaled = as_wide(from[place]) * scale;
    const Real rounded = (Real)scaled;
    const bool finite = rounded - rounded == (Real)0;
    const Real kept = zero && !finite ? (Real)0 : rounded;
    to[place] = kept * factor;
}
