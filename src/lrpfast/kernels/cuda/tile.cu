// Contractions as matrix products: a block makes a BM x BN tile of sums, or of two sums of the same rows, K by K. Its
// threads have TM x TN of them each, or, on tensor cores, MT x NT fragments (tile_sums.cu). With a geometry the rows
// of the left matrix are gathered through the taps while they are copied (tile_loaders.cu), an implicit GEMM: so
// convolutions, their transposes and dense layers are one kernel, in any number of dimensions. Parts of the weights are
// other weights (device_arrays.py).
//
// Operands come to shared memory by asynchronous copies, STAGES steps of K ahead of the products (on devices before
// 8.0, which have none, by plain ones). A value is transformed, where a part of it is taken or it is rounded, by the
// thread that copied it, between the wait for it and the barrier that shows it to the others. Three modules are made of
// this file: the tiles in use, and with TRIAL_TILES or WARPGROUPS those that have not been measured (tiles.py).
//
// Every sum runs over k in order, whatever the tile: results repeat bitwise, and do not depend on the batch, except
// through the number of splits of K (split_k_reduce.cu adds those, in order).

// A finished row's first value: where it is among all samples' values, and within its sample's.
struct RowEnd {
    i64 at, in_sample;
};

__device__ __forceinline__ RowEnd row_end(const Contraction& op, const Region* region, i64 m)
{
    if (!region)
        return {m * op.width, m % op.rows * op.width};
    const RowCoords p = coords_of(*region, m);
    const i64 in_sample = row_at(*op.geometry, *region, p) * op.width;
    return {p.sample * op.rows * op.width + in_sample, in_sample};
}

#ifndef WARPGROUPS // tile_wgmma.cu has its own
#define ALIGNMENT 16
// A term's products, added to the sums, by copies of W neighbouring values of the left operand.
template <int BM, int BN, int BK, int NS, int W, int STAGES, class Sums>
__device__ __forceinline__ void add_term(const TermState& state, const Contraction& op, const BlockCoords& block,
                                         const RowStart* rows, Sums& sums, typename Sums::Operands* tiles)
{
    typedef typename Sums::Operands Operands;
    TileLoaderA<Operands, BM, BK, W> loader_a(state);
    TileLoaderB<Operands, BN, NS, BK> loader_b(state, op, block);
    int left = state.end - state.begin;
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < left) {
            loader_a.load(state, rows, tiles[s]);
            loader_b.load(state, tiles[s]);
        }
        close_group();
    }
    int at = 0, next = STAGES - 1;
#pragma unroll 1
    for (; left > 0; left--) {
        wait_for_group<STAGES - 2>();
        if (state.transformed)
            loader_a.transform(*state.term, tiles[at]);
        __syncthreads();
        if (left >= STAGES) {
            loader_a.load(state, rows, tiles[next]);
            loader_b.load(state, tiles[next]);
        }
        close_group();
        sums.add(tiles[at]);
        at = at + 1 < STAGES ? at + 1 : 0;
        next = next + 1 < STAGES ? next + 1 : 0;
    }
}
#endif

// Staged sums are finished, or kept in planes: V values of a row by a thread, STEP apart.
template <int BM, int BN, int NS, int V, int STEP>
__device__ __forceinline__ void write(const Contraction& op, const BlockCoords& block, const Run& run,
                                      const REAL* staged, const RowEnd* ends, int first, REAL* planes, i64 plane_step)
{
    for (int e = threadIdx.x; e < ROWS * BN / V; e += THREADS) {
        const int i = e / (BN / V), j = e % (BN / V) * (STEP == 1 ? V : 1), left = op.columns - block.n0 - j;
        if (block.m0 + first + i >= block.total || left <= 0)
            continue;
        const i64 column = (i64)block.group * op.columns + block.n0 + j;
        const i64 at = ends[first + i].at + column, in_sample = ends[first + i].in_sample + column;
        REAL values[NS][V];
#pragma unroll
        for (int s = 0; s < NS; s++) {
            get<V, STEP>(staged + (s * ROWS + i) * (BN + 4) + j, V * STEP, values[s]);
            if (planes)
                put<V, STEP>(planes + s * plane_step + at, left, values[s]);
        }
        if (!planes)
            epilogue<NS, V, STEP>(op, run, values, at, in_sample, left);
    }
}

// Where the rows of a block begin in a term's source.
template <int BM>
__device__ __forceinline__ void find_rows(const TermState& state, const BlockCoords& block, RowStart* starts)
{
    for (int i = threadIdx.x; i < BM; i += THREADS) {
        const Term& term = *state.term;
        RowStart row;
        row.index[0] = block.m0 + i < block.total ? 0 : -1;
        row.index[1] = row.index[2] = 0;
        row.base = (unsigned)((block.m0 + i) * term.stride);
        if (state.region && block.m0 + i < block.total) {
            const RowCoords p = coords_of(*state.region, block.m0 + i);
            row.base =
                (unsigned)(p.sample * term.geometry->source_rows * term.stride + (i64)block.group * term.channels);
            for (int d = 0; d < 3; d++)
                row.index[d] = p.axis[d] * state.region->axes[d].taps;
        }
        starts[i] = row;
    }
}

// Where the finished rows of a block go.
template <int BM>
__device__ __forceinline__ void find_ends(const Contraction& op, const BlockCoords& block, RowEnd* ends)
{
    for (int i = threadIdx.x; i < BM; i += THREADS)
        if (block.m0 + i < block.total)
            ends[i] = row_end(op, op.geometry ? &op.geometry->regions[block.region] : 0, block.m0 + i);
}

