// Contractions as matrix products: a block makes a BM x BN tile of sums, or of two sums of the same rows, K by K; its
// threads hold TM x TN of them each, or, on tensor cores, MT x NT fragments. With a geometry the rows of the left matrix
// are gathered through the taps while they are copied (an implicit GEMM), so that convolutions, their transposes and
// dense layers are one kernel, in any number of dimensions. Parts of the weights are other weights (records.py).
//
// Operands come to shared memory by asynchronous copies, STAGES steps of K ahead of the products (on devices before
// 8.0, which have none, by plain ones). A value is transformed, where a part of it is taken or it is rounded, by the
// thread that copied it, between the wait for it and the barrier that shows it to the others.
//
// Every sum runs over k in order, whatever the tile: results repeat bitwise, and do not depend on the batch, except
// through the number of splits of K (planes.cu adds those, in order).

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
    const unsigned place = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(W * (int)sizeof(REAL)),
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
struct Here {
    i64 m0, total;             // rows of all samples
    int n0, region, group, split, term;
};

// The term that a block is at.
struct Now {
    const Term* term;
    const Region* region;      // 0 without geometry: then a row is all one tap
    const REAL* from;
    i64 step, apart, other;    // of weights: to the next step, from load to load, to those of the second sum
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
struct Down {
    enum { ACROSS = BK / W, APART = THREADS / ACROSS, LOADS = (BM + APART - 1) / APART };
    unsigned offset[LOADS];    // of the tap's first channel
    int k, c;                  // the next step's, and its channel

    __device__ __forceinline__ static int row(int l) { return threadIdx.x / ACROSS + l * APART; }
    __device__ __forceinline__ static bool mine(int l) { return BM % APART == 0 || row(l) < BM; }
    __device__ __forceinline__ static int within() { return threadIdx.x % ACROSS * W; }

    __device__ __forceinline__ explicit Down(const Now& now) : k(now.begin * BK + within()), c(now.channels)
    {
#pragma unroll
        for (int l = 0; l < LOADS; l++)
            offset[l] = NOWHERE;
    }

