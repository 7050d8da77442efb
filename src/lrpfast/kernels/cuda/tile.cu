// Contractions as matrix products: a block makes a BM x BN tile of sums, K by K; its threads hold TM x TN of them each,
// or, on tensor cores, 4 x NT fragments. With a geometry the rows of the left matrix are gathered through the taps
// while they are loaded (an implicit GEMM), so that convolutions, their transposes and dense layers are one kernel,
// in any number of dimensions. Parts of weights are taken in registers: a split term adds w+ to one sum and w- to
// another from a single load.
//
// Every sum runs over k in order, whatever the tile: results repeat bitwise, and do not depend on the batch, except
// through the number of splits of K (planes.cu adds those, in order).

// A tile's depth, a block's threads, and the rows of sums that pass through shared memory at a time.
enum { BK = 16, THREADS = 256, ROWS = 32 };

// Where a tile's row begins: the same for all of a term's K, so kept in shared memory.
struct RowStart {
    i64 base;                  // of its sample, and group
    int index[3];              // into the axes' tables; -1 for a row beyond the last
};

// The term that a block is at. In shared memory, as registers are for sums: the inner loop has none to spare.
struct Now {
    const Term* term;
    const Region* region;      // 0 without geometry: then a row is all one tap
    const REAL* from;
    i64 row_step, column_step;
    int depth, channels, flags;
    REAL scale;
    // TAKEN: rows are not as they lie; CLAMPED: nor are weights; WHOLE: four k are of one tap
    enum { ROUND = 4, PLUS = 8, ALONG_N = 16, WHOLE = 32, TAKEN = 64, CLAMPED = 128 };

    __device__ __forceinline__ void set(const Term& t, const Region* r, const REAL* source, int k)
    {
        term = &t;
        region = r;
        from = source;
        row_step = t.row_step;
        column_step = t.column_step;
        depth = k;
        channels = t.channels;
        scale = (REAL)t.scale;
        flags = t.part | (t.round ? ROUND : 0) | (t.sign > 0 ? PLUS : 0) | (t.column_step == 1 ? ALONG_N : 0) |
                (!r || t.channels % 4 == 0 ? WHOLE : 0) | (t.part || t.round || scale != 1 ? TAKEN : 0) |
                (t.sign && !t.split ? CLAMPED : 0);
    }
    __device__ __forceinline__ REAL row(int flags, REAL v) const
    {
        v = part_of(flags & 3, v) * scale;
        return flags & ROUND ? tf32(v) : v;
    }
    // where a row's values of a tap lie; 0 outside
    __device__ __forceinline__ const REAL* find(const RowStart& row, int tap) const
    {
        if (row.index[0] < 0)
            return 0;
        if (!region)
            return from + row.base;
        const Axis *x = &region->axes[0], *y = &region->axes[1], *z = &region->axes[2];
        const int l = tap % z->taps, i = tap / z->taps;
        const int a = x->index[row.index[0] + i / y->taps], b = y->index[row.index[1] + i % y->taps];
        const int c = z->index[row.index[2] + l];
        if (a < 0 || b < 0 || c < 0)
            return 0;
        const Geometry& g = *term->geometry;
        return from + row.base + (((i64)a * g.source[1] + b) * g.source[2] + c) * term->stride;
    }
};

// A thread loads four neighbouring k of some rows, step by step; it keeps where the rows lie at the current tap.
template <int BM>
struct Rows {
    enum { LOADS = (BM * BK / 4 + THREADS - 1) / THREADS, APART = THREADS / (BK / 4) };
    const REAL* source[LOADS]; // 0 outside
    int k, next;               // of this thread, and where the current tap ends

    __device__ __forceinline__ static int row(int l) { return threadIdx.x / (BK / 4) + l * APART; }
    __device__ __forceinline__ static bool mine(int l) { return BM % APART == 0 || row(l) < BM; }

    __device__ __forceinline__ explicit Rows(int step) : k(step * BK + threadIdx.x % (BK / 4) * 4), next(0) {}

