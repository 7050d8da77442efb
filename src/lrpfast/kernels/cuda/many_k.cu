// Layers of many inputs and at most MOST_FEW outputs, and their redistribution: bound by memory. Each value of the wide side
// is read or written once, 16 bytes at a time, though rows begin anywhere: a *window* of 16 bytes is aligned in memory,
// and its values are k to k + QUAD - 1 of the row, where k depends on how the row is shifted against 16 bytes. Rows that
// are QUAD apart are shifted alike, so a block takes such rows, and the weights lie in memory once for every shift
// (DeviceArrays.windows), zeros at both ends.
//
// A term's row_step is from one of the few to the next, its column_step from one shift to the next.

// MOST_FEW, AT_ONCE and THREADS stand in modules.py.
enum { QUAD = 16 / sizeof(REAL), WARPS = THREADS / 32 };

// A window of a row of `width` values that begins at value k: 0 where it has none.
__device__ __forceinline__ void take_window(const REAL* row, i64 k, i64 width, REAL (&v)[QUAD])
{
    if (k >= 0 && k + QUAD <= width) {
        const Quad quad = *reinterpret_cast<const Quad*>(row + k);
#pragma unroll
        for (int e = 0; e < QUAD; e++)
            v[e] = quad.v[e];
    } else
#pragma unroll
        for (int e = 0; e < QUAD; e++)
            v[e] = k + e >= 0 && k + e < width ? row[k + e] : (REAL)0;
}

__device__ __forceinline__ int shift_of(const REAL* row) { return (int)((u64)row / sizeof(REAL) % QUAD); }

// Rows first, first + QUAD, …: those of a block's `place`-th group, which are shifted alike.
__device__ __forceinline__ i64 first_row(i64 place, int rows_at_once)
{
    return place / QUAD * QUAD * rows_at_once + place % QUAD;
}

// Sums of many products, to planes: a warp has AT_ONCE rows, its lanes neighbouring windows; a split has part of them.
template <int NS>
__device__ __forceinline__ void many_k(const Contraction& op, int splits, REAL* planes, const Run& run)
{
    const i64 total = run.samples * op.rows;
    const int lane = threadIdx.x % 32, split = blockIdx.y;
    const i64 first = first_row(blockIdx.x, WARPS * AT_ONCE) + threadIdx.x / 32 * (i64)(AT_ONCE * QUAD);
    if (first >= total)
        return;
    const Term& any = op.terms[0]; // all terms have the same rows
    const REAL* row = run.at(any.source) + first * any.stride;
    const i64 width = any.channels, apart = (i64)QUAD * any.stride;
    const int shift = shift_of(row), rows = (int)min((total - first + QUAD - 1) / QUAD, (i64)AT_ONCE);
    const i64 windows = (width + shift + QUAD - 1) / QUAD;
    REAL sums[NS][AT_ONCE][MOST_FEW];
#pragma unroll
    for (int a = 0; a < NS; a++)
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
            for (int n = 0; n < MOST_FEW; n++)
                sums[a][r][n] = 0;
#pragma unroll 1
    for (i64 w = windows * split / splits + lane; w < windows * (split + 1) / splits; w += 32) {
#pragma unroll 1
        for (int t = 0; t < op.terms_count; t++) { // the second reads what is in the first cache by then
            const Term& term = op.terms[t];
            REAL x[AT_ONCE][QUAD];
#pragma unroll
            for (int r = 0; r < AT_ONCE; r++)
                take_window(row + (r < rows ? r : 0) * apart, w * QUAD - shift, width, x[r]);
            if (term.part || term.round)
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
                    for (int e = 0; e < QUAD; e++) {
                        const REAL part = part_of(term.part, x[r][e]);
                        x[r][e] = term.round ? tf32(part) : part;
                    }
            const REAL* weights = term.weights[0] + shift * term.column_step + w * QUAD;
#pragma unroll
            for (int a = 0; a < NS; a++)
                if (a == term.accumulator)
#pragma unroll
                    for (int n = 0; n < MOST_FEW; n++) {
                        const Quad of_n = *reinterpret_cast<const Quad*>(weights + n * term.row_step);
#pragma unroll
                        for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
                            for (int e = 0; e < QUAD; e++)
                                sums[a][r][n] = fma_(x[r][e], of_n.v[e], sums[a][r][n]);
                    }
        }
    }
    const i64 plane = total * op.width;
#pragma unroll
    for (int a = 0; a < NS; a++)
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            REAL mine = 0;
#pragma unroll
            for (int n = 0; n < MOST_FEW; n++) {
                REAL sum = sums[a][r][n];
#pragma unroll
                for (int by = 16; by; by /= 2)
                    sum += __shfl_xor_sync(0xffffffffu, sum, by);
                mine = lane == n ? sum : mine;
            }
            if (r < rows && lane < op.width)
                planes[((i64)a * splits + split) * plane + (first + (i64)r * QUAD) * op.width + lane] = mine;
        }
}