    __device__ __forceinline__ void find(const Now& now, const RowStart* rows, int tap)
    {
        const Region* region = now.region;
        if (!region) {
#pragma unroll
            for (int l = 0; l < LOADS; l++)
                offset[l] = mine(l) && rows[row(l)].index[0] >= 0 ? rows[row(l)].base : NOWHERE;
            return;
        }
        const Tap at = tap < Now::KEPT ? Tap(now.taps[tap]) : Tap(*region, tap);
        const Geometry& g = *now.term->geometry;
        const int *xs = region->axes[0].index, *ys = region->axes[1].index, *zs = region->axes[2].index;
        const unsigned stride = now.term->stride, height = g.source[1], width = g.source[2];
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

    __device__ __forceinline__ void load(const Now& now, const RowStart* rows, TILE& tile)
    {
        if (c >= now.channels && k < now.depth) {
            const int tap = k / now.channels;
            c = k - tap * now.channels;
            find(now, rows, tap);
        }
        const REAL* from = now.from + c;
        const bool within_depth = k < now.depth;
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
                        v[j] = part == 1 ? positive(v[j]) : negative(v[j]);
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
struct Across {
    enum { BT = NS * BN };
    const REAL* p;             // of this thread's first value
    int k, n;                  // depth left there, column of the tile

    // what the weights are to all threads
    __device__ __forceinline__ static void set(Now& now, const Contraction& op, const Here& here)
    {
        const Term& term = *now.term;
        now.quads = op.quads;
        now.along = op.quads || term.column_step == 1;
        now.left = op.columns - here.n0;
        now.step = BK * term.row_step;
        const int down = op.quads ? THREADS * QUAD / BT : THREADS / BT;
        now.apart = now.along ? down * term.row_step : THREADS / BK * term.column_step;
        now.other = NS == 2 ? term.others[here.region] - term.weights[here.region] - BN * term.column_step : 0;
    }

    __device__ __forceinline__ Across(const Now& now, const Contraction& op, const Here& here)
    {
        const Term& term = *now.term;
        const int row = now.quads ? threadIdx.x * QUAD / BT : now.along ? threadIdx.x / BT : threadIdx.x % BK;
        n = now.quads ? threadIdx.x * QUAD % BT : now.along ? threadIdx.x % BT : threadIdx.x / BK;
        k = now.depth - now.begin * BK - row;
        p = term.weights[here.region] + (i64)here.group * now.depth * op.columns +
            ((i64)now.begin * BK + row) * term.row_step + (here.n0 + n) * term.column_step;
    }

    template <int W>
    __device__ __forceinline__ void copy_all(const Now& now, TILE& tile)
    {
        enum { DOWN = THREADS * W / BT, RIGHT = THREADS / BK, LOADS = (BT * BK / W + THREADS - 1) / THREADS };
        const bool far = W > 1 || now.along;
        const int row = far ? threadIdx.x * W / BT : threadIdx.x % BK;
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            const int j = far ? l * DOWN : 0, column = far ? n : n + l * RIGHT;
            const bool second = NS == 2 && column >= BN;
            if (BT * BK / W % THREADS == 0 || (far ? row + j < BK : column < BT))
                copy<W>(tile.b + (row + j) * TILE::LDB + column, p + l * now.apart + (second ? now.other : 0),
                        k > j && column - (second ? BN : 0) < now.left);
        }
    }
    __device__ __forceinline__ void load(const Now& now, TILE& tile)
    {
        if (now.quads)
            copy_all<QUAD>(now, tile);
        else
            copy_all<1>(now, tile);
        p += now.step;
        k -= BK;
    }
};

// Sums in registers, multiply-adds on ordinary cores. A thread's rows and columns are groups of four, BM / 2 and
// BT / 2 apart where it has eight, so that a warp's loads from shared memory meet no bank twice.
template <int BM, int BT, int BK, int TM, int TN>
struct Plain {
    enum { TENSOR = 0, ACROSS = BT / TN };
    typedef Tile<BM, BT, BK, 0> Operands;
    REAL sums[TM][TN];

    __device__ __forceinline__ static int row(int i)
    {
        const int y = threadIdx.x / ACROSS;
        return TM == 8 ? i / 4 * (BM / 2) + y * 4 + i % 4 : y * TM + i;
    }
    __device__ __forceinline__ static int column(int j)
    {
        const int x = threadIdx.x % ACROSS;
        return TN == 8 ? j / 4 * (BT / 2) + x * 4 + j % 4 : x * TN + j;
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
                sums[i][j] = 0;
    }

    __device__ __forceinline__ void add(const Operands& t)
    {
#pragma unroll
        for (int k = 0; k < BK; k++) {
            REAL a[TM], b[TN];
#pragma unroll
            for (int i = 0; i < TM; i += 4)
                take<4, TM>(t.a + k * Operands::LDA + row(i), a, i);
#pragma unroll
            for (int j = 0; j < TN; j += TN < 4 ? TN : 4)
                take<TN < 4 ? TN : 4, TN>(t.b + k * Operands::LDB + column(j), b, j);
#pragma unroll
            for (int j = 0; j < TN; j++)
#pragma unroll
                for (int i = 0; i < TM; i++)
                    sums[i][j] = fma_(a[i], b[j], sums[i][j]);
        }
    }

    template <int W, int N>
    __device__ __forceinline__ static void take(const REAL* p, REAL (&v)[N], int at)
    {
#pragma unroll
        for (int i = 0; i < W; i += QUAD) {
            if (W % QUAD == 0) {
                const Quad quad = *reinterpret_cast<const Quad*>(p + i);
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    v[at + i + j < N ? at + i + j : 0] = quad.v[j];
            } else
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    if (i + j < W)
                        v[at + i + j < N ? at + i + j : 0] = p[i + j];
        }
    }

    // the sums of rows first to first + ROWS, to shared memory: those of BN columns each
    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int r = row(i) - first;
            if (r >= 0 && r < ROWS)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    to[(column(j) / BN * ROWS + r) * (BN + 4) + column(j) % BN] = sums[i][j];
        }
    }
};

#ifdef TENSOR_CORES
#ifdef LRP_CPU_SHIM
#define MMA_TF32(d, a, b) shim::mma_m16n8k8(d, a, b, __LINE__)
// The fragment of rows from `first` and depth from `k` on, of which a thread has four values.
__device__ __forceinline__ void fragment_a(unsigned (&a)[4], const float* from, int first, int pitch, int k)
{
    const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
    for (int e = 0; e < 4; e++)
        a[e] = __float_as_uint(from[(first + g + e % 2 * 8) * pitch + k + q + e / 2 * 4]);
}
#else
// One instruction hands out the fragment's four quarters: lane by lane it is told where their rows of 16 bytes begin.
__device__ __forceinline__ void fragment_a(unsigned (&a)[4], const float* from, int first, int pitch, int k)
{
    const int lane = threadIdx.x % 32;
    const unsigned place = (unsigned)__cvta_generic_to_shared(from + (first + lane % 16) * pitch + k + lane / 16 * 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(place)
                 : "memory");
}
#define MMA_TF32(d, a, b)                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

// Sums in fragments of m16n8k8; eight warps, WM of them down. Operands are on TF32's grid: weights from the start, rows
// since this kernel's threads have rounded them.
template <int BM, int BT, int BK, int WM>
struct Fragments {
    enum { TENSOR = 1, WN = 8 / WM, MT = BM / WM / 16, NT = BT / WN / 8 };
    typedef Tile<BM, BT, BK, 1> Operands;
    float sums[MT][NT][4];