    __device__ __forceinline__ void load(const Now& now, const RowStart* rows, REAL (&value)[LOADS][4])
    {
        if (now.flags & Now::WHOLE) {
            if (k >= next && k < now.depth) {
                const int tap = k / now.channels;
                next = (tap + 1) * now.channels;
#pragma unroll
                for (int l = 0; l < LOADS; l++)
                    if (mine(l))
                        source[l] = now.find(rows[row(l)], tap);
            }
#pragma unroll
            for (int l = 0; l < LOADS; l++)
                if (mine(l))
                    get<4>(source[l] + (k - next + now.channels), k < now.depth && source[l] ? next - k : 0, value[l]);
        } else
#pragma unroll 1
            for (int j = 0; j < 4; j++) {
                const int tap = (k + j) / now.channels;
#pragma unroll
                for (int l = 0; l < LOADS; l++)
                    if (mine(l)) {
                        const REAL* p = k + j < now.depth ? now.find(rows[row(l)], tap) : 0;
                        const REAL v = p ? p[k + j - tap * now.channels] : (REAL)0;
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            if (i == j)
                                value[l][i] = v;
                    }
            }
        k += BK;
    }
};

// BK x BN of the weights, step by step, as they lie: four neighbours in a row of them, or in a column.
template <int BN>
struct Columns {
    enum { LOADS = (BN * BK / 4 + THREADS - 1) / THREADS };
    const REAL* p;             // of this thread's first four
    int n, k;                  // columns and depth left there

    __device__ __forceinline__ static int quad(int l) { return threadIdx.x + l * THREADS; }
    __device__ __forceinline__ static bool mine(int l) { return BN * BK / 4 % THREADS == 0 || quad(l) < BN * BK / 4; }

    __device__ __forceinline__ Columns(const Now& now, const REAL* w, int step, int n0, int columns)
    {
        const bool along = now.flags & Now::ALONG_N;
        const int down = along ? quad(0) / (BN / 4) : quad(0) % (BK / 4) * 4;
        const int across = along ? quad(0) % (BN / 4) * 4 : quad(0) / (BK / 4);
        p = w + (step * BK + down) * now.row_step + (n0 + across) * now.column_step;
        k = now.depth - step * BK - down;
        n = columns - n0 - across;
    }

    __device__ __forceinline__ void load(const Now& now, REAL (&value)[LOADS][4])
    {
#pragma unroll
        for (int l = 0; l < LOADS; l++)
            if (mine(l)) {
                enum { DOWN = THREADS / (BN / 4), ACROSS = THREADS / (BK / 4) };
                const bool along = now.flags & Now::ALONG_N;
                const int there = along ? (k > l * DOWN ? n : 0) : (n > l * ACROSS ? k : 0);
                get<4>(p + l * (along ? DOWN * now.row_step : ACROSS * now.column_step), there, value[l]);
            }
        p += BK * now.row_step;
        k -= BK;
    }
};

// The two tiles of one step of K in shared memory. The left one is kept transposed where rows go to registers by k.
template <int BM, int BN, int TENSOR>
struct Tiles {
    enum { LDA = TENSOR ? BK + 4 : BM + 4, LDB = TENSOR ? BN + 8 : BN + 4 };
    __align__(16) REAL a[TENSOR ? BM * LDA : BK * LDA];
    __align__(16) REAL b[BK * LDB];

