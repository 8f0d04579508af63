// What a kernel that was compiled with shim.h runs on: fibres, barriers, warp operations, and the checker.
//
// Blocks run one after another. Threads are lazy: a fibre runs threads as plain calls, one after the other,
// and only a thread that has to wait keeps its fibre, while another fibre goes on with the next thread. A
// switch is _setjmp and _longjmp, without a system call; makecontext is used once for each stack.
//
// The checker is the compiler's own instrumentation (-fsanitize=thread, kernel-address, undefined) with the
// callbacks at the end of this file instead of the sanitizers' libraries: each access is seen before it
// happens, a wrong one ends the launch and never reaches memory.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

typedef unsigned long long word;
struct triple { unsigned x, y, z; };
#define ALWAYS inline __attribute__((always_inline))
enum Order { FORWARD, REVERSE, RANDOM };
enum Kind { READ, WRITE, ATOMIC };
static const char *const KINDS[] = {"read", "write", "atomic"};
const unsigned MOST_THREADS = 1024, STACK = 128 << 10, ARENA = 256 << 10, CANARY = 0x5A;

// ---- what Python and the runtime tell each other; build.py has the same fields in the same order ----------
struct Cell { word write, read; };  // stamps of the last accesses
struct Region {
    char *begin, *end;
    const char *name;
    unsigned item, writable;  // bytes of a cell (a power of two)
    Cell *cells;
    word loads, stores, bytes_read, bytes_written, sectors_read, sectors_written, cells_read, cells_written,
        cells_met;
};
struct Job {
    void (*kernel)(void **);
    void **args;
    Region *regions;
    void *image[5];  // bounds of static shared memory, of the library, end of its constants
    word first, count, finished, steps;
    unsigned n_regions, grid[3], block[3], shared, order, seed, checked, flush;
    unsigned milliseconds;
    char message[768];
    void *where, *culprit;  // the access in the code; its address, if in shared memory
    unsigned char *reached;  // a byte for each of the library, or null
};

extern "C" {
triple threadIdx, blockIdx, blockDim, gridDim;
char sim_arena[ARENA] __attribute__((aligned(256)));
}

// ---- threads and fibres -----------------------------------------------------------------------------------
enum State : unsigned char { FRESH, RUNNING, READY, AT_BARRIER, AT_WARP, DONE };
struct Fibre {
    jmp_buf jump;
    ucontext_t context;
    char *stack;
    bool started;
    unsigned thread;
};
struct Thread {
    State state;
    Fibre *fibre;
    int operation;
    unsigned mask, warp_epoch;
    word value, got[32];
};
static Fibre fibres[MOST_THREADS + 1], *parked[MOST_THREADS + 1], *current;
static Thread threads[MOST_THREADS];
static unsigned made, n_parked, total, fresh, done, ready[MOST_THREADS], n_ready, n_barrier, epoch;
static unsigned starting[MOST_THREADS], waiting[32], returned[32];  // the latter: masks by warp
static int barrier_line, barrier_vote[3];
static word block_number, random_state;
static Job *job;
static jmp_buf on_error, on_block_done;
static Region dynamic_shared, static_shared, *recent;

static word chance(word n) {  // xorshift64*
    random_state ^= random_state >> 12, random_state ^= random_state << 25,
        random_state ^= random_state >> 27;
    return (random_state * 2685821657736338717ull >> 33) % n;
}

[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list more;
    va_start(more, format);
    int n = vsnprintf(job->message, sizeof job->message - 80, format, more);
    va_end(more);
    if (n > (int)sizeof job->message - 81) n = (int)sizeof job->message - 81;
    snprintf(job->message + n, 80, " [block (%u,%u,%u) thread (%u,%u,%u)]", blockIdx.x, blockIdx.y,
             blockIdx.z,
             threadIdx.x, threadIdx.y, threadIdx.z);
    _longjmp(on_error, 1);
}

static int lowest(unsigned mask) { return __builtin_ctz(mask); }

static triple place(word i, const triple &n) {
    return {(unsigned)(i % n.x), (unsigned)(i / n.x % n.y), (unsigned)(i / n.x / n.y)};
}

static void finish();
static void fibre_main() {
    for (;;) {
        job->kernel(job->args);
        finish();
    }
}