// Products of few terms, finished: a thread has a window of columns of AT_ONCE rows, GROUPS times.
template <int NS>
__device__ __forceinline__ void small_k(const Contraction& op, int groups, const Run& run)
{
    const i64 total = run.samples * op.rows, width = op.width;
    const i64 begin = first_row(blockIdx.x, AT_ONCE * groups);
    if (begin >= total)
        return;
    REAL* out = op.shares_count ? run.at(op.out) : run.at(op.outputs[0].buffer);
    const int shift = shift_of(out + begin * width);
    const i64 window = blockIdx.y * (i64)THREADS + threadIdx.x, column = window * QUAD - shift;
    if (column >= width)
        return;
#pragma unroll 1
    for (int g = 0; g < groups; g++) {
        const i64 first = begin + g * (i64)(AT_ONCE * QUAD);
        if (first >= total)
            return;
        const int rows = (int)min((total - first + QUAD - 1) / QUAD, (i64)AT_ONCE);
        REAL x[AT_ONCE][QUAD], sums[NS][AT_ONCE][QUAD];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
#pragma unroll
            for (int e = 0; e < QUAD; e++)
                x[r][e] = 0;
            if (op.shares_count) { // all are under way before the first is needed
                const i64 at = (first + (i64)(r < rows ? r : 0) * QUAD) * width + column;
                if (column >= 0)
                    get<QUAD>(run.at(op.x) + at, (int)min(width - column, (i64)QUAD), x[r]);
                else
#pragma unroll
                    for (int e = 0; e < QUAD; e++)
                        x[r][e] = column + e >= 0 && column + e < width ? run.at(op.x)[at + e] : (REAL)0;
            }
#pragma unroll
            for (int a = 0; a < NS; a++)
#pragma unroll
                for (int e = 0; e < QUAD; e++)
                    sums[a][r][e] = 0;
        }
#pragma unroll 1
        for (int t = 0; t < op.terms_count; t++) {
            const Term& term = op.terms[t];
            const REAL* source = run.at(term.source) + first * term.stride;
            const REAL* weights = term.weights[0] + shift * term.column_step + window * QUAD;
#pragma unroll 2
            for (int k = 0; k < term.channels; k++) {
                const Quad of_k = *reinterpret_cast<const Quad*>(weights + k * term.row_step);
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++) {
                    REAL s = part_of(term.part, source[(r < rows ? r : 0) * (i64)QUAD * term.stride + k]);
                    s = term.round ? tf32(s) : s;
#pragma unroll
                    for (int a = 0; a < NS; a++)
                        if (a == term.accumulator)
#pragma unroll
                            for (int e = 0; e < QUAD; e++)
                                sums[a][r][e] = fma_(s, of_k.v[e], sums[a][r][e]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const i64 m = first + (i64)r * QUAD, at = m * width + column;
            if (r >= rows)
                continue;
            REAL values[NS][QUAD];
#pragma unroll
            for (int a = 0; a < NS; a++)
#pragma unroll
                for (int e = 0; e < QUAD; e++)
                    values[a][e] = sums[a][r][e];
            const i64 in_sample = m % op.rows * width + column;
            if (column >= 0)
                epilogue_of_window<NS>(op, run, values, x[r], at, in_sample, (int)min(width - column, (i64)QUAD));
            else
#pragma unroll
                for (int e = 1; e < QUAD; e++) {
                    REAL one[NS][1], of_x[1] = {x[r][e]};
#pragma unroll
                    for (int a = 0; a < NS; a++)
                        one[a][0] = values[a][e];
                    if (column + e >= 0)
                        epilogue_of_window<NS>(op, run, one, of_x, at + e, in_sample + e, 1);
                }
        }
    }
}

#define MANY_K(NS, BLOCKS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                    \
        many_k_##NS(const Contraction* op, int splits, REAL* planes, RUN_ARGUMENTS)                              \
    {                                                                                                            \
        many_k<NS>(*op, splits, planes, RUN);                                                                    \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) small_k_##NS(const Contraction* op, int groups,    \
                                                                           RUN_ARGUMENTS)                        \
    {                                                                                                            \
        small_k<NS>(*op, groups, RUN);                                                                           \
    }

MANY_K(1, 2)
MANY_K(2, 2)
