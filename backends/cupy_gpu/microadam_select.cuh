// Top-K of the entries of a block of threads, and where each kept entry stands among the kept ones.
// Entries come in runs of eight neighbours: `entries.runs(f)` calls f(place of the first, the eight) for each
// run of a thread. What lies beyond the block's length is 0 and never kept, since ties go to the lowest
// index. A block has at least LISTED threads.

typedef VALUE Value;

enum { DIGIT = 11, BINS = 1 << DIGIT, EACH = BINS / BLOCK, LISTED = 128 };
// Of a magnitude's image, which has no sign, the first digit is what is above this many bits.
enum { LOW_BITS = 8 * (int)sizeof(Image) - 1 - DIGIT };
const Word ALL = 0xFFFFFFFFu;

// What Top-K works in; of `taken` and `tied` each bit is an entry.
struct Room {
    Word *bins;     // [BINS]
    Image *keys;    // [LISTED], the candidates
    Word *places;   // [LISTED]
    Word *taken;    // [words]
    Word *tied;     // [words]
    Word *before;   // [words], kept entries before those of a word
    Word *sums;     // [BLOCK / 32]
    Word *found;    // [4]: a bin, entries above it, entries in it; listed candidates
};

// Of |x|: all NaN were made alike, and are above infinity.
__device__ __forceinline__ Image key_of(Real x)
{
    return image_of(x) & ~(Image)0 >> 1;
}

// The sum over the threads before this one. Every thread calls it, and a barrier lies between two calls.
__device__ __forceinline__ Word sum_before(const Word own, Word *sums)
{
    Word x = own;
    for (Word apart = 1; apart < 32; apart *= 2) {
        const Word other = __shfl_up_sync(ALL, x, apart);
        x += threadIdx.x % 32 >= apart ? other : 0u;
    }
    if (threadIdx.x % 32 == 31)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    Word others = threadIdx.x % 32 < threadIdx.x / 32 ? sums[threadIdx.x % 32] : 0u;
    for (int apart = 16; apart > 0; apart /= 2)
        others += __shfl_xor_sync(ALL, others, apart);
    return others + x - own;
}

// Finds the bin of the need-th largest. The first threads have the highest bins.
__device__ __forceinline__ void find_bin(const Word need, const Room &room)
{
    enum { PART = EACH < 4 ? EACH : 4 };
    Word counts[EACH], own = 0;
    const int lowest = BINS - ((int)threadIdx.x + 1) * EACH;
    for (int k = 0; k < EACH; k += PART) {
        const Pack<Word, PART> some = get<PART>(room.bins + lowest + k);
        for (int n = 0; n < PART; ++n) {
            counts[k + n] = some.at[n];
            own += some.at[n];
        }
    }
    Word above = sum_before(own, room.sums);
    if (above < need && need <= above + own) {
        for (int k = EACH - 1; k >= 0; --k) {
            if (above < need && need <= above + counts[k]) {
                room.found[0] = lowest + k;
                room.found[1] = above;
                room.found[2] = counts[k];
            }
            above += counts[k];
        }
    }
    __syncthreads();
}

// before[i]: how many bits of the map are set in the words before the i-th.
__device__ __forceinline__ void count_before(const Word *map, const int words, const Room &room)
{
    const int each = (words + BLOCK - 1) / BLOCK;
    const int first = (int)threadIdx.x * each;
    const int last = first + each < words ? first + each : words;
    Word own = 0;
    for (int i = first; i < last; ++i)
        own += __popc(map[i]);
    Word before = sum_before(own, room.sums);
    for (int i = first; i < last; ++i) {
        room.before[i] = before;
        before += __popc(map[i]);
    }
    __syncthreads();
}

// How many bits of the map are set before an entry's.
__device__ __forceinline__ Word rank_of(const Word *map, const int place, const Room &room)
{
    return room.before[place / 32] + __popc(map[place / 32] & ((1u << place % 32) - 1u));
}

// Sets the bits of the `kept` largest magnitudes in `taken`; bins, maps and found[3] are 0, behind a barrier.
template <class Entries>
__device__ __forceinline__ void select(Entries &entries, const Word kept, const int words, const Room &room)
{
    unsigned char *const taken = reinterpret_cast<unsigned char *>(room.taken);
    int shift = LOW_BITS + DIGIT;
    Image least = 0;
    Word need = kept;
#pragma unroll 1
    do {
        const int below = shift < DIGIT ? 0 : shift - DIGIT;
        if (shift > LOW_BITS) {
            entries.runs([&](int, const Real *a) {
#pragma unroll
                for (int n = 0; n < 8; ++n)
                    atomicAdd(room.bins + (Word)(key_of(a[n]) >> LOW_BITS), 1u);
            });
        } else {
            // Another digit of those whose first ones are the K-th's.
            for (int k = (int)threadIdx.x; k < BINS; k += BLOCK)
                room.bins[k] = 0;
            __syncthreads();
            const Word digit = (1u << (shift - below)) - 1u;
            entries.runs([&](int, const Real *a) {
#pragma unroll
                for (int n = 0; n < 8; ++n) {
                    const Image key = key_of(a[n]);
                    if (key >> shift == least >> shift)
                        atomicAdd(room.bins + ((Word)(key >> below) & digit), 1u);
                }
            });
        }
        __syncthreads();
        find_bin(need, room);
        shift = below;
        least |= (Image)room.found[0] << shift;
        need -= room.found[1];
    } while (room.found[2] > LISTED && shift > 0);
    const Word candidates = room.found[2];
    const Image beyond = least + ((Image)1 << shift);
    if (candidates <= LISTED) {
        entries.runs([&](int first, const Real *a) {
            Word mask = 0;
#pragma unroll
            for (int n = 0; n < 8; ++n)
                mask |= (Word)(key_of(a[n]) >= least) << n;
            for (Word left = mask; left; left &= left - 1u) {
                const int n = __ffs((int)left) - 1;
                const Image key = key_of(Entries::pick(a, n));
                if (key < beyond) {
                    const Word at = atomicAdd(room.found + 3, 1u);
                    room.keys[at] = key;
                    room.places[at] = first + n;
                    mask ^= 1u << n;
                }
            }
            taken[first / 8] = (unsigned char)mask;
        });
        __syncthreads();
        // The order of the list is chance: a candidate's rank is the number of those that it loses against.
        if (threadIdx.x < candidates) {
            const Image key = room.keys[threadIdx.x];
            const Word place = room.places[threadIdx.x];
            Word better = 0;
            for (Word i = 0; i < candidates; ++i) {
                const Image other = room.keys[i];
                better += other > key || (other == key && room.places[i] < place);
            }
            if (better < need)
                atomicOr(room.taken + place / 32, 1u << place % 32);
        }
    } else {
        // All digits are known, so that these are equal: the first ones.
        unsigned char *const tied = reinterpret_cast<unsigned char *>(room.tied);
        entries.runs([&](int first, const Real *a) {
            Word mask = 0, equal = 0;
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                mask |= (Word)(key_of(a[n]) >= beyond) << n;
                equal |= (Word)(key_of(a[n]) == least) << n;
            }
            taken[first / 8] = (unsigned char)mask;
            tied[first / 8] = (unsigned char)equal;
        });
        __syncthreads();
        count_before(room.tied, words, room);
        entries.runs([&](int first, const Real *) {
            Word rank = rank_of(room.tied, first, room);
            Word mask = taken[first / 8];
            for (Word left = tied[first / 8]; left && rank < need; left &= left - 1u, ++rank)
                mask |= left & -left;
            taken[first / 8] = (unsigned char)mask;
        });
    }
    __syncthreads();
}