    __device__ __forceinline__ void put_rows(const Now& now, REAL (&value)[Rows<BM>::LOADS][4])
    {
        const int k = threadIdx.x % (BK / 4) * 4;
        if (now.flags & Now::TAKEN)
#pragma unroll
            for (int l = 0; l < Rows<BM>::LOADS; l++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    value[l][j] = now.row(now.flags, value[l][j]);
#pragma unroll
        for (int l = 0; l < Rows<BM>::LOADS; l++)
            if (Rows<BM>::mine(l)) {
                const int r = Rows<BM>::row(l);
                if (TENSOR)
                    put<4>(a + r * LDA + k, 4, value[l]);
                else
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        a[(k + j) * LDA + r] = value[l][j];
            }
    }

    __device__ __forceinline__ void put_columns(int flags, REAL (&value)[Columns<BN>::LOADS][4])
    {
        if (flags & Now::CLAMPED)
#pragma unroll
            for (int l = 0; l < Columns<BN>::LOADS; l++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    value[l][j] = flags & Now::PLUS ? positive(value[l][j]) : negative(value[l][j]);
#pragma unroll
        for (int l = 0; l < Columns<BN>::LOADS; l++)
            if (Columns<BN>::mine(l)) {
                const int e = Columns<BN>::quad(l);
                if (flags & Now::ALONG_N)
                    put<4>(b + e / (BN / 4) * LDB + e % (BN / 4) * 4, 4, value[l]);
                else
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        b[(e % (BK / 4) * 4 + j) * LDB + e / (BK / 4)] = value[l][j];
            }
    }
};

// Sums in registers, multiply-adds on ordinary cores. A thread's rows and columns are groups of four, BM / 2 and
// BN / 2 apart where it has eight, so that a warp's loads from shared memory meet no bank twice.
template <int BM, int BN, int TM, int TN, int NS>
struct Plain {
    enum { TENSOR = 0, ACROSS = BN / TN };
    REAL sums[NS][TM][TN];

    __device__ __forceinline__ static int row(int i)
    {
        const int y = threadIdx.x / ACROSS;
        return TM == 8 ? i / 4 * (BM / 2) + y * 4 + i % 4 : y * TM + i;
    }
    __device__ __forceinline__ static int column(int j)
    {
        const int x = threadIdx.x % ACROSS;
        return TN == 8 ? j / 4 * (BN / 2) + x * 4 + j % 4 : x * TN + j;
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int s = 0; s < NS; s++)
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    sums[s][i][j] = 0;
    }

    __device__ __forceinline__ void add(const Tiles<BM, BN, 0>& t, int plus)
    {
#pragma unroll 2
        for (int k = 0; k < BK; k++) {
            REAL a[TM], b[TN];
#pragma unroll
            for (int i = 0; i < TM; i += TM < 4 ? TM : 4)
                take<TM < 4 ? TM : 4, TM>(t.a + k * Tiles<BM, BN, 0>::LDA + row(i), a, i);
#pragma unroll
            for (int j = 0; j < TN; j += TN < 4 ? TN : 4)
                take<TN < 4 ? TN : 4, TN>(t.b + k * Tiles<BM, BN, 0>::LDB + column(j), b, j);
#pragma unroll
            for (int j = 0; j < TN; j++) {
                const REAL one = NS == 1 ? b[j] : plus ? positive(b[j]) : negative(b[j]);
                const REAL other = plus ? negative(b[j]) : positive(b[j]);
#pragma unroll
                for (int i = 0; i < TM; i++) {
                    sums[0][i][j] = fma_(a[i], one, sums[0][i][j]);
                    if (NS == 2)
                        sums[NS - 1][i][j] = fma_(a[i], other, sums[NS - 1][i][j]);
                }
            }
        }
    }

    template <int W, int N>
    __device__ __forceinline__ static void take(const REAL* p, REAL (&v)[N], int at)
    {
#pragma unroll
        for (int i = 0; i < W; i += (int)sizeof(Quad) / (int)sizeof(REAL)) {
            if (W * sizeof(REAL) % sizeof(Quad) == 0) {
                const Quad quad = *reinterpret_cast<const Quad*>(p + i);
#pragma unroll
                for (int j = 0; j < (int)(sizeof(Quad) / sizeof(REAL)); j++)
                    v[at + i + j < N ? at + i + j : 0] = quad.v[j];
            } else
#pragma unroll
                for (int j = 0; j < (int)(sizeof(Quad) / sizeof(REAL)); j++)
                    if (i + j < W)
                        v[at + i + j < N ? at + i + j : 0] = p[i + j];
        }
    }

    // the sums of rows first to first + ROWS, to shared memory
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int r = row(i) - first;
            if (r >= 0 && r < ROWS)
#pragma unroll
                for (int s = 0; s < NS; s++)
#pragma unroll
                    for (int j = 0; j < TN; j++)
                        to[(s * ROWS + r) * (BN + 4) + column(j)] = sums[s][i][j];
        }
    }
};

#ifdef TENSOR_CORES
#ifdef LRP_CPU_SHIM
#define MMA_TF32(d, a, b) shim::mma_m16n8k8(d, a, b, __LINE__)
#else
#define MMA_TF32(d, a, b)                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

// Sums in fragments of m16n8k8; eight warps, WM of them down. Operands are on TF32's grid: weights from the start, rows
// since they were put into shared memory.
template <int BM, int BN, int WM, int NS>
struct Fragments {
    enum { TENSOR = 1, WN = 8 / WM, MT = BM / WM / 16, NT = BN / WN / 8 };
    float sums[NS][MT][NT][4];

