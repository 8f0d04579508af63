// What a block keeps of its error, and the window of its last Top-K entries.

__device__ __forceinline__ void keep(float &to, Real x) { to = (float)x; }
__device__ __forceinline__ void keep(double &to, Real x) { to = (double)x; }
__device__ __forceinline__ void keep(Bfloat16 &to, Real x) { to = to_bfloat16((float)x); }

// Any NaN as one and the same.
__device__ __forceinline__ Real alike(Real x)
{
    return x == x ? x : number_of(~(Image)0 >> 1);
}

// The error's slots from the block's first entry or bucket on.
struct Error {
    Real *exact;
    unsigned char *codes;
    Value *low, *high;
    Real levels;
    int bucket;
};

// Rounds to the nearest code between the bounds of a bucket, as they are kept.
struct Coder {
    Real low, inverse, levels;

    __device__ __forceinline__ Coder(Value kept_low, Value kept_high, Real most)
        : low(widened(kept_low)), levels(most)
    {
        const Real span = widened(kept_high) - low;
        inverse = span == (Real)0 ? (Real)0 : levels / span;
    }

    // Whatever is no number has the code 0.
    __device__ __forceinline__ Word code(Real a) const
    {
        const Real y = (a - low) * inverse;
        return (Word)(int)(fmin(fmax(y, (Real)0), levels) + (Real)0.5f);
    }
};

struct Window {
    const short *indices;
    const Value *values;
    int kept, filled, window, row;
    const Real *powers;  // of beta1 and beta2 in turn, by age

    // An index that was damaged leads to a wrong entry, never out of the block.
    __device__ __forceinline__ int place(const int entry, const int length) const
    {
        const int place = (unsigned short)indices[entry];
        return place < length ? place : length - 1;
    }
};

// m and v of every entry, side by side in `sums`, which is 0: row after row, as no entry is twice in a row.
__device__ __forceinline__ void add_window(const Window &ring, const int length, Pack<Real, 2> *sums)
{
    const int total = ring.filled * ring.kept;
#pragma unroll 1
    for (int begin = 0; begin < total; begin += SHARE * BLOCK) {
        int rows[SHARE], places[SHARE];
        Real one[SHARE], two[SHARE];
#pragma unroll
        for (int s = 0; s < SHARE; ++s) {
            const int entry = begin + s * BLOCK + (int)threadIdx.x;
            rows[s] = -1;
            if (entry < total) {
                rows[s] = entry / ring.kept;
                places[s] = ring.place(entry, length);
                const Real x = widened(ring.values[entry]);
                const int ago = ring.row - rows[s];
                const Pack<Real, 2> powers = get<2>(ring.powers + 2 * (ago < 0 ? ago + ring.window : ago));
                one[s] = powers.at[0] * x;
                two[s] = powers.at[1] * (x * x);
            }
        }
        const int most = begin + SHARE * BLOCK < total ? begin + SHARE * BLOCK : total;
#pragma unroll 1
        for (int i = begin / ring.kept; i <= (most - 1) / ring.kept; ++i) {
#pragma unroll
            for (int s = 0; s < SHARE; ++s) {
                if (rows[s] == i) {
                    Pack<Real, 2> sum = sums[places[s]];
                    sum.at[0] += one[s];
                    sum.at[1] += two[s];
                    sums[places[s]] = sum;
                }
            }
            __syncthreads();
        }
    }
}

struct Numbers {
    Real rate, first, second, eps, decay;
};

__device__ __forceinline__ void descend(Weight &w, const Pack<Real, 2> sum, const Numbers &by)
{
    Real from = widened(w);
#if DENSE && !L2
    from = from * by.decay;
#endif
    const Real m = by.first * sum.at[0];
    const Real v = by.second * sum.at[1];
    const Real u = ratio(m, square_root(v) + by.eps);
    narrow_into(w, from - by.rate * u);
}
