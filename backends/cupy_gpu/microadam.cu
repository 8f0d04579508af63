// MicroAdam, one block of threads a Top-K block: decode, select, quantise, add the window up, step.
//
// Shared memory: Top-K's bins and candidates, later the window's sums in their place; then three maps with a
// bit an entry. Without RUNS the sums, and before them the entries, have memory of their own, which is
// `scratch` if they are too many.

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    microadam(Weight *w_all, const Gradient *__restrict__ g_all, short *index_all, Value *value_all,
              ${error}${scratch}
              const Real *__restrict__ powers, const long long size, const int first_block, const int block,
              const int bucket, const int kept_of_block, const int kept_of_last, const int window,
              const int filled, const int row, const int capacity, const Real rate, const Real first,
              const Real second, const Real eps, const Real decay)
{
    extern __shared__ __align__(16) unsigned char raw[];
    __shared__ Word warp_sums[BLOCK / 32];
    __shared__ Word found[4];
    const long long number = (long long)first_block + blockIdx.x;
    const long long begin = number * block;
    const long long left = size - begin;
    const int length = left < block ? (int)left : block;
    const int kept = left < block ? kept_of_last : kept_of_block;
    const int words = (length + 31) / 32;
    const int room_for = capacity / 32;

    const int early = BINS * 4 + LISTED * (4 + (int)sizeof(Image));
#if SCRATCH
    Real *const own = scratch + (long long)blockIdx.x * capacity * 2;
    const int before = 0, after = early;
#else
    Real *const own = reinterpret_cast<Real *>(raw);
    const int above = capacity * 2 * (int)sizeof(Real);
    const int before = RUNS ? 0 : above;
    const int after = RUNS && early < above ? above : before + early;
#endif
    Pack<Real, 2> *const sums = reinterpret_cast<Pack<Real, 2> *>(own);
    Room room;
    room.keys = reinterpret_cast<Image *>(raw + before);
    room.bins = reinterpret_cast<Word *>(room.keys + LISTED);
    room.places = room.bins + BINS;
    room.taken = reinterpret_cast<Word *>(raw + after);
    room.tied = room.taken + room_for;
    room.before = room.tied + room_for;
    room.sums = warp_sums;
    room.found = found;

    Error error;
    error.bucket = bucket;
#if ERROR == 1
    error.exact = exact_all + begin;
#elif ERROR > 1
    error.codes = code_all + (ERROR == 3 ? begin / 2 : begin);
    // No bucket lies in two blocks.
    const long long first_bucket = number * (block / (RUNS ? BUCKET : bucket));
    error.low = low_all + first_bucket;
    error.high = high_all + first_bucket;
    error.levels = levels;
#endif
    Weight *const w = w_all + begin;
    short *const indices = index_all + number * window * kept_of_block;
    Value *const values = value_all + number * window * kept_of_block;

    for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
        room.bins[k] = 0;
    for (int k = (int)threadIdx.x; k < words; k += BLOCK)
        room.taken[k] = room.tied[k] = 0;
    if (threadIdx.x == 0)
        found[3] = 0;
    Entries entries;
    entries.length = length;
#if !RUNS
    entries.a = own;
#endif
    load(entries, w, g_all + begin, error, decay);
    __syncthreads();
    select(entries, kept, words, room);
#if RUNS
    // Nobody needs bins and candidates any more.
    for (int j = (int)threadIdx.x; j < length; j += BLOCK)
        sums[j].at[0] = sums[j].at[1] = (Real)0;
#endif
    for (int k = (int)threadIdx.x; k < words; k += BLOCK)
        room.tied[k] = 0;
    count_before(room.taken, words, room);
    entries.runs([&](int at, Real *a) {
        const Word mask = room.taken[at / 32] >> at % 32 & 255u;
        int place = row * kept + (int)rank_of(room.taken, at, room);
        for (Word more = mask; more; more &= more - 1u, ++place) {
            const int n = __ffs((int)more) - 1;
            indices[place] = (short)(at + n);
            keep(values[place], Entries::pick(a, n));
        }
#pragma unroll
        for (int n = 0; n < 8; ++n)
            a[n] = mask >> n & 1u ? (Real)0 : a[n];
    });
    store(entries, error);
    __syncthreads();
#if !RUNS
    for (int j = (int)threadIdx.x; j < length; j += BLOCK)
        sums[j].at[0] = sums[j].at[1] = (Real)0;
    __syncthreads();
#endif
    const Window ring = {indices, values, kept, filled, window, row, powers};
    add_window(ring, length, sums);
    const Numbers by = {rate, first, second, eps, decay};
#if DENSE
    for (int j = (int)threadIdx.x; j < length; j += BLOCK)
        descend(w[j], sums[j], by);
#else
    // What no row names has m = 0, so that its step is 0: it is neither read nor written.
#pragma unroll 2
    for (int entry = (int)threadIdx.x; entry < filled * kept; entry += BLOCK) {
        const int place = ring.place(entry, length);
        const Word bit = 1u << place % 32;
        // Of the rows that name an entry one steps it.
        if (!(atomicOr(room.tied + place / 32, bit) & bit))
            descend(w[place], sums[place], by);
    }
#endif
}
