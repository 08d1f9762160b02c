/* CUDA on the CPU, to check numbers: each thread of a block is a fibre with a stack of its own, which goes on until it
   waits (__syncthreads, a shuffle) or ends. Blocks run one after the other. Shared memory begins as NaN in each block.
   The order of threads is chosen by the caller: a kernel that lacks a barrier gives other numbers in another order.
   Mistakes that a GPU would punish by silence are reported: see `shoal_fault`. */
#define SHOAL_HOST 1
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __launch_bounds__(...)
#define DEV static inline
struct Index3 { unsigned x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

enum Fault { NONE = 0, DIVERGED = 1, WRONG_BARRIER = 2, ABSENT_LANE = 3, TOO_MUCH_SHARED = 4, TOO_MANY_THREADS = 5 };
static int shoal_fault = NONE;
static void fault(int which) { if (!shoal_fault) shoal_fault = which; }

enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Fibre {
    ucontext_t context;
    jmp_buf point;
    char *stack;
    bool begun;
    State state;
    int line;
    unsigned passed;
    Index3 index;
    uint64_t slot;
};
enum { MOST = 1024 };
static Fibre *fibres[MOST];
static unsigned made;
static jmp_buf scheduler;
static Fibre *current;
static unsigned current_number, count;
static void (*body)(void **);
static void **arguments;

static void enter() {
    for (;;) {
        body(arguments);
        current->state = DONE;
        if (_setjmp(current->point) == 0) _longjmp(scheduler, 1);
    }
}

static const size_t STACK = 256 << 10;
static Fibre *new_fibre() {
    Fibre *f = new Fibre();
    f->stack = (char *)malloc(STACK);
    f->begun = false;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    makecontext(&f->context, enter, 0);
    return f;
}

static void pause_in(State state, int line) {
    Fibre *me = current;
    me->state = state;
    me->line = line;
    if (_setjmp(me->point) == 0) _longjmp(scheduler, 1);
}
static void shoal_sync(int line) { pause_in(AT_BLOCK, line); }
#define __syncthreads() shoal_sync(__LINE__)
#define __syncwarp() pause_in(AT_WARP, __LINE__)

template <class T> static T shuffled(T v, unsigned from) {
    memcpy(&current->slot, &v, sizeof v);
    const unsigned base = current_number & ~31u;
    pause_in(AT_WARP, 0);
    if (base + from >= count || fibres[base + from]->state == DONE) fault(ABSENT_LANE);
    else memcpy(&v, &fibres[base + from]->slot, sizeof v);
    pause_in(AT_WARP, 1);
    return v;
}
template <class T> static T __shfl_xor_sync(unsigned, T v, int o) { return shuffled(v, (current_number & 31u) ^ (unsigned)o); }
template <class T> static T __shfl_sync(unsigned, T v, int lane) { return shuffled(v, (unsigned)lane & 31u); }
template <class T> static T __shfl_down_sync(unsigned, T v, int o) {
    const unsigned lane = current_number & 31u;
    return shuffled(v, lane + o < 32 ? lane + o : lane);
}
static unsigned __ballot_sync(unsigned, bool v) {
    const unsigned base = current_number & ~31u;
    current->slot = v;
    pause_in(AT_WARP, 2);
    unsigned found = 0;
    for (unsigned i = 0; i < 32 && base + i < count; i++)
        if (fibres[base + i]->state != DONE && fibres[base + i]->slot) found |= 1u << i;
    pause_in(AT_WARP, 3);
    return found;
}
static int __popc(unsigned x) { return __builtin_popcount(x); }
static uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
template <class T> static T atomicAdd(T *p, T v) { T old = *p; *p = old + v; return old; }
static int atomicOr(int *p, int v) { int old = *p; *p = old | v; return old; }
static int atomicMax(int *p, int v) { int old = *p; *p = old > v ? old : v; return old; }
static void __threadfence() {}

/* Memory of a block: the same for all its threads, NaN at first; each place in the text has its own. */
struct Piece { const void *place; char *memory; };
static Piece pieces[64];
static unsigned piece_count;
static char shared_memory[49152] __attribute__((aligned(16)));
static size_t shared_used;
static void *shared_at(const void *place, size_t bytes) {
    for (unsigned i = 0; i < piece_count; i++) if (pieces[i].place == place) return pieces[i].memory;
    bytes = (bytes + 15) & ~(size_t)15;
    if (shared_used + bytes > sizeof shared_memory || piece_count == 64) { fault(TOO_MUCH_SHARED); return malloc(bytes); }
    pieces[piece_count] = {place, shared_memory + shared_used};
    shared_used += bytes;
    return pieces[piece_count++].memory;
}
#define SHARED(T, name, count) T *const name = (T *)shared_at([] { static char place; return &place; }(), sizeof(T) * (count))

static bool released(State waiting, unsigned first, unsigned last) {
    int line = -1;
    bool some = false;
    for (unsigned i = first; i < last; i++) {
        const Fibre *f = fibres[i];
        if (f->state == DONE) continue;
        if (f->state != waiting) return false;
        if (line >= 0 && f->line != line) fault(WRONG_BARRIER);
        line = f->line;
        some = true;
    }
    if (some) for (unsigned i = first; i < last; i++) if (fibres[i]->state == waiting) fibres[i]->state = READY;
    return some;
}

static void run_block(const unsigned *order) {
    piece_count = 0;
    shared_used = 0;
    memset(shared_memory, 0xff, sizeof shared_memory);
    for (unsigned i = 0; i < count; i++) {
        fibres[i]->state = READY;
        fibres[i]->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    }
    for (;;) {
        bool ran = false, left = false;
        for (volatile unsigned k = 0; k < count; k = k + 1) {
            Fibre *f = fibres[order[k]];
            if (f->state != READY) continue;
            ran = true;
            current = f;
            current_number = order[k];
            threadIdx = f->index;
            if (_setjmp(scheduler) == 0) {
                if (f->begun) _longjmp(f->point, 1);
                f->begun = true;
                setcontext(&f->context);
            }
        }
        for (unsigned w = 0; w < count; w += 32) ran |= released(AT_WARP, w, w + 32 < count ? w + 32 : count);
        for (unsigned i = 0; i < count; i++) left |= fibres[i]->state != DONE;
        if (!left) return;
        ran |= released(AT_BLOCK, 0, count);
        if (!ran) {
            fault(DIVERGED);
            for (unsigned i = 0; i < made; i++) fibres[i] = new_fibre(); /* those that wait are never gone on with */
            return;
        }
    }
}

static int run_grid(const unsigned *grid, const unsigned *block, int seed) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    count = block[0] * block[1] * block[2];
    shoal_fault = NONE;
    while (made < count) fibres[made++] = new_fibre();
    unsigned order[MOST];
    for (unsigned i = 0; i < count; i++) order[i] = seed == 1 ? count - 1 - i : i;
    uint64_t random = (uint64_t)seed * 0x9E3779B97F4A7C15u + 1;
    for (unsigned i = count; seed > 1 && i > 1; i--) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const unsigned j = (random >> 33) % i, held = order[i - 1];
        order[i - 1] = order[j];
        order[j] = held;
    }
    for (unsigned z = 0; z < grid[2]; z++) for (unsigned y = 0; y < grid[1]; y++) for (unsigned x = 0; x < grid[0]; x++) {
        blockIdx = {x, y, z};
        run_block(order);
        if (shoal_fault) return shoal_fault;
    }
    return NONE;
}

