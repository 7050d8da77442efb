// The operands of tile.cu on their way to shared memory: asynchronous copies, and where a thread finds what it copies.

// A block's threads, the rows of sums that pass through shared memory at a time, values in 16 bytes.
enum { THREADS = 256, ROWS = 32, QUAD = 16 / sizeof(REAL) };
// An offset of no row: whatever is added to it is not read, but must be aligned.
#define NOWHERE 0xfffffffcu

// W values from memory, or zeros, to shared memory; they are there once waited for.
template <int W>
__device__ __forceinline__ void copy(REAL* to, const REAL* from, bool there)
{
#ifdef LRP_CPU_SHIM
    shim::cp_async(to, from, W * sizeof(REAL), there ? W * sizeof(REAL) : 0);
#elif __CUDA_ARCH__ >= 800
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(W * (int)sizeof(REAL)),
                 "r"(there ? W * (int)sizeof(REAL) : 0)
                 : "memory");
#else
#pragma unroll
    for (int j = 0; j < W; j++)
        to[j] = there ? from[j] : (REAL)0;
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void close_group()
{
#ifdef LRP_CPU_SHIM
    shim::cp_commit();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until no more than PENDING groups of this thread are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_group()
{
#ifdef LRP_CPU_SHIM
    shim::cp_wait(PENDING);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Where a tile's row begins: the same for all of a term's K, so kept in shared memory.
struct RowStart {
    unsigned base;             // of its sample, and group
    int index[3];              // into the axes' tables; -1 for a row beyond the last
};

// What a block is at: its rows, columns, region and group, and which part of K. This and the next in shared memory, as
// registers are for sums.
struct BlockCoords {
    i64 m0, total;             // rows of all samples
    int n0, region, group, split, term;
};

// The term that a block is at.
struct TermState {
    const Term* term;
    const Region* region;      // 0 without geometry: then a row is all one tap
    const REAL* from;
    i64 step, load_step, other;   // of weights: to the next step, from load to load, to those of the second sum
    int channels, depth, begin, end, left;
    int quads, along;          // of weights: copied 16 bytes at a time; threads lie along n
    int transformed;           // whether rows are not taken as they lie
    enum { KEPT = 128 };
    uchar4 taps[KEPT];         // where the first taps are on the three axes: no need to divide for them
};

// The operands of one step of K. The left one is kept transposed where rows go to registers by k.
template <int BM, int BT, int BK, int TENSOR>
struct Tile {
    enum { LDA = TENSOR ? BK + 4 : BM + 4, LDB = BT + (TENSOR ? 8 : 4) };
    __align__(16) REAL a[TENSOR ? BM * LDA : BK * LDA];
    __align__(16) REAL b[BK * LDB];

    __device__ __forceinline__ REAL* row(int r, int k) { return TENSOR ? a + r * LDA + k : a + k * LDA + r; }
};

// The left operand, step by step: a thread copies W neighbouring k of some rows, and keeps where those lie at the tap.
template <class TILE, int BM, int BK, int W>
struct TileLoaderA {
    enum { ACROSS = BK / W, APART = THREADS / ACROSS, LOADS = (BM + APART - 1) / APART };
    unsigned offset[LOADS];    // of the tap's first channel
    int k, c;                  // the next step's, and its channel

    __device__ __forceinline__ static int row(int l) { return threadIdx.x / ACROSS + l * APART; }
    __device__ __forceinline__ static bool mine(int l) { return BM % APART == 0 || row(l) < BM; }
    __device__ __forceinline__ static int within() { return threadIdx.x % ACROSS * W; }

    __device__ __forceinline__ explicit TileLoaderA(const TermState& state)
        : k(state.begin * BK + within()), c(state.channels)
    {
#pragma unroll
        for (int l = 0; l < LOADS; l++)
            offset[l] = NOWHERE;
    }

    __device__ __forceinline__ void find(const TermState& state, const RowStart* rows, int tap)
    {
        const Region* region = state.region;
        if (!region) {
#pragma unroll
            for (int l = 0; l < LOADS; l++)
                offset[l] = mine(l) && rows[row(l)].index[0] >= 0 ? rows[row(l)].base : NOWHERE;
            return;
        }
        const Tap at = tap < TermState::KEPT ? Tap(state.taps[tap]) : Tap(*region, tap);
        const Geometry& g = *state.term->geometry;
        const int *xs = region->axes[0].index, *ys = region->axes[1].index, *zs = region->axes[2].index;
        const unsigned stride = state.term->stride, height = g.source[1], width = g.source[2];
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            offset[l] = NOWHERE;
            if (!mine(l) || rows[row(l)].index[0] < 0)
                continue;
            const RowStart& start = rows[row(l)];
            const int a = xs[start.index[0] + at.x], b = ys[start.index[1] + at.y], c = zs[start.index[2] + at.z];
            if (a >= 0 && b >= 0 && c >= 0)
                offset[l] = start.base + ((a * height + b) * width + c) * stride;
        }
    }

    __device__ __forceinline__ void load(const TermState& state, const RowStart* rows, TILE& tile)
    {
        if (c >= state.channels && k < state.depth) {
            const int tap = k / state.channels;
            c = k - tap * state.channels;
            find(state, rows, tap);
        }
        const REAL* from = state.from + c;
        const bool within_depth = k < state.depth;
#pragma unroll
        for (int l = 0; l < LOADS; l++)
            if (mine(l))
                copy<W>(tile.row(row(l), within()), from + offset[l], within_depth && offset[l] != NOWHERE);
        k += BK;
        c += BK;
    }

    // parts and rounding of what this thread has copied
    __device__ __forceinline__ static void transform(const Term& term, TILE& tile)
    {
        const int part = term.part, round = term.round;
#pragma unroll
        for (int l = 0; l < LOADS; l++)
            if (mine(l)) {
                REAL* p = tile.row(row(l), within());
                REAL v[W];
                get<W>(p, W, v);
                if (part)
#pragma unroll
                    for (int j = 0; j < W; j++)
                        v[j] = part_of(part, v[j]);
                if (round)
#pragma unroll
                    for (int j = 0; j < W; j++)
                        v[j] = tf32(v[j]);
                put<W>(p, W, v);
            }
    }
};

// BK rows of the weights of NS sums, side by side, step by step: 16 bytes of a row of them at a time where they lie so.
template <class TILE, int BN, int NS, int BK>
struct TileLoaderB {
    enum { BT = NS * BN };
    const REAL* p;             // of this thread's first value
    int k, n;                  // depth left there, column of the tile

    // what the weights are to all threads
    __device__ __forceinline__ static void set(TermState& state, const Contraction& op, const BlockCoords& block)
    {
        const Term& term = *state.term;
        state.quads = op.quads;
        state.along = op.quads || term.column_step == 1;
        state.left = op.columns - block.n0;
        state.step = BK * term.row_step;
        const int down = op.quads ? THREADS * QUAD / BT : THREADS / BT;
        state.load_step = state.along ? down * term.row_step : THREADS / BK * term.column_step;
        state.other = NS == 2 ? term.others[block.region] - term.weights[block.region] - BN * term.column_step : 0;
    }

    __device__ __forceinline__ TileLoaderB(const TermState& state, const Contraction& op, const BlockCoords& block)
    {
        const Term& term = *state.term;
        const int row = state.quads ? threadIdx.x * QUAD / BT : state.along ? threadIdx.x / BT : threadIdx.x % BK;
        n = state.quads ? threadIdx.x * QUAD % BT : state.along ? threadIdx.x % BT : threadIdx.x / BK;
        k = state.depth - state.begin * BK - row;
        p = term.weights[block.region] + (i64)block.group * state.depth * op.columns +
            ((i64)state.begin * BK + row) * term.row_step + (block.n0 + n) * term.column_step;
    }

    template <int W>
    __device__ __forceinline__ void copy_all(const TermState& state, TILE& tile)
    {
        enum { DOWN = THREADS * W / BT, RIGHT = THREADS / BK, LOADS = (BT * BK / W + THREADS - 1) / THREADS };
        const bool far = W > 1 || state.along;
        const int row = far ? threadIdx.x * W / BT : threadIdx.x % BK;
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int j = far ? l * DOWN : 0, column = far ? n : n + l * RIGHT;
            const bool second = NS == 2 && column >= BN;
            if (BT * BK / W % THREADS == 0 || (far ? row + j < BK : column < BT))
                copy<W>(tile.b + (row + j) * TILE::LDB + column, p + l * state.load_step + (second ? state.other : 0),
                        k > j && column - (second ? BN : 0) < state.left);
        }
    }
    __device__ __forceinline__ void load(const TermState& state, TILE& tile)
    {
        if (state.quads)
            copy_all<QUAD>(state, tile);
        else
            copy_all<1>(state, tile);
        p += state.step;
        k -= BK;
    }
};