static Fibre *take_fibre() {
    if (n_parked) return parked[--n_parked];
    Fibre *f = &fibres[made++];
    if (!f->stack) {
        f->stack = (char *)mmap(0, STACK, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED) abort();
        mprotect(f->stack, 4096, PROT_NONE);
    }
    f->started = false;
    return f;
}

static void enter(unsigned t) {
    threads[t].state = RUNNING;
    threadIdx = blockDim.x == total ? triple{t, 0, 0} : place(t, blockDim);
}

static int choose() {
    bool new_one = fresh < total;
    if (!new_one && !n_ready) return -1;
    if (n_ready && (!new_one || job->order == FORWARD || (job->order == RANDOM && chance(2)))) {
        unsigned last = n_ready - 1;
        unsigned i = job->order == FORWARD ? 0 : job->order == REVERSE ? last : (unsigned)chance(n_ready);
        unsigned t = ready[i];
        memmove(ready + i, ready + i + 1, (--n_ready - i) * sizeof *ready);
        return (int)t;
    }
    return (int)starting[fresh++];
}

[[noreturn]] static void go(unsigned t) {
    if (threads[t].state == FRESH) threads[t].fibre = take_fibre(), threads[t].fibre->thread = t;
    current = threads[t].fibre;
    enter(t);
    if (current->started) _longjmp(current->jump, 1);
    current->started = true;
    getcontext(&current->context);
    current->context.uc_stack.ss_sp = current->stack;
    current->context.uc_stack.ss_size = STACK;
    current->context.uc_link = nullptr;
    makecontext(&current->context, fibre_main, 0);
    setcontext(&current->context);
    abort();
}

[[noreturn]] static void stuck() {
    unsigned warps = 0, barrier = 0, sample = 0;
    for (unsigned t = 0; t < total; t++) {
        if (threads[t].state == AT_WARP) sample = t, warps++;
        barrier += threads[t].state == AT_BARRIER;
    }
    if (warps) threadIdx = place(sample, blockDim);
    fail("deadlock: %u threads wait at the barrier of line %d, %u at a warp operation, %u have returned",
        barrier,
         barrier_line, warps, done);
}

static void suspend() {
    int t = choose();
    if (t < 0) stuck();
    if (!_setjmp(current->jump)) go((unsigned)t);
}

static void finish() {
    threads[current->thread].state = DONE;
    unsigned me = current->thread, lane = me & 31;
    returned[me / 32] |= 1u << lane;
    for (unsigned left = waiting[me / 32]; left; left &= left - 1) {
        unsigned other = (unsigned)lowest(left);
        if (threads[(me & ~31u) + other].mask >> lane & 1)
            fail("a lane has returned while lane %u waits for it at a warp operation", other);
    }
    done++;
    if (n_barrier)
        fail("divergent barrier: a thread returned while %u wait at the barrier of line %d", n_barrier,
            barrier_line);
    int t = choose();
    if (t < 0 && done < total) stuck();
    if (t >= 0 && threads[t].state == FRESH) {
        current->thread = (unsigned)t, threads[t].fibre = current;
        enter((unsigned)t);
        return;
    }
    parked[n_parked++] = current;
    if (!_setjmp(current->jump)) {
        if (t < 0) _longjmp(on_block_done, 1);
        go((unsigned)t);
    }
}

static void release(unsigned t) {
    threads[t].state = READY;
    ready[n_ready++] = t;
}

extern "C" int sim_barrier_vote(int line, int kind, int predicate) {
    unsigned me = current->thread;
    if (done) fail("divergent barrier: line %d is reached after %u threads have returned", line, done);
    if (!n_barrier) barrier_line = line, barrier_vote[0] = 0, barrier_vote[1] = 1, barrier_vote[2] = 0;
    if (line != barrier_line)
        fail("divergent barrier: a thread is at line %d while %u wait at line %d", line, n_barrier,
            barrier_line);
    barrier_vote[0] += predicate != 0, barrier_vote[1] &= predicate != 0, barrier_vote[2] |= predicate != 0;
    if (++n_barrier < total) {
        threads[me].state = AT_BARRIER;
        suspend();
        return (int)threads[me].got[kind];
    }
    n_barrier = 0;
    epoch++;
    for (unsigned t = 0; t < total; t++) {
        for (int k = 0; k < 3; k++) threads[t].got[k] = (word)barrier_vote[k];
        if (threads[t].state == AT_BARRIER) release(t);
    }
    return barrier_vote[kind];
}
extern "C" void sim_barrier(int line) { sim_barrier_vote(line, 0, 0); }