    __device__ __forceinline__ static int row() { return threadIdx.x / 32 / WN * (BM / WM) + threadIdx.x % 32 / 4; }
    __device__ __forceinline__ static int column() { return threadIdx.x / 32 % WN * (BN / WN); }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int s = 0; s < NS; s++)
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        sums[s][i][j][e] = 0;
    }

    __device__ __forceinline__ void add(const Tiles<BM, BN, 1>& t, int plus)
    {
        enum { LDA = Tiles<BM, BN, 1>::LDA, LDB = Tiles<BM, BN, 1>::LDB };
        const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int k = 0; k < BK; k += 8) {
            unsigned b[NS][NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float w = t.b[(k + q + h * 4) * LDB + column() + j * 8 + g];
                    b[0][j][h] = __float_as_uint(NS == 1 ? w : plus ? positive(w) : negative(w));
                    if (NS == 2)
                        b[NS - 1][j][h] = __float_as_uint(plus ? negative(w) : positive(w));
                }
#pragma unroll
            for (int i = 0; i < MT; i++) {
                unsigned a[4];
#pragma unroll
                for (int e = 0; e < 4; e++)
                    a[e] = __float_as_uint(t.a[(row() + i * 16 + e % 2 * 8) * LDA + k + q + e / 2 * 4]);
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int s = 0; s < NS; s++)
                        MMA_TF32(sums[s][i][j], a, b[s][j]);
            }
        }
    }

    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
        const int q = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = row() + i * 16 + h * 8 - first;
                if (r >= 0 && r < ROWS)
#pragma unroll
                    for (int s = 0; s < NS; s++)
#pragma unroll
                        for (int j = 0; j < NT; j++)
#pragma unroll
                            for (int v = 0; v < 2; v++)
                                to[(s * ROWS + r) * (BN + 4) + column() + j * 8 + q * 2 + v] = sums[s][i][j][h * 2 + v];
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

template <int BM>
__device__ __forceinline__ i64 first_row() { return blockIdx.x * (i64)BM; }

// blockIdx: x over rows, y over columns, z over regions, groups and splits. All terms are added and finished; or, where
// there are `planes` to keep sums in, those that go to `accumulator` (and, split, to the next one).
template <int BM, int BN, int NS, class Sums>
__device__ __forceinline__ void contract(const Contraction& op, int accumulator, int splits, REAL* planes, const Run& run)
{
    enum { PITCH = BN + 4 };
    __shared__ union {
        Tiles<BM, BN, Sums::TENSOR> tiles[2];
        __align__(16) REAL sums[NS * ROWS * PITCH];
    } memory;
    __shared__ union {
        RowStart starts[BM];
        RowEnd ends[BM];
    } table;
    __shared__ Now now;
    Tiles<BM, BN, Sums::TENSOR>* tiles = memory.tiles;
    RowStart* rows = table.starts;
    const int split = blockIdx.z % splits, group = blockIdx.z / splits % op.groups;
    const int r = blockIdx.z / splits / op.groups;
    const Region* own = op.geometry ? &op.geometry->regions[r] : 0;
    const int n0 = blockIdx.y * BN;
    if (first_row<BM>() >= run.samples * (own ? own->rows : op.rows))
        return;
    Sums sums;
    sums.clear();
    for (int t = 0; t < op.terms_count; t++) {
        const Term& term = op.terms[t];
        if (planes && term.accumulator != accumulator)
            continue;
        const Region* region = term.geometry ? &term.geometry->regions[r] : 0;
        const int depth = region ? region->taps * term.channels : term.channels;
        const int steps = (depth + BK - 1) / BK;
        const int begin = (int)((i64)steps * split / splits), end = (int)((i64)steps * (split + 1) / splits);
        const REAL* w = term.weights[r] + (i64)group * depth * op.columns;
        __syncthreads(); // the last term is done with
        if (threadIdx.x == 0)
            now.set(term, region, run.at(term.source), depth);
        const i64 m0 = first_row<BM>(), total = run.samples * (own ? own->rows : op.rows);
        for (int i = threadIdx.x; i < BM; i += THREADS) {
            RowStart row;
            row.index[0] = m0 + i < total ? 0 : -1;
            row.index[1] = row.index[2] = 0;
            row.base = (m0 + i) * term.stride;
            if (region && m0 + i < total) {
                const Place p = place_of(*region, m0 + i);
                row.base = p.sample * term.geometry->source_rows * term.stride + (i64)group * term.channels;
                for (int d = 0; d < 3; d++)
                    row.index[d] = p.axis[d] * region->axes[d].taps;
            }
            rows[i] = row;
        }
        __syncthreads();
        if (begin == end)
            continue;
        Rows<BM> down(begin);
        Columns<BN> across(now, w, begin, n0, op.columns);
        REAL a[Rows<BM>::LOADS][4], b[Columns<BN>::LOADS][4];
        down.load(now, rows, a);
        across.load(now, b);
        tiles[0].put_rows(now, a);
        tiles[0].put_columns(now.flags, b);
        __syncthreads();
        for (int left = end - begin, at = 0; left > 0; left--, at ^= 1) {
            if (left > 1) {
                down.load(now, rows, a);
                across.load(now, b);
            }
            sums.add(tiles[at], now.flags & Now::PLUS);
            if (left > 1) {
                tiles[at ^ 1].put_rows(now, a);
                tiles[at ^ 1].put_columns(now.flags, b);
            }
            __syncthreads();
        }
    }
    const i64 m0 = first_row<BM>(), total = run.samples * (own ? own->rows : op.rows);
    for (int i = threadIdx.x; i < BM; i += THREADS)
        if (m0 + i < total)
            table.ends[i] = row_end(op, own, m0 + i);
    const i64 plane = run.samples * op.rows * op.width;
    if (planes)
        planes += ((i64)accumulator * splits + split) * plane;
    for (int first = 0; first < BM && m0 + first < total; first += ROWS) {
        sums.stage(first, memory.sums);
        __syncthreads();
        for (int e = threadIdx.x; e < ROWS * BN / 4; e += THREADS) {
            const int i = e / (BN / 4), j = e % (BN / 4) * 4, left = op.columns - n0 - j, n = left < 4 ? left : 4;
            if (m0 + first + i >= total || n <= 0)
                continue;
            const i64 column = (i64)group * op.columns + n0 + j;
            const i64 at = table.ends[first + i].at + column, place = table.ends[first + i].place + column;
            REAL values[NS][4];
#pragma unroll
            for (int s = 0; s < NS; s++) {
                get<4>(memory.sums + (s * ROWS + i) * PITCH + j, 4, values[s]);
                if (planes)
                    put<4>(planes + s * splits * plane + at, n, values[s]);
            }
            if (!planes)
                finish<NS, 4>(op, run, values, at, place, n);
        }
        __syncthreads();
    }
}

