// Tiles by `wgmma`, the products of compute capability 9.0: 128 threads multiply at once, asynchronously, and read one
// operand from shared memory themselves. Compiled for sm_90a alone.
//
// For TF32 that operand must lie with K innermost, as rows do, and weights often do not. So the product is transposed:
// sums of 64 columns by 128 rows are weights (from registers, as fragments) times rows. A row's step of K is 128 bytes,
// and its 16-byte chunks are exchanged so that eight rows' chunks lie in different banks ("128-byte swizzling").
//
// Source: PTX ISA 8.8, 9.7.15.5 (asynchronous warpgroup-level matrix instructions: fragments, layout, descriptors).

// Shared memory is aligned so that the pattern of exchanged chunks, 8 rows of 128 bytes, begins at an address of its own.
#define ALIGNMENT 1024
enum { WARPGROUP = 128, SWIZZLED = 32 }; // threads; values in a row's 128 bytes

#ifdef LRP_CPU_SHIM
#define WGMMA_FENCE() shim::wgmma_fence()
#define WGMMA_COMMIT() shim::wgmma_commit()
#define WGMMA_WAIT() shim::wgmma_wait(__LINE__)
#define PROXY_FENCE() shim::proxy_fence()
#define WGMMA(d, a, rows, keep) shim::wgmma_m64n128k8(d, a, rows, keep, __LINE__)
#define SHARED_ADDRESS(p) shim::shared_address(p)
#define HOLD(x)
#else
#define WGMMA_FENCE() asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define WGMMA_COMMIT() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WGMMA_WAIT() asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory")
#define PROXY_FENCE() asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
#define SHARED_ADDRESS(p) (unsigned)__cvta_generic_to_shared(p)
// What the compiler may not move from one side to the other: it does not know that the registers are written later.
#define HOLD(x) asm volatile("" : "+f"(x)::"memory")
#define EIGHT(d, i)                                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),   \
        "+f"(d[i + 7])
#define WGMMA(d, a, rows, keep)                                                                                  \
    asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, %69, 0;\n"                                              \
                 "wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 "                                         \
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "              \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "              \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "             \
                 "{%64, %65, %66, %67}, %68, keep, 1, 1;\n}\n"                                                   \
                 : EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24), EIGHT(d, 32), EIGHT(d, 40),             \
                   EIGHT(d, 48), EIGHT(d, 56)                                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"(keep))
#endif

__device__ __forceinline__ void hold(float (&sums)[64])
{
#pragma unroll
    for (int e = 0; e < 64; e++)
        HOLD(sums[e]);
}

// The operands of one step of K: rows with their chunks exchanged, under 3xTF32 in two parts, and weights as elsewhere.
template <int BM, int BT>
struct __align__(ALIGNMENT) SwizzledTile {
    enum { LDB = BT + 8 };
    float a[BM * SWIZZLED];
#ifdef SPLIT_OPERANDS
    float low[BM * SWIZZLED];
#endif
    float b[SWIZZLED * LDB];

    __device__ __forceinline__ static int at(int r, int k) { return r * SWIZZLED + ((k / 4 ^ r % 8) * 4 + k % 4); }
    __device__ __forceinline__ float* row(int r, int k) { return a + at(r, k); }
};

// What the instruction is told of 128 rows from k on: where they are, that their chunks are exchanged, and how far apart
// groups of eight rows lie. All three in units of 16 bytes; the distance along K is not read of such rows, and is 1.
__device__ __forceinline__ u64 describe(const float* rows, int k)
{
    const u64 exchanged = 1ull << 62, apart = 8 * SWIZZLED * sizeof(float) / 16;
    return exchanged | apart << 32 | 1ull << 16 | (SHARED_ADDRESS(rows) & 0x3ffff) / 16 + k * sizeof(float) / 16;
}

// A block's sums: each of two warpgroups has 64 columns by BM rows, 64 values in a thread for each 128 rows.
template <int BM, int BT>
struct Warpgroups {
    static_assert(BT / 64 * WARPGROUP == THREADS && BM % 128 == 0, "64 columns to a warpgroup, 128 rows at a time");
    enum { TENSOR = 1, WHOLE = 1, IN_REGISTERS = 0, PARTS = BM / 128 };
    typedef SwizzledTile<BM, BT> Operands;
    float sums[PARTS][64];

    __device__ __forceinline__ static int column() // the first of this thread's two, eight apart
    {
        return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int e = 0; e < 64; e++)
                sums[i][e] = 0;
    }

    __device__ __forceinline__ static void take(unsigned (&w)[4], const Operands& t, int k)
    {
#pragma unroll
        for (int e = 0; e < 4; e++)
            w[e] = __float_as_uint(t.b[(k + threadIdx.x % 4 + e / 2 * 4) * Operands::LDB + column() + e % 2 * 8]);
    }

    // `begin` starts a step's products, of which the last may be under way when it returns; `end` waits for them.