    __device__ __forceinline__ static int first() { return threadIdx.x / 32 / WN * (BM / WM); }
    __device__ __forceinline__ static int row() { return first() + threadIdx.x % 32 / 4; }
    __device__ __forceinline__ static int column() { return threadIdx.x / 32 % WN * (BT / WN); }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] = 0;
    }

    __device__ __forceinline__ void add(const Operands& t)
    {
        enum { LDA = Operands::LDA, LDB = Operands::LDB };
        const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int k = 0; k < BK; k += 8) {
            unsigned b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    b[j][h] = __float_as_uint(t.b[(k + q + h * 4) * LDB + column() + j * 8 + g]);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                unsigned a[4];
                fragment_a(a, t.a, first() + i * 16, LDA, k);
#pragma unroll
                for (int j = 0; j < NT; j++)
                    MMA_TF32(sums[i][j], a, b[j]);
            }
        }
    }

    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = row() + i * 16 + h * 8 - first;
                if (r >= 0 && r < ROWS)
#pragma unroll
                    for (int j = 0; j < NT; j++)
#pragma unroll
                        for (int v = 0; v < 2; v++) {
                            const int c = column() + j * 8 + threadIdx.x % 4 * 2 + v;
                            to[(c / BN * ROWS + r) * (BN + 4) + c % BN] = sums[i][j][h * 2 + v];
                        }
            }
    }
};
#endif

// A finished row's first value: its place among all samples' values, and within its sample's.
struct RowEnd {
    i64 at, place;
};

__device__ __forceinline__ RowEnd row_end(const Contraction& op, const Region* region, i64 m)
{
    if (!region)
        return {m * op.width, m % op.rows * op.width};
    const Place p = place_of(*region, m);
    const i64 place = row_at(*op.geometry, *region, p) * op.width;
    return {p.sample * op.rows * op.width + place, place};
}

// A term's products, added to the sums, by copies of W neighbouring values of the left operand.
template <int BM, int BN, int BK, int NS, int W, int STAGES, class Sums>
__device__ __forceinline__ void add_term(const Now& now, const Contraction& op, const Here& here, const RowStart* rows,
                                         Sums& sums, typename Sums::Operands* tiles)
{
    typedef typename Sums::Operands Operands;
    Down<Operands, BM, BK, W> down(now);
    Across<Operands, BN, NS, BK> across(now, op, here);
    int left = now.end - now.begin;
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < left) {
            down.load(now, rows, tiles[s]);
            across.load(now, tiles[s]);
        }
        close_group();
    }
    int at = 0, next = STAGES - 1;
#pragma unroll 1
    for (; left > 0; left--) {
        wait_for_group<STAGES - 2>();
        if (now.transformed)
            down.transform(*now.term, tiles[at]);
        __syncthreads();
        if (left >= STAGES) {
            down.load(now, rows, tiles[next]);
            across.load(now, tiles[next]);
        }
        close_group();
        sums.add(tiles[at]);
        at = at + 1 < STAGES ? at + 1 : 0;
        next = next + 1 < STAGES ? next + 1 : 0;
    }
}

