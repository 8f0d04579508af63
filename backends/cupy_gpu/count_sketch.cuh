// What the kernels of the count-sketch rules share. A table has DEPTH times width rows of `columns` numbers; a place
// is one of these rows, with the top bit set where the sign is -1. `g_all` has a row for each active row or, if dense,
// its rows where the weights have theirs.

#define MEDIAN 0
#define MINIMUM 1
#define MEAN 2

typedef Pack<Real, VEC> Numbers;

__device__ __forceinline__ Real with_sign(Real x, bool negative)
{
    return negative ? -x : x;
}

// QUERY's answer from those of the rows of a sketch: minima and maxima, or a sum in order.
template <int WAY> __device__ __forceinline__ Real combined(Real (&x)[DEPTH])
{
    if constexpr (WAY != MEDIAN) {
        Real out = x[0];
#pragma unroll
        for (int j = 1; j < DEPTH; ++j)
            out = WAY == MINIMUM ? minimum(out, x[j]) : out + x[j];
        return WAY == MINIMUM ? out : out / (Real)DEPTH;
    } else if constexpr (DEPTH == 3) {
        return maximum(minimum(x[0], x[1]), minimum(maximum(x[0], x[1]), x[2]));
    } else {
#pragma unroll
        for (int turn = 0; turn < DEPTH; ++turn)
#pragma unroll
            for (int j = turn % 2; j < DEPTH - 1; j += 2) {
                const Real less = minimum(x[j], x[j + 1]);
                x[j + 1] = maximum(x[j], x[j + 1]);
                x[j] = less;
            }
        return DEPTH % 2 ? x[DEPTH / 2] : (x[(DEPTH - 1) / 2] + x[DEPTH / 2]) / (Real)2;
    }
}

// QUERY of one active row, whose places follow each other.
template <int WAY>
__device__ __forceinline__ Numbers estimate(const Real *table, const Word *places, const long long column,
                                            const long long columns)
{
    Numbers rows[DEPTH], out;
#pragma unroll
    for (int j = 0; j < DEPTH; ++j) {
        rows[j] = get<VEC>(table + (long long)(places[j] & 0x7FFFFFFFu) * columns + column);
#pragma unroll
        for (int k = 0; k < VEC; ++k)
            rows[j].at[k] = with_sign(rows[j].at[k], WAY != MINIMUM && places[j] >> 31);
    }
#pragma unroll
    for (int k = 0; k < VEC; ++k) {
        Real x[DEPTH];
#pragma unroll
        for (int j = 0; j < DEPTH; ++j)
            x[j] = rows[j].at[k];
        out.at[k] = combined<WAY>(x);
    }
    return out;
}

// Squares' estimates are never below 0.
__device__ __forceinline__ Numbers floored(Numbers x)
{
#pragma unroll
    for (int k = 0; k < VEC; ++k)
        x.at[k] = maximum(x.at[k], (Real)0);
    return x;
}

#ifdef SQUARES
// What a moment is fed with: the gradient with its decay, or its square.
__device__ __forceinline__ Numbers entering(const Gradient *g, const Weight *w, const Real decay)
{
    const Pack<Gradient, VEC> from = get<VEC>(g);
    Numbers d;
#if L2
    const Pack<Weight, VEC> beside = get<VEC>(w);
#endif
#pragma unroll
    for (int k = 0; k < VEC; ++k) {
        d.at[k] = widened(from.at[k]);
#if L2
        const Real shrinks = decay * widened(beside.at[k]);
        d.at[k] = d.at[k] + shrinks;
#endif
        if (SQUARES)
            d.at[k] = d.at[k] * d.at[k];
    }
    return d;
}
#endif