// ---- warps: each lane of the mask brings a value, and goes on when all have come --------------------------
static const char *const WARP[] = {"__syncwarp", "a shuffle", "a vote", "__match_any_sync", "a reduction"};
static unsigned present(unsigned mask) {
    unsigned base = current->thread & ~31u;
    return base + 32 <= total ? mask : mask & ((1u << (total - base)) - 1);
}
static const word *meet(int operation, unsigned mask, word value) {
    unsigned me = current->thread, lane = me & 31, base = me & ~31u, warp = me / 32;
    const char *what = WARP[operation & 7];
    if (!(mask >> lane & 1))
        fail("%s is called by lane %u, which its mask %08x leaves out", what, lane, mask);
    // A short last warp: the full mask is allowed to name lanes that do not exist.
    unsigned named = mask == 0xffffffffu ? present(mask) : mask;
    if (named & ~present(named))
        fail("the mask %08x of %s names lane %d, which does not exist", mask, what,
            lowest(named & ~present(named)));
    if (named & returned[warp])
        fail("%s waits for lane %d, which has returned", what, lowest(named & returned[warp]));
    Thread *lanes = threads + base, &mine = threads[me];
    unsigned others = named & ~(1u << lane), here = others & waiting[warp];
    bool complete = here == others;
    // Lanes that came before were compared with each other: one of them is enough, all of them at the end.
    for (unsigned left = here; left; left = complete ? left & (left - 1) : 0) {
        Thread &other = lanes[lowest(left)];
        if (other.operation == operation && other.mask == mask) continue;
        if (other.mask >> lane & 1)
            fail("%s with mask %08x meets %s of lane %d with mask %08x", what, mask,
                WARP[other.operation & 7],
                 lowest(left), other.mask);
        complete = false;
    }
    mine.operation = operation, mine.mask = mask, mine.value = value;
    if (!complete) {
        mine.state = AT_WARP;
        waiting[warp] |= 1u << lane;
        suspend();
        return threads[current->thread].got;
    }
    word all[32] = {};
    for (unsigned left = named; left; left &= left - 1) all[lowest(left)] = lanes[lowest(left)].value;
    waiting[warp] &= ~named;
    for (unsigned left = named; left; left &= left - 1) {
        unsigned l = (unsigned)lowest(left);
        memcpy(lanes[l].got, all, sizeof all);
        if (!operation) lanes[l].warp_epoch++;
        if (l != lane) release(base + l);
    }
    return mine.got;
}

extern "C" void sim_syncwarp(unsigned mask) { meet(0, mask, 0); }
extern "C" word sim_shuffle(unsigned mask, word value, int source, int own) {
    const word *all = meet(1, mask, value);
    if (own) return value;
    if (source < 0 || source > 31 || !(present(mask) >> source & 1))
        fail("a shuffle reads lane %d, which takes no part in it", source);
    return all[source];
}
extern "C" unsigned sim_ballot(unsigned mask, int predicate) {
    const word *all = meet(2, mask, predicate != 0);
    unsigned out = 0;
    for (int l = 0; l < 32; l++) out |= (unsigned)all[l] << l;
    return out;
}
extern "C" unsigned sim_match(unsigned mask, word value) {
    const word *all = meet(3, mask, value);
    unsigned out = 0;
    for (int l = 0; l < 32; l++) out |= (unsigned)(all[l] == value) << l;
    return out & present(mask);
}
extern "C" word sim_reduce(unsigned mask, word value, int kind) {
    const word *all = meet(4 | (kind + 1) << 3, mask, value);
    unsigned out = (unsigned)value, lane = current->thread & 31;
    mask = present(mask);
    for (unsigned l = 0; l < 32; l++) {
        unsigned x = (unsigned)all[l];
        if (!(mask >> l & 1) || l == lane) continue;
        switch (kind) {
            case 0: out += x; break;
            case 1: out = x < out ? x : out; break;
            case 2: out = x > out ? x : out; break;
            case 3: out = (int)x < (int)out ? x : out; break;
            case 4: out = (int)x > (int)out ? x : out; break;
            case 5: out &= x; break;
            case 6: out |= x; break;
            default: out ^= x;
        }
    }
    return out;
}
extern "C" void sim_trap() { fail("__trap() was called"); }
extern "C" float sim_half_to_float(unsigned short bits) {
    _Float16 h;
    memcpy(&h, &bits, 2);
    return (float)h;
}
extern "C" unsigned short sim_float_to_half(float value) {
    _Float16 h = (_Float16)value;
    unsigned short bits;
    memcpy(&bits, &h, 2);
    return bits;
}

