// The new accumulators of one axis from the maxima of the group of axes that it is in: [outer, length, inner].
// A warp takes an index of the axis; where keep the old are kept if they are larger.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    sm3_fold(Real *mu, const Image *__restrict__ most, const long long outer, const long long length,
             const long long inner, const int keep)
{
    const long long index = ((long long)blockIdx.x * BLOCK + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    Image top = 0;
    if (index < length)
        for (long long k = lane; k < outer * inner; k += 32) {
            const Image image = most[(k / inner * length + index) * inner + k % inner];
            top = image > top ? image : top;
        }
    for (int apart = 16; apart > 0; apart /= 2) {
        const Image other = __shfl_xor_sync(0xFFFFFFFFu, top, apart);
        top = other > top ? other : top;
    }
    if (lane == 0 && index < length)
        mu[index] = keep ? maximum(mu[index], number_of(top)) : number_of(top);
}