#ifdef SPLIT_OPERANDS
    float eight[64]; // sums of eight products, which ordinary cores add to the others

    __device__ __forceinline__ void begin(const Operands& t)
    {
#pragma unroll
        for (int k = 0; k < SWIZZLED; k += 8) {
            unsigned w[4], low[4];
            take(w, t, k);
            split(w, low);
            hold(eight);
            WGMMA_FENCE();
            WGMMA(eight, w, describe(t.low, k), 0);
            WGMMA(eight, low, describe(t.a, k), 1);
            WGMMA(eight, w, describe(t.a, k), 1);
            WGMMA_COMMIT();
            if (k + 8 < SWIZZLED)
                end();
        }
    }

    __device__ __forceinline__ void end()
    {
        hold(eight);
        WGMMA_WAIT();
        hold(eight);
#pragma unroll
        for (int e = 0; e < 64; e++)
            sums[0][e] += eight[e];
    }
#else
    __device__ __forceinline__ void begin(const Operands& t)
    {
        unsigned w[SWIZZLED / 8][4];
#pragma unroll
        for (int k = 0; k < SWIZZLED; k += 8)
            take(w[k / 8], t, k);
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            hold(sums[i]);
        WGMMA_FENCE();
#pragma unroll
        for (int k = 0; k < SWIZZLED; k += 8)
#pragma unroll
            for (int i = 0; i < PARTS; i++)
                WGMMA(sums[i], w[k / 8], describe(t.a + i * 128 * SWIZZLED, k), 1);
        WGMMA_COMMIT();
    }

    __device__ __forceinline__ void end()
    {
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            hold(sums[i]);
        WGMMA_WAIT();
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            hold(sums[i]);
    }
#endif

    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < BM / 8; i++) { // eight rows, of which a thread has two
            const int r = i * 8 + threadIdx.x % 4 * 2 - first;
            if (r < 0 || r >= ROWS)
                continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int c = column() + e / 2 * 8;
                to[(c / BN * ROWS + r + e % 2) * (BN + 4) + c % BN] = sums[i / 16][i % 16 * 4 + e];
            }
        }
    }
};

// A thread's copies of a step are finished: parts, rounding, and under 3xTF32 the two parts of every value.
template <class Loader, class Operands>
__device__ __forceinline__ void finish_copies(const TermState& state, Operands& tile)
{
    if (state.transformed)
        Loader::transform(*state.term, tile);
#ifdef SPLIT_OPERANDS
#pragma unroll
    for (int l = 0; l < Loader::LOADS; l++) {
        const int at = Operands::at(Loader::row(l), Loader::within());
        float v[QUAD];
        unsigned high[QUAD], low[QUAD];
        get<QUAD>(tile.a + at, QUAD, v);
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            high[j] = __float_as_uint(v[j]);
        split(high, low);
        float parts[2][QUAD];
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            parts[0][j] = __uint_as_float(high[j]), parts[1][j] = __uint_as_float(low[j]);
        put<QUAD>(tile.a + at, QUAD, parts[0]);
        put<QUAD>(tile.low + at, QUAD, parts[1]);
    }
#endif
}

// A term's products, added to the sums. While a step is multiplied, the copies of one STAGES - 1 steps ahead begin, and
// those of the next are finished; `PROXY_FENCE` shows them to wgmma, which reads past the cache of ordinary loads.
template <int BM, int BN, int BK, int NS, int W, int STAGES, class Sums>
__device__ __forceinline__ void add_term(const TermState& state, const Contraction& op, const BlockCoords& block,
                                         const RowStart* rows, Sums& sums, typename Sums::Operands* tiles)
{
    static_assert(BK == SWIZZLED && W == QUAD, "a step is 128 bytes of a row, copied by 16 bytes");
    typedef typename Sums::Operands Operands;
    typedef TileLoaderA<Operands, BM, BK, W> Loader;
    Loader loader_a(state);
    TileLoaderB<Operands, BN, NS, BK> loader_b(state, op, block);
    const int steps = state.end - state.begin;
    if (SHARED_ADDRESS(tiles) % ALIGNMENT)
        __trap(); // chunks would be looked for where they are not
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            loader_a.load(state, rows, tiles[s]);
            loader_b.load(state, tiles[s]);
        }
        close_group();
    }
    wait_for_group<STAGES - 2>();
    if (steps > 0)
        finish_copies<Loader>(state, tiles[0]);
    PROXY_FENCE();
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
        sums.begin(tiles[s % STAGES]);
        if (s + STAGES - 1 < steps) {
            loader_a.load(state, rows, tiles[(s + STAGES - 1) % STAGES]);
            loader_b.load(state, tiles[(s + STAGES - 1) % STAGES]);
        }
        close_group();
        wait_for_group<STAGES - 2>();
        if (s + 1 < steps)
            finish_copies<Loader>(state, tiles[(s + 1) % STAGES]);
        PROXY_FENCE();
        sums.end();
        __syncthreads();
    }
}