// ---- the checker: a stamp says who accessed a cell last ---------------------------------------------------
// valid 1 | block 22 | epoch 16 | warp epoch 12 | thread 10 | several 2 | atomic 1 several: 1 lanes of one
// warp, 2 warps of one block, 3 blocks have accessed it, with nothing between.
static const word ATOMIC_BIT = 1, VALID = 1ull << 63;
static unsigned several(word s) { return s >> 1 & 3; }
static unsigned thread_of(word s) { return s >> 3 & 1023; }
static bool same(word a, word b, int low, int bits) { return !((a ^ b) >> low & ((1ull << bits) - 1)); }
static bool same_block(word a, word b) { return same(a, b, 41, 22); }
static bool same_epoch(word a, word b) { return same(a, b, 25, 16); }
static bool same_warp(word a, word b) { return same(a, b, 8, 5); }
static bool same_warp_epoch(word a, word b) { return same(a, b, 13, 12); }

static ALWAYS word stamp(Kind kind) {
    unsigned me = current->thread;
    return VALID | (block_number & 0x3fffff) << 41 | (word)(epoch & 0xffff) << 25 |
           (word)(threads[me].warp_epoch & 0xfff) << 13 | (word)me << 3 | (kind == ATOMIC ? ATOMIC_BIT : 0);
}
// Whether nothing orders an earlier access before one of the running thread.
static ALWAYS bool unordered(word earlier, word now) {
    if (!(earlier & VALID)) return false;
    if (several(earlier) == 3 || !same_block(earlier, now)) return true;
    if (!same_epoch(earlier, now)) return false;
    if (several(earlier) == 2 || !same_warp(earlier, now)) return true;
    if (!same_warp_epoch(earlier, now)) return false;
    return several(earlier) == 1 || thread_of(earlier) != thread_of(now);
}
static ALWAYS word merge(word earlier, word now) {
    if (!(earlier & VALID)) return now;
    unsigned n = 0;
    if (several(earlier) == 3 || !same_block(earlier, now)) n = 3;
    else if (!same_epoch(earlier, now)) return now;
    else if (several(earlier) == 2 || !same_warp(earlier, now)) n = 2;
    else if (!same_warp_epoch(earlier, now)) return now;
    else if (several(earlier) == 1 || thread_of(earlier) != thread_of(now)) n = 1;
    return (now & ~ATOMIC_BIT) | (now & earlier & ATOMIC_BIT) | (word)n << 1;
}

[[noreturn]] static void race(const Region *r, const char *p, word earlier, const char *was, Kind kind,
    unsigned size) {
    char who[48];
    bool other = several(earlier) == 3 || !same_block(earlier, stamp(kind));
    if (other)
        snprintf(who, sizeof who, "block %llu", (earlier >> 41 & 0x3fffff) + job->first);
    else
        snprintf(who, sizeof who, "thread %u of this block", thread_of(earlier));
    if (r == &static_shared || r == &dynamic_shared) job->culprit = (void *)p;
    fail("race: %s of %u bytes at '%s'[%llu] after a %s by %s, with nothing between that orders them",
        KINDS[kind],
         size, r->name, (word)(p - r->begin) / r->item, was, who);
}

[[noreturn]] static void outside(const char *p, unsigned size, Kind kind) {
    const Region *best = nullptr;
    word distance = ~0ull;
    bool before = false;
    // The start of a window into a large array may lie below address 0: as signed numbers they are in order.
    auto consider = [&](const Region &r) {
        bool below = (long long)p < (long long)r.begin;
        word d = below ? (word)(r.begin - p) : (long long)p >= (long long)r.end ? (word)(p - r.end) : 0;
        if (d < distance) distance = d, best = &r, before = below;
    };
    for (unsigned i = 0; i < job->n_regions; i++) consider(job->regions[i]);
    if (static_shared.begin != static_shared.end) consider(static_shared);
    if (dynamic_shared.begin != dynamic_shared.end) consider(dynamic_shared);
    if (!best) fail("%s of %u bytes out of bounds: the kernel has no memory", KINDS[kind], size);
    if (p >= best->begin && p < best->end)
        fail("%s of %u bytes out of bounds, of which %llu beyond '%s'", KINDS[kind], size,
            (word)(p + size - best->end), best->name);
    const char *side = before ? "before" : "after";
    fail("%s of %u bytes out of bounds, %llu bytes %s '%s'", KINDS[kind], size, distance, side, best->name);
}