/* Calls a kernel with the arguments at these addresses. */
template <int... I> struct Numbers {};
template <int N, int... I> struct Upto : Upto<N - 1, N - 1, I...> {};
template <int... I> struct Upto<0, I...> { typedef Numbers<I...> type; };
template <class F, F f> struct Kernel;
template <class... A, void (*f)(A...)> struct Kernel<void (*)(A...), f> {
    template <int... I> static void call(void **p, Numbers<I...>) { f(*(A *)p[I]...); }
    static void run(void **p) { call(p, typename Upto<sizeof...(A)>::type()); }
    static int launch(void **p, const unsigned *grid, const unsigned *block, int seed) {
        if (block[0] * block[1] * block[2] > MOST) return TOO_MANY_THREADS;
        body = run;
        arguments = p;
        return run_grid(grid, block, seed);
    }
    static int sizes(int *out) {
        const int found[] = {(int)sizeof(A)..., 0};
        memcpy(out, found, sizeof found);
        return sizeof...(A);
    }
};

/* Half precision in integers: rounded to nearest, ties to even. */
static float host_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static uint32_t host_as_word(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static uint16_t host_to_bf16(float x) {
    const uint32_t u = host_as_word(x);
    return x != x ? 0x7fff : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static float host_from_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 1023;
    if (e == 31) return host_as_float(sign | 0x7f800000 | m << 13);
    if (e == 0) return (sign ? -1.0f : 1.0f) * ldexpf((float)m, -24);
    return host_as_float(sign | (e + 112) << 23 | m << 13);
}
static uint16_t host_to_half(float x) {
    const uint16_t sign = (uint16_t)(host_as_word(x) >> 16 & 0x8000);
    const float a = fabsf(x);
    if (x != x) return 0x7fff;
    if (a >= 65520.0f) return sign | 0x7c00;
    if (a < 6.103515625e-05f) return sign | (uint16_t)nearbyintf(a * 16777216.0f);
    const uint32_t u = host_as_word(a);
    return sign | (uint16_t)((u - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13);
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
