// The largest magnitude in many tensors, as the integer that its bits are; NaN is above infinity.
//
// table: a row a tensor: address, entries, first block. tensor_of: for each block its tensor.

__device__ __forceinline__ Long magnitude(float x) { return image_of(x) & 0x7FFFFFFFu; }
__device__ __forceinline__ Long magnitude(double x) { return image_of(x) & 0x7FFFFFFFFFFFFFFFull; }
__device__ __forceinline__ Long magnitude(Bfloat16 x) { return x.bits & 0x7FFFu; }
__device__ __forceinline__ Long magnitude(Float16 x) { return x.bits & 0x7FFFu; }

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    largest(const Long *__restrict__ table, const int *__restrict__ tensor_of, Long *top)
{
    const Long *row = table + (long long)tensor_of[blockIdx.x] * 3;
    const Gradient *from = reinterpret_cast<const Gradient *>(row[0]);
    const long long count = (long long)row[1];
    const long long first = ((long long)blockIdx.x - (long long)row[2]) * BLOCK * EACH + threadIdx.x;
    Long most = 0;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
        const long long place = first + k * BLOCK;
        const Long image = place < count ? magnitude(from[place]) : 0;
        most = image > most ? image : most;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        const Long other = __shfl_xor_sync(0xFFFFFFFFu, most, apart);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0 && most)
        atomicMax(top, most);
}