// Staged sums are finished, or kept in planes: V values of a row by a thread, STEP apart.
template <int BM, int BN, int NS, int V, int STEP>
__device__ __forceinline__ void write(const Contraction& op, const Here& here, const Run& run, const REAL* staged,
                                      const RowEnd* ends, int first, REAL* planes, i64 apart)
{
    for (int e = threadIdx.x; e < ROWS * BN / V; e += THREADS) {
        const int i = e / (BN / V), j = e % (BN / V) * (STEP == 1 ? V : 1), left = op.columns - here.n0 - j;
        if (here.m0 + first + i >= here.total || left <= 0)
            continue;
        const i64 column = (i64)here.group * op.columns + here.n0 + j;
        const i64 at = ends[first + i].at + column, place = ends[first + i].place + column;
        REAL values[NS][V];
#pragma unroll
        for (int s = 0; s < NS; s++) {
            get<V, STEP>(staged + (s * ROWS + i) * (BN + 4) + j, V * STEP, values[s]);
            if (planes)
                put<V, STEP>(planes + s * apart + at, left, values[s]);
        }
        if (!planes)
            finish<NS, V, STEP>(op, run, values, at, place, left);
    }
}

// blockIdx: x over rows, y over columns, z over regions, groups and splits. All terms are added and finished; or, where
// there are `planes` to keep sums in, those that go to `accumulator` (and, of two sums, to the next one).
template <int BM, int BN, int BK, int NS, int STAGES, int BYTES, class Sums>
__device__ __forceinline__ void contract(const Contraction& op, int accumulator, int splits, REAL* planes, const Run& run)
{
    typedef typename Sums::Operands Operands;
    union Memory {
        Operands tiles[STAGES];
        REAL sums[NS * ROWS * (BN + 4)];
    };
    static_assert(sizeof(Memory) == BYTES, "the kernel's line says how much shared memory it takes");
    extern __shared__ __align__(16) char shared_memory[];
    Memory& memory = *reinterpret_cast<Memory*>(shared_memory);
    __shared__ union {
        RowStart starts[BM];
        RowEnd ends[BM];
    } table;
    __shared__ Here here;
    __shared__ Now now;
    const i64 m0 = blockIdx.x * (i64)BM;
    const int r = blockIdx.z / splits / op.groups;
    const Region* own = op.geometry ? &op.geometry->regions[r] : 0;
    const i64 total = run.samples * (own ? own->rows : op.rows);
    if (m0 >= total)
        return;
    if (threadIdx.x == 0) {
        here.m0 = m0;
        here.total = total;
        here.n0 = blockIdx.y * BN;
        here.region = r;
        here.group = blockIdx.z / splits % op.groups;
        here.split = blockIdx.z % splits;
    }
    Sums sums;
    sums.clear();
    for (int t = 0; t < op.terms_count; t++) {
        if (planes && op.terms[t].accumulator != accumulator)
            continue;
        __syncthreads(); // the last term is done with
        if (threadIdx.x == 0) {
            const Term& term = op.terms[t];
            here.term = t;
            now.term = &term;
            now.region = term.geometry ? &term.geometry->regions[here.region] : 0;
            now.from = run.at(term.source);
            now.channels = term.channels;
            now.depth = now.region ? now.region->taps * term.channels : term.channels;
            const i64 steps = (now.depth + BK - 1) / BK;
            now.begin = (int)(steps * here.split / splits);
            now.end = (int)(steps * (here.split + 1) / splits);
            now.transformed = term.part || term.round;
            Across<Operands, BN, NS, BK>::set(now, op, here);
        }
        __syncthreads();
        if (now.region && threadIdx.x < Now::KEPT && threadIdx.x < now.region->taps) {
            const Tap at(*now.region, threadIdx.x);
            now.taps[threadIdx.x] = {(unsigned char)at.x, (unsigned char)at.y, (unsigned char)at.z, 0};
        }
        for (int i = threadIdx.x; i < BM; i += THREADS) {
            const Term& term = *now.term;
            RowStart row;
            row.index[0] = here.m0 + i < here.total ? 0 : -1;
            row.index[1] = row.index[2] = 0;
            row.base = (unsigned)((here.m0 + i) * term.stride);
            if (now.region && here.m0 + i < here.total) {
                const Place p = place_of(*now.region, here.m0 + i);
                row.base = (unsigned)(p.sample * term.geometry->source_rows * term.stride +
                                      (i64)here.group * term.channels);
                for (int d = 0; d < 3; d++)
                    row.index[d] = p.axis[d] * now.region->axes[d].taps;
            }
            table.starts[i] = row;
        }
        __syncthreads();
        if (Sums::TENSOR && now.term->quads)
            add_term<BM, BN, BK, NS, Sums::TENSOR ? QUAD : 1, STAGES>(now, op, here, table.starts, sums, memory.tiles);
        else
            add_term<BM, BN, BK, NS, 1, STAGES>(now, op, here, table.starts, sums, memory.tiles);
        t = here.term;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < BM; i += THREADS)
        if (here.m0 + i < here.total)
            table.ends[i] = row_end(op, op.geometry ? &op.geometry->regions[here.region] : 0, here.m0 + i);
    const i64 plane = run.samples * op.rows * op.width;
    if (planes)
        planes += ((i64)accumulator * splits + here.split) * plane;
    for (int first = 0; first < BM && here.m0 + first < here.total; first += ROWS) {
        sums.template stage<BN>(first, memory.sums);
        __syncthreads();
        if (NS == 1 && op.width % 4 == 0 && op.columns % 4 == 0)
            write<BM, BN, NS, 4, 1>(op, here, run, memory.sums, table.ends, first, planes, splits * plane);
        else // rows begin anywhere: neighbours write neighbouring values
            write<BM, BN, NS, 4 / NS, BN * NS / 4>(op, here, run, memory.sums, table.ends, first, planes, splits * plane);
        __syncthreads();
    }
}