// The first taps' numbers on the three axes.
__device__ __forceinline__ void keep_taps(TermState& state)
{
    if (state.region && threadIdx.x < TermState::KEPT && threadIdx.x < state.region->taps) {
        const Tap at(*state.region, threadIdx.x);
        state.taps[threadIdx.x] = {(unsigned char)at.x, (unsigned char)at.y, (unsigned char)at.z, 0};
    }
}

// What a block has in shared memory: the operands of some steps of K, and later some rows of sums; its rows' beginnings
// in a term's source, and later where they go.
template <class Operands, int STAGES, int SUMS_OF_ROWS>
union Memory {
    Operands tiles[STAGES];
    REAL sums[SUMS_OF_ROWS];
};
template <int BM>
union RowTable {
    RowStart starts[BM];
    RowEnd ends[BM];
};

// blockIdx: x over rows, y over columns, z over regions, groups and splits. All terms are added and finished; or, where
// there are `planes` to keep sums in, those that go to `accumulator` (and, of two sums, to the next one).
template <int BM, int BN, int BK, int NS, int STAGES, int BYTES, class Sums>
__device__ __forceinline__ void tile(const Contraction& op, int accumulator, int splits, REAL* planes, const Run& run)
{
    typedef Memory<typename Sums::Operands, STAGES, NS * ROWS * (BN + 4)> BlockMemory;
    static_assert(sizeof(BlockMemory) == BYTES, "tiles.py says how much shared memory a kernel takes");
    extern __shared__ __align__(ALIGNMENT) char shared_memory[];
    BlockMemory& data = *reinterpret_cast<BlockMemory*>(shared_memory);
    __shared__ RowTable<BM> rows;
    __shared__ BlockCoords block;
    __shared__ TermState state;
    const i64 m0 = blockIdx.x * (i64)BM;
    const int r = blockIdx.z / splits / op.groups;
    const Region* own = op.geometry ? &op.geometry->regions[r] : 0;
    const i64 total = run.samples * (own ? own->rows : op.rows);
    if (m0 >= total) return;
    if (threadIdx.x == 0) {
        block.m0 = m0, block.total = total, block.n0 = blockIdx.y * BN;
        block.region = r, block.group = blockIdx.z / splits % op.groups, block.split = blockIdx.z % splits;
    }
    Sums sums;
    sums.clear();
    for (int t = 0; t < op.terms_count; t++) {
        if (planes && op.terms[t].accumulator != accumulator)
            continue;
        __syncthreads(); // the last term is done with
        if (threadIdx.x == 0) {
            const Term& term = op.terms[t];
            block.term = t, state.term = &term;
            state.region = term.geometry ? &term.geometry->regions[block.region] : 0;
            state.from = run.at(term.source), state.channels = term.channels;
            state.depth = state.region ? state.region->taps * term.channels : term.channels;
            const i64 steps = (state.depth + BK - 1) / BK;
            state.begin = (int)(steps * block.split / splits), state.end = (int)(steps * (block.split + 1) / splits);
            state.transformed = term.part || (term.round && !Sums::IN_REGISTERS);
            TileLoaderB<typename Sums::Operands, BN, NS, BK>::set(state, op, block);
        }
        __syncthreads();
        keep_taps(state);
        find_rows<BM>(state, block, rows.starts);
        __syncthreads();
        if (Sums::TENSOR && (Sums::WHOLE || state.term->quads))
            add_term<BM, BN, BK, NS, Sums::TENSOR ? QUAD : 1, STAGES>(state, op, block, rows.starts, sums, data.tiles);
        else if constexpr (!Sums::WHOLE)
            add_term<BM, BN, BK, NS, 1, STAGES>(state, op, block, rows.starts, sums, data.tiles);
        t = block.term;
    }
    __syncthreads();
    find_ends<BM>(op, block, rows.ends);
    const i64 plane = run.samples * op.rows * op.width;
    if (planes)
        planes += ((i64)accumulator * splits + block.split) * plane;
    for (int m = 0; m < BM && block.m0 + m < block.total; m += ROWS) {
        sums.template stage<BN>(m, data.sums);
        __syncthreads();
        if (NS == 1 && op.width % 4 == 0 && op.columns % 4 == 0)
            write<BM, BN, NS, 4, 1>(op, block, run, data.sums, rows.ends, m, planes, splits * plane);
        else // rows begin anywhere: neighbours write neighbouring values
            write<BM, BN, NS, 4 / NS, BN * NS / 4>(op, block, run, data.sums, rows.ends, m, planes, splits * plane);
        __syncthreads();
    }
}

// The kernels stand in tiles.py, whose `Tile` says what the numbers are. From there modules.py writes TILES, a TILE or
// FRAGMENTS each, in front of the first file.
#define KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, ...)                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                \
        NAME##_##NS(const Contraction* op, int accumulator, int splits, REAL* planes, RUN_ARGUMENTS)             \
    {                                                                                                            \
        tile<BM, BN, BK, NS, STAGES, BYTES, __VA_ARGS__>(*op, accumulator, splits, planes, RUN);                 \
    }
#define TILE(NAME, BM, BN, BK, TM, TN, STAGES, BYTES, NS, BLOCKS)                                                \
    KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, Plain<BM, NS * BN, BK, TM, TN>)
#define FRAGMENTS(NAME, BM, BN, BK, WM, STAGES, BYTES, NS, BLOCKS)                                               \
    KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, Fragments<BM, NS * BN, BK, WM>)
#define WGMMAS(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS)                                                       \
    KERNEL(NAME, BM, BN, BK, STAGES, BYTES, NS, BLOCKS, Warpgroups<BM, NS * BN>)

TILES
