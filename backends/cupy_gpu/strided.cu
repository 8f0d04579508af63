// Arrays of any layout, and rows of a gradient that are for listed rows of the others: a thread finds where its
// row begins in every array, then walks its columns.
//
// layout: the lengths of the leading axes; then for each array its steps along these and along the columns.
// listed: if there is such an argument, for each place of the gradient's first axis that of the other arrays.

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    $name($pointers, const long long *__restrict__ layout, ${listed}const int leading, const long long rows, const long long columns$numbers)
{
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows)
        return;
    long long left = row;
#pragma unroll 1
    for (int axis = leading - 1; axis >= 0; --axis) {
        const long long place = left % layout[axis];
        const long long own = $own;
        left /= layout[axis];
        $advance
    }
    $widths
    const long long apart = (long long)gridDim.y * blockDim.x;
#pragma unroll 1
    for (long long column = (long long)blockIdx.y * blockDim.x + threadIdx.x; column < columns; column += apart)
        step_entry($entries$passed);
}
