// Many contiguous tensors in one launch: a block finds its tensor, and which of the tensor's blocks it is.
//
// table: a row a tensor: the addresses of its arrays, how many entries they have, and its first block.
// numbers: a row a tensor: its coefficients, since its step counter is its own.
// tensor_of: for each block its tensor.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name(const Long *__restrict__ table, const Real *__restrict__ numbers, const int *__restrict__ tensor_of)
{
    const long long tensor = tensor_of[blockIdx.x];
    const Long *row = table + tensor * $row;
    $addresses
    const long long count = (long long)row[$row - 2];
    $coefficients
    const long long thread = ((long long)blockIdx.x - (long long)row[$row - 1]) * BLOCK + threadIdx.x;
    const long long packs = count / VEC;
    if (thread < packs)
        step_pack<VEC>($arrays, thread * VEC$passed);
    const long long rest = packs * VEC + thread;
    if (rest < count)
        step_pack<1>($arrays, rest$passed);
}
