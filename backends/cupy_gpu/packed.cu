// Contiguous arrays: each thread takes packs of VEC neighbours, and what does not fill a pack one by one. The few
// single entries come first: the other way round takes more registers. The bounds say that one block on a processor
// will do, or the compiler spills registers to have more.

extern "C" __global__ void __launch_bounds__(BLOCK, 1) $name($pointers, const long long count$numbers)
{
    const long long thread = (long long)blockIdx.x * BLOCK + threadIdx.x;
    const long long packs = count / VEC;
    const long long rest = packs * VEC + thread;
    if (rest < count)
        step_pack<1>($arrays, rest$passed);
#pragma unroll 1
    for (long long pack = thread; pack < packs; pack += (long long)gridDim.x * BLOCK)
        step_pack<VEC>($arrays, pack * VEC$passed);
}