struct Global {  // of the address sanitizer
    char *begin;
    word size, padded;
    const char *name, *module;
    word dynamic;
    void *location, *odr;
};
static Global *globals[4096], *shared_arrays[256];
static unsigned n_globals, n_shared_arrays;

static void access(char *p, unsigned size, Kind kind, void *where) {
    if (!job) return;
    if ((word)(p - current->stack) < STACK) return;
    job->where = where;
    if (++job->steps > 4000000000ull) fail("a launch without an end: more than 4e9 accesses");
    Region *r = recent;
    if (!(r && p >= r->begin && p + size <= r->end)) {
        r = nullptr;
        for (unsigned i = 0; i < job->n_regions && !r; i++)
            if (p >= job->regions[i].begin && p + size <= job->regions[i].end) r = &job->regions[i];
        if (!r && p >= static_shared.begin && p + size <= static_shared.end) r = &static_shared;
        if (!r && p >= dynamic_shared.begin && p + size <= dynamic_shared.end) r = &dynamic_shared;
        if (!r) {
            bool own = p >= (char *)job->image[2] && p < (char *)job->image[3];
            bool constant = own && p < (char *)job->image[4];
            for (triple *index : {&threadIdx, &blockIdx, &blockDim, &gridDim})
                constant |= (word)(p - (char *)index) < sizeof *index;
            if (kind == READ && constant)
                return;
            if (static_shared.begin == static_shared.end && own)
                fail("%s of a variable of the module: only arguments and shared memory may vary",
                    KINDS[kind]);
            outside(p, size, kind);
        }
        recent = r;
    }
    if (r == &static_shared && n_shared_arrays) {
        bool inside = false;
        for (unsigned i = 0; i < n_shared_arrays && !inside; i++)
            inside = p >= shared_arrays[i]->begin &&
                p + size <= shared_arrays[i]->begin + shared_arrays[i]->size;
        if (!inside)
            job->culprit = p, fail("%s of %u bytes out of bounds of a shared array", KINDS[kind], size);
    }
    if (kind == WRITE && !r->writable) fail("write of %u bytes to '%s', which is const", size, r->name);
    if (kind == ATOMIC && (word)p % size) fail("misaligned atomic of %u bytes at '%s'", size, r->name);
    if (kind != WRITE) r->loads++, r->bytes_read += size;
    if (kind != READ) r->stores++, r->bytes_written += size;
    if (!r->cells) return;
    word now = stamp(kind);
    bool shared = r == &static_shared || r == &dynamic_shared;
    Cell *c = r->cells + (word)(p - r->begin) / r->item,
        *end = r->cells + (word)(p + size - 1 - r->begin) / r->item;
    for (; c <= end; c++) {
        if (shared) {
            if (!same_block(c->write, now)) c->write = 0;
            if (!same_block(c->read, now)) c->read = 0;
            if (kind != WRITE && !c->write)
                job->culprit = p, fail("%s of %u bytes of uninitialised '%s'[%llu]", KINDS[kind], size,
                    r->name, (word)(p - r->begin));
        }
        if (unordered(c->write, now) && !(kind == ATOMIC && c->write & ATOMIC_BIT))
            race(r, p, c->write, c->write & ATOMIC_BIT ? "atomic" : "write", kind, size);
        if (kind != READ && !(kind == ATOMIC && c->read & ATOMIC_BIT) && unordered(c->read, now))
            race(r, p, c->read, "read", kind, size);
        if (kind != WRITE) c->read = merge(c->read, now);
        if (kind != READ) c->write = merge(c->write, now);
    }
}

// ---- one launch -------------------------------------------------------------------------------------------
static void on_signal(int number) {
    if (!job) return;
    if (number == SIGFPE) fail("integer division by zero");
    if (number == SIGVTALRM) fail("a launch without an end: it has spent all its seconds of processor time");
    fail("memory fault: a wild address, or a stack of more than 120 KiB");
}

