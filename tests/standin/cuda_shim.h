// Runs CUDA C++ kernels on one CPU thread, for tests: CUDA threads are fibers, blocks run in turn.
// Only C headers and static arrays, since every kernel file is compiled together with this one.
#pragma once
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS                 // <cmath> of C++17 alone takes a second to compile
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <ucontext.h>
#endif

#define LRP_CPU_SHIM 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
#define SHIM_VECTOR(T, N)                                                                          \
    struct N##1 { T x; };                                                                          \
    struct __align__(sizeof(T) * 2) N##2 { T x, y; };                                              \
    struct N##3 { T x, y, z; };                                                                    \
    struct __align__(sizeof(T) == 8 ? 16 : sizeof(T) * 4) N##4 { T x, y, z, w; };                  \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; }                                    \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(float, float)
SHIM_VECTOR(double, double)
SHIM_VECTOR(int, int)
SHIM_VECTOR(long long, longlong)
SHIM_VECTOR(unsigned char, uchar)
struct uint2 { unsigned x, y; } __align__(8);
struct uint4 { unsigned x, y, z, w; } __align__(16);
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace shim {
enum { MAX_THREADS = 1024, WARP = 32, STACK = 64 << 10, PAGE = 4096, SKEW = 8192, SHARED_ROOM = 256 << 10 };

// ---- fibers ------------------------------------------------------------------------------------
#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* to);
__asm__(".local shim_switch\n.type shim_switch,@function\nshim_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
struct Context {
    void* top = nullptr;
    void make(char* stack, size_t size, void (*entry)()) {
        void** p = (void**)((uintptr_t)(stack + size) & ~(uintptr_t)15);
        *--p = nullptr;
        *--p = (void*)entry;
        for (int i = 0; i < 6; ++i) *--p = nullptr;
        top = p;
    }
    static void swap(Context& from, Context& to) { shim_switch(&from.top, to.top); }
};
#else
struct Context {
    ucontext_t u;
    void make(char* stack, size_t size, void (*entry)()) {
        getcontext(&u);
        u.uc_stack.ss_sp = stack;
        u.uc_stack.ss_size = size;
        u.uc_link = nullptr;
        makecontext(&u, entry, 0);
    }
    static void swap(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
};
#endif

enum State : unsigned char { RUNNING, READY, AT_BARRIER, AT_WARP, DONE };   // READY: released, not yet resumed
struct Copy { void* to; const void* from; int bytes, valid, group; };
struct Product;                                         // of wgmma, under way
struct Thread {
    uint3 index;
    State state;
    int line, fiber, group, copies, room;
    Copy* copy;
    int products, product_room, product_group, product_number;
    Product* product;
    bool fenced, unshown;                               // unshown: what it copied has not been shown to wgmma
};
struct Warp {
    unsigned mask, arrived, live, members[2];
    int round, line;
    uint64_t value[2][WARP];
    float tile[2][WARP][6];
};
struct Fiber { Context context; char* stack; };

static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / WARP];
static Fiber fibers[MAX_THREADS];
static int order[MAX_THREADS], idle[MAX_THREADS];
static int fiber_count, idle_count;                     // fibers made; those of them without a thread
static Context outside;
static int thread_count, started, alive, ready, at_barrier, cursor, current, fiber;
static int barrier_line, votes[3], verdict[3];
static unsigned block_number;
static char *dynamic_shared, *shared_arena;
static bool unshown;                                    // a thread came to a barrier with unshown copies
static int most_products[MAX_THREADS / 128];
static char message[512];
static sigjmp_buf escape;
static void (*body)(void*);
static void* body_argument;

static const char* where(int t) {
    static char text[120];
    uint3 b = blockIdx, i = threads[t].index;
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, i.x, i.y, i.z);
    return text;
}
[[noreturn]] static void fail(const char* format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    siglongjmp(escape, 1);
}

// ---- which fiber runs next ---------------------------------------------------------------------
static inline void become(int t) { current = t; threadIdx = threads[t].index; }
static void release_warp(Warp& w, int first) {
    w.members[w.round & 1] = w.arrived;
    w.arrived = 0;
    ++w.round;
    for (int t = first; t < first + WARP && t < thread_count; ++t)
        if (threads[t].state == AT_WARP) { threads[t].state = READY; ++ready; }
}
static void run_threads();
static int take_fiber() {
    if (idle_count) return idle[--idle_count];
    Fiber& f = fibers[fiber_count];
    size_t size = STACK + SKEW + PAGE;
    f.stack = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(f.stack, PAGE, PROT_NONE);
    // stacks that all start at the same offset in a page would share a few cache sets
    f.context.make(f.stack, size - fiber_count * 448 % SKEW, run_threads);
    return fiber_count++;
}
static void open_barrier() {
    memcpy(verdict, votes, sizeof votes);
    barrier_line = votes[0] = votes[1] = at_barrier = 0;
    votes[2] = 1;
    for (int t = 0; t < thread_count; ++t)
        if (threads[t].state == AT_BARRIER) { threads[t].state = READY; ++ready; }
}
static int next_fiber() {                               // -1: the block is finished
    if (started < thread_count) return take_fiber();
    if (!alive) return -1;
    if (!ready) {
        if (at_barrier != alive) {
            int t = 0;
            while (threads[t].state != AT_WARP) ++t;
            fail("deadlock: the warp operation in line %d waits for a lane in vain, %s", threads[t].line, where(t));
        }
        open_barrier();
        cursor = -1;
    }
    do cursor = cursor + 1 == thread_count ? 0 : cursor + 1; while (threads[order[cursor]].state != READY);
    return threads[order[cursor]].fiber;
}
static void go_on(int from) {                           // leaves fiber `from` until something resumes it
    int to = next_fiber();
    if (to == from) return;
    fiber = to;
    Context::swap(fibers[from].context, to < 0 ? outside : fibers[to].context);
}
static void run_threads() {                             // a fiber runs one thread after another until one blocks
    for (;;) {
        int me = fiber;
        while (started < thread_count) {
            int t = order[started++];
            threads[t].state = RUNNING;
            threads[t].fiber = me;
            threads[t].group = threads[t].copies = threads[t].products = threads[t].product_number = 0;
            threads[t].fenced = threads[t].unshown = false;
            become(t);
            body(body_argument);
            if (threads[t].products) fail("a wgmma is never waited for, %s", where(t));
            threads[t].state = DONE;
            --alive;
            Warp& w = warps[t / WARP];
            w.live &= ~(1u << t % WARP);
            if (w.arrived && w.arrived == (w.mask & w.live)) release_warp(w, t / WARP * WARP);
        }
        idle[idle_count++] = me;
        go_on(me);
    }
}

// ---- barriers and warp operations --------------------------------------------------------------
static void block(State state, int line) {              // the running thread waits until it is released
    int t = current, f = fiber;
    threads[t].state = state;
    threads[t].line = line;
    go_on(f);
    fiber = f;
    threads[t].state = RUNNING;
    --ready;
    become(t);
}
static void barrier(int line, int vote) {
    if (barrier_line && barrier_line != line)
        fail("divergent __syncthreads in lines %d and %d, %s", barrier_line, line, where(current));
    barrier_line = line;
    unshown |= threads[current].unshown;
    votes[0] += vote != 0;
    votes[1] |= vote != 0;
    votes[2] &= vote != 0;
    ++at_barrier;
    block(AT_BARRIER, line);
}
static Warp& warp() { return warps[current / WARP]; }
static int lane() { return current % WARP; }
// The lanes of `mask` meet; the result says which half of the warp's buffers holds this round's values.
static int meet(unsigned mask, uint64_t value, int line) {
    Warp& w = warp();
    int me = lane(), half = w.round & 1;
    if (!(mask >> me & 1)) fail("a lane outside its own mask in line %d, %s", line, where(current));
    if (w.arrived && (w.mask != mask || w.line != line))
        fail("lanes of one warp differ in mask or operation in lines %d and %d, %s", w.line, line, where(current));
    w.mask = mask;
    w.line = line;
    w.value[half][me] = value;
    w.arrived |= 1u << me;
    if (w.arrived == (mask & w.live)) release_warp(w, current / WARP * WARP);
    else block(AT_WARP, line);
    return half;
}
enum Shuffle { FROM, DOWN, UP, XOR };
template <class V> static V shuffle(int line, Shuffle kind, unsigned mask, V v, int by, int width = WARP) {
    static_assert(sizeof(V) <= 8, "a shuffle moves at most 8 bytes");
    int me = lane(), base = me / width * width;
    int from = kind == FROM ? base + (by & (width - 1)) : kind == DOWN ? me + by : kind == UP ? me - by : me ^ by;
    uint64_t raw = 0;
    memcpy(&raw, &v, sizeof v);
    int half = meet(mask, raw, line);
    if (from >= base && from < base + width)            // a source that takes no part gives NaN
        raw = warp().members[half] >> from & 1 ? warp().value[half][from] : ~0ull;
    V result;
    memcpy(&result, &raw, sizeof result);
    return result;
}
static unsigned ballot(unsigned mask, int vote, int line) {
    int half = meet(mask, vote != 0, line);
    unsigned result = 0;
    for (int l = 0; l < WARP; ++l) result |= (warp().members[half] >> l & unsigned(warp().value[half][l]) & 1) << l;
    return result;
}

// ---- asynchronous copies (they land when waited for) and tensor cores --------------------------
static void cp_async(void* to, const void* from, int bytes, int valid) {
    Thread& t = threads[current];
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async of %d bytes, %s", bytes, where(current));
    if (((uintptr_t)to | (uintptr_t)from) % bytes) fail("misaligned cp.async of %d bytes, %s", bytes, where(current));
    if (t.copies == t.room) t.copy = (Copy*)realloc(t.copy, (t.room = 2 * t.room + 16) * sizeof(Copy));
    t.copy[t.copies++] = {to, from, bytes, valid, t.group};
}
static void cp_commit() { ++threads[current].group; }
static void cp_wait(int pending) {
    Thread& t = threads[current];
    int n = 0;
    for (; n < t.copies && t.copy[n].group < t.group - pending; ++n) {
        memset(t.copy[n].to, 0, t.copy[n].bytes);
        memcpy(t.copy[n].to, t.copy[n].from, t.copy[n].valid);
    }
    t.unshown |= n > 0;
    memmove(t.copy, t.copy + n, (t.copies -= n) * sizeof(Copy));
}
static inline unsigned to_tf32(float f) { unsigned u; memcpy(&u, &f, 4); return (u + 0x1000u) & ~0x1fffu; }
static inline float from_tf32(unsigned u) { float f; u &= ~0x1fffu; memcpy(&f, &u, 4); return f; }
// toward zero, as tensor cores do after adding exact products
static inline float truncated(double sum) {
    float f = (float)sum;
    return fabs((double)f) > fabs(sum) && f - f == 0 ? nextafterf(f, 0.0f) : f;
}
// mma.sync.m16n8k8.row.col.f32.tf32.tf32.f32, fragments as the PTX manual lays them out
static void mma_m16n8k8(float* d, const unsigned* a, const unsigned* b, int line) {
    Warp& w = warp();
    int me = lane(), half = w.round & 1, group = me >> 2, quad = me & 3;
    for (int i = 0; i < 4; ++i) w.tile[half][me][i] = from_tf32(a[i]);
    for (int i = 0; i < 2; ++i) w.tile[half][me][4 + i] = from_tf32(b[i]);
    meet(0xffffffffu, 0, line);
    for (int r = 0; r < 4; ++r) {
        int row = group + (r >> 1) * 8, col = quad * 2 + (r & 1);
        double sum = d[r];
        for (int k = 0; k < 8; ++k)
            sum += (double)w.tile[half][(row & 7) * 4 + (k & 3)][(row >> 3) + (k >> 2) * 2] *
                   w.tile[half][col * 4 + (k & 3)][4 + (k >> 2)];
        d[r] = truncated(sum);
    }
}

// ldmatrix.x4: lane 8 m + r gives the address of row r of matrix m, 16 bytes, of which each lane gets a fourth
static void ldmatrix_x4(unsigned* a, const void* row, int line) {
    if ((uintptr_t)row % 16) fail("misaligned ldmatrix in line %d, %s", line, where(current));
    int me = lane(), half = meet(0xffffffffu, (uintptr_t)row, line);
    for (int m = 0; m < 4; ++m) a[m] = ((const unsigned*)warp().value[half][8 * m + me / 4])[me % 4];
}

#include "wgmma.h"

// ---- blocks and launches -----------------------------------------------------------------------
static void run_block(size_t dynamic_bytes) {
    ++block_number;
    unshown = false;
    memset(most_products, 0, sizeof most_products);
    for (int i = 0; i * WARP < thread_count; ++i) {
        int lanes = thread_count - i * WARP;
        warps[i].arrived = 0;
        warps[i].live = lanes >= WARP ? ~0u : (1u << lanes) - 1;
    }
    if (dynamic_bytes) memset(dynamic_shared, 0xFF, dynamic_bytes);
    started = ready = at_barrier = barrier_line = votes[0] = votes[1] = 0;
    votes[2] = 1;
    alive = thread_count;
    cursor = -1;
    fiber = take_fiber();
    Context::swap(outside, fibers[fiber].context);
}
static void on_fault(int, siginfo_t* info, void*) { fail("invalid access to %p, %s", info->si_addr, where(current)); }
struct FaultGuard {                                     // turns SIGSEGV and SIGBUS into an error for a while
    struct sigaction segv, bus;
    stack_t stack;
    FaultGuard() {
        static thread_local char* alternate = (char*)malloc(64 << 10);
        stack_t s = {};
        s.ss_sp = alternate;
        s.ss_size = 64 << 10;
        sigaltstack(&s, &stack);
        struct sigaction a = {};
        a.sa_sigaction = on_fault;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &a, &segv);
        sigaction(SIGBUS, &a, &bus);
    }
    ~FaultGuard() {
        sigaction(SIGSEGV, &segv, nullptr);
        sigaction(SIGBUS, &bus, nullptr);
        sigaltstack(&stack, nullptr);
    }
};
// The arena of dynamic shared memory ends at an unreadable page.
static void place_dynamic_shared(size_t bytes) {
    if (!shared_arena) {
        shared_arena = (char*)mmap(nullptr, SHARED_ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(shared_arena + SHARED_ROOM, PAGE, PROT_NONE);
    }
    dynamic_shared = shared_arena + ((SHARED_ROOM - bytes) & ~(size_t)15);
}
static void arrange(int how, unsigned* seed) {          // the order in which the threads of a block run
    for (int i = 0; i < thread_count; ++i) order[i] = how == 1 ? thread_count - 1 - i : i;
    for (int i = thread_count - 1; how == 2 && i > 0; --i) {
        *seed = *seed * 1664525u + 1013904223u;
        std::swap(order[i], order[(*seed >> 8) % (i + 1)]);
    }
}
static size_t common_factor(size_t a, size_t b) { return b ? common_factor(b, a % b) : a; }
static int launch(void (*run)(void*), void* argument, const unsigned* size, size_t dynamic_bytes, int how,
                  unsigned seed, int ftz) {
    gridDim = dim3(size[0], size[1], size[2]);
    blockDim = dim3(size[3], size[4], size[5]);
    thread_count = blockDim.x * blockDim.y * blockDim.z;
    body = run;
    body_argument = argument;
    message[0] = 0;
    for (int t = 0; t < thread_count; ++t)
        threads[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    arrange(how, &seed);
    place_dynamic_shared(dynamic_bytes);
    size_t count = (size_t)gridDim.x * gridDim.y * gridDim.z, step = 1;
    if (how == 2)                                       // blocks in steps without a factor in common with their number
        for (step = (seed >> 8) % count + 1; common_factor(step, count) != 1;) ++step;
    FaultGuard guard;
#if defined(__x86_64__)
    unsigned control = _mm_getcsr();
    if (ftz) _mm_setcsr(control | 0x8040);
#endif
    if (!sigsetjmp(escape, 1))
        for (size_t i = 0, at = seed % count; i < count; ++i, at = (at + step) % count) {
            size_t k = how == 0 ? i : how == 1 ? count - 1 - i : at;
            blockIdx.x = k % gridDim.x;
            blockIdx.y = k / gridDim.x % gridDim.y;
            blockIdx.z = k / gridDim.x / gridDim.y;
            if (how == 2 && i) arrange(how, &seed);
            run_block(dynamic_bytes);
        }
#if defined(__x86_64__)
    _mm_setcsr(control);
#endif
    if (!message[0]) return 0;
    while (fiber_count) munmap(fibers[--fiber_count].stack, STACK + SKEW + PAGE);   // blocked threads never finish
    idle_count = 0;
    return 1;
}

// ---- kernels as Python sees them ---------------------------------------------------------------
template <class T> static void describe(char* out, size_t room) {
    using E = std::remove_cv_t<std::remove_pointer_t<T>>;
    bool number = std::is_arithmetic<E>::value && !std::is_same<E, char>::value;
    char kind = !number ? 'V' : std::is_same<E, bool>::value ? 'b' : std::is_floating_point<E>::value ? 'f'
                : std::is_signed<E>::value ? 'i' : 'u';
    typedef std::conditional_t<std::is_void<E>::value, char, E> Sized;
    size_t bytes = std::is_pointer<T>::value && !number ? 0 : sizeof(Sized);
    snprintf(out, room, "%c%zu%s ", kind, bytes, std::is_pointer<T>::value ? "*" : "");
}
struct Kernel {
    const char* name;
    int bound;                                          // of __launch_bounds__, or 0
    char* parameters;
    void (*run)(void*);
    void (*function)();
};
struct Call { void (*function)(); void** values; };
template <class... A> struct Caller {
    template <size_t... I> static void apply(Call* c, std::index_sequence<I...>) {
        ((void (*)(A...))c->function)(*(std::remove_cv_t<A>*)c->values[I]...);
    }
    static void run(void* c) { apply((Call*)c, std::index_sequence_for<A...>{}); }
};
template <class... A> static Kernel kernel(const char* name, int bound, void (*k)(A...)) {
    char* text = (char*)calloc(sizeof...(A) + 1, 32);
    (void)std::initializer_list<int>{(describe<A>(text + strlen(text), 32), 0)...};
    return {name, bound, text, Caller<A...>::run, (void (*)())k};
}
static int launch(const Kernel& k, void** values, const unsigned* size, size_t bytes, int how, unsigned seed, int ftz) {
    Call call = {k.function, values};
    return launch(k.run, &call, size, bytes, how, seed, ftz);
}
}  // namespace shim

// Stands after a __shared__ declaration: the first thread of a block that gets there fills it with NaN.
#define SHIM_POISON(NAME)                                                                                            \
    static unsigned shim_block_of_##NAME;                                                                            \
    if (shim_block_of_##NAME != shim::block_number) {                                                                \
        shim_block_of_##NAME = shim::block_number;                                                                   \
        memset((void*)&NAME, 0xFF, sizeof NAME);                                                                     \
    }

// The end of a kernel file: what ctypes calls.
#define SHIM_TABLE(...)                                                                                              \
    static const shim::Kernel shim_table[] = {__VA_ARGS__};                                                          \
    extern "C" int shim_count() { return sizeof shim_table / sizeof *shim_table; }                                   \
    extern "C" const char* shim_name(int i) { return shim_table[i].name; }                                           \
    extern "C" int shim_bound(int i) { return shim_table[i].bound; }                                                 \
    extern "C" const char* shim_parameters(int i) { return shim_table[i].parameters; }                               \
    extern "C" const char* shim_message() { return shim::message; }                                                  \
    extern "C" int shim_launch(int i, void** values, const unsigned* size, size_t bytes, int how, unsigned seed,     \
                               int ftz) {                                                                            \
        return shim::launch(shim_table[i], values, size, bytes, how, seed, ftz);                                     \
    }

// ---- CUDA's own names --------------------------------------------------------------------------
// The clobber keeps the compiler from holding shared variables in registers across a barrier.
#define SHIM_FENCE asm volatile("" ::: "memory")
static inline void shim_barrier(int line, int vote) { SHIM_FENCE; shim::barrier(line, vote); SHIM_FENCE; }
#define __syncthreads() shim_barrier(__LINE__, 0)
#define __syncthreads_count(p) (shim_barrier(__LINE__, (p)), shim::verdict[0])
#define __syncthreads_or(p) (shim_barrier(__LINE__, (p)), shim::verdict[1])
#define __syncthreads_and(p) (shim_barrier(__LINE__, (p)), shim::verdict[2])
static inline void shim_syncwarp(int line, unsigned mask = 0xffffffffu) {
    SHIM_FENCE;
    shim::meet(mask, 0, line);
    SHIM_FENCE;
}
#define __syncwarp(...) shim_syncwarp(__LINE__ __VA_OPT__(,) __VA_ARGS__)
#define __shfl_sync(...) shim::shuffle(__LINE__, shim::FROM, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shuffle(__LINE__, shim::DOWN, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shuffle(__LINE__, shim::UP, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shuffle(__LINE__, shim::XOR, __VA_ARGS__)
#define __ballot_sync(mask, p) shim::ballot((mask), (p), __LINE__)
#define __any_sync(mask, p) (shim::ballot((mask), (p), __LINE__) != 0)
#define __all_sync(mask, p) (shim::ballot((mask), !(p), __LINE__) == 0)
#define __threadfence() SHIM_FENCE
#define __threadfence_block() SHIM_FENCE
#define __trap() shim::fail("__trap, %s", shim::where(shim::current))
#define __builtin_assume(x) ((void)0)

template <class V> static inline V __ldg(const V* p) { return *p; }
template <class V> static inline V __ldcs(const V* p) { return *p; }
template <class V> static inline V __ldcg(const V* p) { return *p; }
template <class V> static inline V __ldca(const V* p) { return *p; }
template <class V> struct shim_same { typedef V type; };
template <class V> static inline void __stcs(V* p, typename shim_same<V>::type v) { *p = v; }
template <class V> static inline void __stcg(V* p, typename shim_same<V>::type v) { *p = v; }

// CUDA has atomics for these types only; on Linux `unsigned long`, so uint64_t, is not one of them.
template <class V> struct shim_atomic {
    static_assert(std::is_same<V, int>::value || std::is_same<V, unsigned>::value || std::is_same<V, float>::value ||
                      std::is_same<V, unsigned long long>::value || std::is_same<V, long long>::value ||
                      std::is_same<V, double>::value, "CUDA has no atomics for this type");
    typedef V type;
};
#define SHIM_ATOMIC(NAME, NEW)                                                                                       \
    template <class V> static inline V NAME(V* p, typename shim_atomic<V>::type v) { V old = *p; *p = NEW; return old; }
SHIM_ATOMIC(atomicAdd, old + v)
SHIM_ATOMIC(atomicSub, old - v)
SHIM_ATOMIC(atomicExch, v)
SHIM_ATOMIC(atomicMin, v < old ? v : old)
SHIM_ATOMIC(atomicMax, v > old ? v : old)
SHIM_ATOMIC(atomicAnd, old & v)
SHIM_ATOMIC(atomicOr, old | v)
SHIM_ATOMIC(atomicXor, old ^ v)
template <class V>
static inline V atomicCAS(V* p, typename shim_atomic<V>::type expected, typename shim_atomic<V>::type v) {
    V old = *p;
    if (old == expected) *p = v;
    return old;
}

#define SHIM_BITS(NAME, FROM, TO) static inline TO NAME(FROM v) { TO r; memcpy(&r, &v, sizeof r); return r; }
SHIM_BITS(__float_as_int, float, int)
SHIM_BITS(__int_as_float, int, float)
SHIM_BITS(__float_as_uint, float, unsigned)
SHIM_BITS(__uint_as_float, unsigned, float)
SHIM_BITS(__double_as_longlong, double, long long)
SHIM_BITS(__longlong_as_double, long long, double)

// <math.h> names the double functions only; CUDA has float overloads.
#define SHIM_MATH1(F) static inline float F(float x) { return F##f(x); }
#define SHIM_MATH2(F) static inline float F(float x, float y) { return F##f(x, y); }
SHIM_MATH1(exp) SHIM_MATH1(exp2) SHIM_MATH1(expm1) SHIM_MATH1(log) SHIM_MATH1(log2) SHIM_MATH1(log10) SHIM_MATH1(log1p)
SHIM_MATH1(sqrt) SHIM_MATH1(cbrt) SHIM_MATH1(sin) SHIM_MATH1(cos) SHIM_MATH1(tan) SHIM_MATH1(asin) SHIM_MATH1(acos)
SHIM_MATH1(atan) SHIM_MATH1(sinh) SHIM_MATH1(cosh) SHIM_MATH1(tanh) SHIM_MATH1(erf) SHIM_MATH1(erfc) SHIM_MATH1(fabs)
SHIM_MATH1(floor) SHIM_MATH1(ceil) SHIM_MATH1(trunc) SHIM_MATH1(round) SHIM_MATH1(rint) SHIM_MATH1(nearbyint)
SHIM_MATH2(pow) SHIM_MATH2(atan2) SHIM_MATH2(fmod) SHIM_MATH2(fmax) SHIM_MATH2(fmin) SHIM_MATH2(copysign)
SHIM_MATH2(hypot)
static inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline long long abs(long long x) { return llabs(x); }

// As on the device, min and max of floats leave NaN out.
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) {
    typedef std::common_type_t<A, B> C;
    if constexpr (std::is_floating_point<C>::value) return fmax(C(a), C(b));
    else return C(a) < C(b) ? C(b) : C(a);
}
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) {
    typedef std::common_type_t<A, B> C;
    if constexpr (std::is_floating_point<C>::value) return fmin(C(a), C(b));
    else return C(b) < C(a) ? C(b) : C(a);
}
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float a) { return a > 0.0f ? fminf(a, 1.0f) : 0.0f; }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
static inline int __float2int_rn(float a) { return (int)nearbyintf(a); }
static inline int __float2int_rz(float a) { return (int)a; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