#define TILE(NAME, BM, BN, TM, TN, NS, BLOCKS)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                \
        NAME##_##NS(const Contraction* op, int accumulator, int splits, REAL* planes, RUN_ARGUMENTS)             \
    {                                                                                                            \
        contract<BM, BN, NS, Plain<BM, BN, TM, TN, NS>>(*op, accumulator, splits, planes, RUN);                                  \
    }

#ifdef TENSOR_CORES
#define FRAGMENTS(NAME, BM, BN, WM, NS, BLOCKS)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                \
        NAME##_##NS(const Contraction* op, int accumulator, int splits, REAL* planes, RUN_ARGUMENTS)             \
    {                                                                                                            \
        contract<BM, BN, NS, Fragments<BM, BN, WM, NS>>(*op, accumulator, splits, planes, RUN);                                  \
    }
FRAGMENTS(wide, 128, 128, 2, 1, 1)
FRAGMENTS(wide, 128, 64, 2, 2, 1)
FRAGMENTS(middle, 128, 64, 4, 1, 1)
FRAGMENTS(middle, 64, 64, 2, 2, 1)
FRAGMENTS(narrow, 128, 16, 8, 1, 1)
FRAGMENTS(narrow, 128, 16, 8, 2, 1)
FRAGMENTS(few, 32, 64, 2, 1, 1)
FRAGMENTS(few, 32, 64, 2, 2, 1)
#elif defined(DOUBLE)
TILE(wide, 64, 64, 4, 4, 1, 2)
TILE(wide, 64, 64, 4, 4, 2, 1)
TILE(middle, 64, 32, 4, 2, 1, 2)
TILE(middle, 64, 32, 4, 2, 2, 2)
TILE(narrow, 128, 16, 4, 2, 1, 2)
TILE(narrow, 128, 16, 4, 2, 2, 2)
TILE(few, 32, 64, 4, 2, 1, 2)
TILE(few, 32, 64, 4, 2, 2, 2)
#else
TILE(wide, 128, 128, 8, 8, 1, 1)
TILE(wide, 128, 128, 8, 8, 2, 1)
TILE(middle, 128, 64, 8, 4, 1, 2)
TILE(middle, 128, 64, 8, 4, 2, 1)
TILE(narrow, 128, 16, 4, 2, 1, 2)
TILE(narrow, 128, 16, 4, 2, 2, 2)
TILE(few, 32, 64, 4, 2, 1, 2)
TILE(few, 32, 64, 4, 2, 2, 2)
#endif