static void run_block(word number) {
    block_number = number;
    blockIdx = place(number + job->first, gridDim);
    memset(static_shared.begin, 0xFF, (size_t)(static_shared.end - static_shared.begin));
    memset(sim_arena, 0xFF, job->shared);
    for (unsigned t = 0; t < total; t++) threads[t].state = FRESH, threads[t].warp_epoch = 0;
    fresh = done = n_ready = n_barrier = epoch = 0;
    memset(waiting, 0, sizeof waiting), memset(returned, 0, sizeof returned);
    for (unsigned t = 0; t < total; t++) starting[t] = job->order == REVERSE ? total - 1 - t : t;
    if (job->order == RANDOM)
        for (unsigned t = total - 1; t > 0; t--) {
            unsigned o = (unsigned)chance(t + 1), keep = starting[t];
            starting[t] = starting[o], starting[o] = keep;
        }
    if (!_setjmp(on_block_done)) go((unsigned)choose());
    unsigned beyond = ARENA - job->shared < 4096 ? ARENA - job->shared : 4096;
    for (unsigned i = 0; i < beyond; i++)
        if (sim_arena[job->shared + i] != CANARY)
            fail("write beyond the %u bytes of dynamic shared memory", job->shared);
}

static void count_cells(Region &r) {
    if (!r.cells) return;
    word cells = (word)(r.end - r.begin) / r.item, before_read = ~0ull, before_write = ~0ull;
    for (word i = 0; i < cells; i++) {
        word sector = (word)(r.begin + i * r.item) / 32;
        r.cells_met += r.cells[i].read || r.cells[i].write;
        if (r.cells[i].read) r.cells_read++, r.sectors_read += sector != before_read, before_read = sector;
        if (r.cells[i].write)
            r.cells_written++, r.sectors_written += sector != before_write, before_write = sector;
    }
    free(r.cells);
    r.cells = nullptr;
}

static Cell *cells_for(const Region &r) {
    return (Cell *)calloc((size_t)((word)(r.end - r.begin + r.item - 1) / r.item + 1), sizeof(Cell));
}

extern "C" int sim_launch(Job *given) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM};
    static struct sigaction old[4];
    static stack_t old_stack;
    static unsigned *permutation;
    static char *signal_stack = (char *)malloc(1 << 16);
    given->message[0] = 0;
    given->finished = 0;
    gridDim = {given->grid[0], given->grid[1], given->grid[2]};
    blockDim = {given->block[0], given->block[1], given->block[2]};
    total = blockDim.x * blockDim.y * blockDim.z;
    random_state = given->seed * 0x9E3779B97F4A7C15ull + 0x1234567ull;
    made = n_parked = 0;  // stacks stay, contexts are made anew: a failed launch leaves them anywhere
    recent = nullptr;
    static_shared = {(char *)given->image[0], (char *)given->image[1], "static shared memory", 1, 1,
        nullptr, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    dynamic_shared = {sim_arena, sim_arena + given->shared, "dynamic shared memory", 1, 1, nullptr, 0, 0,
        0, 0, 0, 0, 0, 0, 0};
    memset(sim_arena + given->shared, CANARY, ARENA - given->shared);
    if (given->checked) {
        for (unsigned i = 0; i < given->n_regions; i++)
            given->regions[i].cells = cells_for(given->regions[i]);
        static_shared.cells = cells_for(static_shared);
        dynamic_shared.cells = cells_for(dynamic_shared);
    }
    n_shared_arrays = 0;
    for (unsigned i = 0; i < n_globals && n_shared_arrays < 256; i++)
        if (globals[i]->begin >= static_shared.begin && globals[i]->begin < static_shared.end)
            shared_arrays[n_shared_arrays++] = globals[i];
    permutation = nullptr;
    stack_t alternate = {};
    alternate.ss_sp = signal_stack, alternate.ss_size = 1 << 16;
    sigaltstack(&alternate, &old_stack);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; i++) sigaction(signals[i], &action, &old[i]);
    itimerval limit = {};
    limit.it_value = {given->milliseconds / 1000, given->milliseconds % 1000 * 1000};
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);
#if defined(__x86_64__)
    static unsigned control;
    control = _mm_getcsr();
    if (given->flush) _mm_setcsr(control | 0x8040);
