// Runs of 64 down columns: a thread a run of a column.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    fold_runs(const Real *__restrict__ from, Real *runs, const long long matrices,
              const long long height, const long long columns, const long long strips)
{
    const long long thread = (long long)blockIdx.x * BLOCK + threadIdx.x;
    if (thread >= matrices * strips * columns)
        return;
    const long long strip = thread / columns;
    const long long first = strip / strips * height + strip % strips * RUN;
    const long long left = height - strip % strips * RUN;
    const int steps = left < RUN ? (int)left : RUN;
    Real sum = (Real)0;
    for (int step = 0; step < steps; ++step)
        sum = sum + from[(first + step) * columns + thread % columns];
    runs[thread] = sum;
}