// A kernel's line says its tile, columns being those of each of its NS sums; what its threads hold; how many steps of K
// are in shared memory, and how many bytes they take there; and how many blocks a multiprocessor should have room for.
#define KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, ...)                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                \
        NAME##_##NS(const Contraction* op, int accumulator, int splits, REAL* planes, RUN_ARGUMENTS)             \
    {                                                                                                            \
        contract<BM, BN, BK, NS, STAGES, BYTES, __VA_ARGS__>(*op, accumulator, splits, planes, RUN);             \
    }
#define TILE(NAME, BM, BN, BK, TM, TN, STAGES, BYTES, NS, BLOCKS)                                                \
    KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, Plain<BM, NS * BN, BK, TM, TN>)
#define FRAGMENTS(NAME, BM, BN, BK, WM, STAGES, BYTES, NS, BLOCKS)                                               \
    KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, Fragments<BM, NS * BN, BK, WM>)

#ifdef TENSOR_CORES
FRAGMENTS(wide, 128, 128, 16, 2, 4, 75776, 1, 2)
FRAGMENTS(wide, 128, 64, 16, 2, 4, 75776, 2, 2)
FRAGMENTS(middle, 128, 64, 16, 4, 4, 59392, 1, 2)
FRAGMENTS(middle, 128, 32, 16, 4, 4, 59392, 2, 2)
FRAGMENTS(narrow, 128, 16, 16, 8, 4, 47104, 1, 2)
FRAGMENTS(narrow, 128, 16, 16, 8, 4, 51200, 2, 2)
FRAGMENTS(few, 32, 64, 16, 2, 4, 28672, 1, 2)
FRAGMENTS(few, 32, 64, 16, 2, 4, 45056, 2, 2)
#elif defined(DOUBLE)
TILE(wide, 128, 64, 8, 8, 4, 3, 38400, 1, 1)
TILE(wide, 64, 64, 8, 4, 8, 3, 38400, 2, 1)
TILE(middle, 64, 32, 8, 4, 2, 4, 26624, 1, 2)
TILE(middle, 64, 32, 8, 4, 4, 4, 34816, 2, 2)
TILE(narrow, 128, 16, 8, 4, 2, 4, 38912, 1, 2)
TILE(narrow, 128, 16, 8, 4, 4, 4, 43008, 2, 2)
TILE(few, 32, 64, 8, 4, 2, 4, 26624, 1, 2)
TILE(few, 32, 64, 8, 4, 4, 4, 43008, 2, 2)
#else
TILE(wide, 128, 128, 16, 8, 8, 3, 50688, 1, 2)
TILE(wide, 128, 64, 16, 8, 8, 3, 50688, 2, 2)
TILE(middle, 128, 64, 16, 8, 4, 4, 51200, 1, 2)
TILE(middle, 128, 32, 16, 8, 4, 4, 51200, 2, 2)
TILE(narrow, 128, 16, 16, 4, 2, 4, 38912, 1, 2)
TILE(narrow, 128, 16, 16, 4, 4, 4, 43008, 2, 2)
TILE(few, 32, 64, 16, 4, 2, 4, 26624, 1, 2)
TILE(few, 32, 64, 16, 4, 4, 4, 43008, 2, 2)
#endif