#endif
    job = given;
    if (!_setjmp(on_error)) {
        if (job->order == RANDOM) {
            permutation = (unsigned *)malloc(job->count * sizeof *permutation);
            for (word i = 0; i < job->count; i++) {
                word o = chance(i + 1);
                permutation[i] = permutation[o], permutation[o] = (unsigned)i;
            }
        }
        for (; job->finished < job->count; job->finished++) {
            word i = job->finished;
            run_block(job->order == RANDOM ? permutation[i] : job->order == REVERSE ? job->count - 1 - i : i);
        }
    }
    job = nullptr;
#if defined(__x86_64__)
    _mm_setcsr(control);
#endif
    limit.it_value = {0, 0};
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);
    for (int i = 0; i < 4; i++) sigaction(signals[i], &old[i], nullptr);
    sigaltstack(&old_stack, nullptr);
    free(permutation);
    free(static_shared.cells);
    free(dynamic_shared.cells);
    for (unsigned i = 0; i < given->n_regions; i++) count_cells(given->regions[i]);
    return given->message[0] != 0;
}

// ---- callbacks of the compiler's instrumentation ----------------------------------------------------------
#define HERE __builtin_return_address(0)
extern "C" {
void sim_atomic(void *p, int size, void *from) { access((char *)p, (unsigned)size, ATOMIC, from); }
void __tsan_init() {}
#define SIZED(n) \
    void __tsan_read##n(void *p) { access((char *)p, n, READ, HERE); } \
    void __tsan_write##n(void *p) { access((char *)p, n, WRITE, HERE); } \
    void __tsan_unaligned_read##n(void *p) { access((char *)p, n, READ, HERE); } \
    void __tsan_unaligned_write##n(void *p) { access((char *)p, n, WRITE, HERE); } \
    void __asan_load##n##_noabort(void *p) { access((char *)p, n, READ, HERE); } \
    void __asan_store##n##_noabort(void *p) { access((char *)p, n, WRITE, HERE); }
SIZED(1) SIZED(2) SIZED(4) SIZED(8) SIZED(16)
void __tsan_read_range(void *p, size_t n) { access((char *)p, (unsigned)n, READ, HERE); }
void __tsan_write_range(void *p, size_t n) { access((char *)p, (unsigned)n, WRITE, HERE); }
void __asan_loadN_noabort(void *p, size_t n) { access((char *)p, (unsigned)n, READ, HERE); }
void __asan_storeN_noabort(void *p, size_t n) { access((char *)p, (unsigned)n, WRITE, HERE); }
void __asan_handle_no_return() {}
void __sanitizer_cov_trace_pc() {
    if (job && job->reached) job->reached[(char *)HERE - (char *)job->image[2]] = 1;
}
void __asan_register_globals(Global *g, size_t n) {
    for (size_t i = 0; i < n && n_globals < sizeof globals / sizeof *globals; i++)
        globals[n_globals++] = g + i;
}
void __asan_unregister_globals(Global *, size_t) {}

static void undefined(const char *what, void *where) {
    if (job) job->where = where, fail("undefined: %s", what);
}
#define UNDEFINED(name, what) \
    void __ubsan_handle_##name(void *) { undefined(what, HERE); }
UNDEFINED(add_overflow, "signed sum overflows") UNDEFINED(sub_overflow, "signed difference overflows")
UNDEFINED(mul_overflow, "signed product overflows") UNDEFINED(negate_overflow, "signed negation overflows")
UNDEFINED(divrem_overflow, "division by zero, or of the least integer by -1")
UNDEFINED(shift_out_of_bounds,
    "shift by a negative number or by more than the width, or out of a signed integer")
UNDEFINED(out_of_bounds, "index out of an array's bounds")
UNDEFINED(float_cast_overflow, "the number does not fit the type that it is cast to")
UNDEFINED(load_invalid_value, "not a value of its type") UNDEFINED(nonnull_arg, "null argument")
UNDEFINED(builtin_unreachable, "unreachable code is reached")
UNDEFINED(missing_return, "a function returns nothing")
UNDEFINED(vla_bound_not_positive, "array without entries")
UNDEFINED(invalid_builtin, "__builtin_clz or ctz of 0")
UNDEFINED(pointer_overflow, "address arithmetic leaves the address space")
void __ubsan_handle_type_mismatch_v1(void *, word address) {
    undefined(address ? "misaligned address" : "null pointer", HERE);
}
}
