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

// The same of a row that may be shifted in another way.
__device__ __forceinline__ void take_part(const REAL* row, i64 k, i64 width, REAL (&v)[QUAD])
{
    if (((u64)(row + k) & 15) == 0)
        take_window(row, k, width, v);
    else
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

// A window of ROWS rows, times the weights of a term, is added to the sums.
template <int ROWS>
__device__ __forceinline__ void add_window(const Term& term, const REAL* row, int window, int shift, int rows,
                                           REAL (&sums)[ROWS][MOST_FEW])
{
    REAL x[ROWS][QUAD];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        take_window(row + (r < rows ? r : 0) * (i64)QUAD * term.stride, (i64)window * QUAD - shift, term.channels, x[r]);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int e = 0; e < QUAD; e++) {
            const REAL part = part_of(term.part, x[r][e]);
            x[r][e] = term.round ? tf32(part) : part;
        }
    const REAL* weights = term.weights[0] + shift * term.column_step + (i64)window * QUAD;
#pragma unroll
    for (int n = 0; n < MOST_FEW; n++, weights += term.row_step) {
        const Quad of_n = *reinterpret_cast<const Quad*>(weights);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int e = 0; e < QUAD; e++)
                sums[r][n] = fma_(x[r][e], of_n.v[e], sums[r][n]);
    }
}

// Sums of many products, to planes: a warp has ROWS rows, its lanes neighbouring windows; a split has part of them.
template <int NS, int ROWS = AT_ONCE / NS>
__device__ __forceinline__ void many_k(const Contraction& op, int splits, REAL* planes, const Run& run)
{
    const i64 total = run.samples * op.rows, plane = total * op.width;
    const int lane = threadIdx.x % 32, split = blockIdx.y;
    const i64 first = first_row(blockIdx.x, WARPS * ROWS) + threadIdx.x / 32 * (i64)(ROWS * QUAD);
    if (first >= total)
        return;
    const Term& any = op.terms[0]; // all terms have the same rows
    const REAL* row = run.at(any.source) + first * any.stride;
    const int shift = shift_of(row), rows = (int)min((total - first + QUAD - 1) / QUAD, (i64)ROWS);
    const i64 windows = ((i64)any.channels + shift + QUAD - 1) / QUAD;
    const int begin = (int)(windows * split / splits) + lane, end = (int)(windows * (split + 1) / splits);
    REAL sums[NS][ROWS][MOST_FEW];
#pragma unroll
    for (int a = 0; a < NS; a++)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int n = 0; n < MOST_FEW; n++)
                sums[a][r][n] = 0;
#pragma unroll 1
    for (int w = begin; w < end; w += 32)
#pragma unroll
        for (int a = 0; a < NS; a++) // not as an index that a term has: sums would lie in memory
#pragma unroll 1
            for (int t = 0; t < op.terms_count; t++) // the second finds x in the first cache
                if (op.terms[t].accumulator == a)
                    add_window(op.terms[t], row, w, shift, rows, sums[a]);
#pragma unroll
    for (int a = 0; a < NS; a++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
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

// A term's products for a window of columns of ROWS rows, added to the sums.
template <int ROWS>
__device__ __forceinline__ void add_products(const Term& term, const REAL* source, const REAL* weights, int rows,
                                             REAL (&sums)[ROWS][QUAD])
{
#pragma unroll 2
    for (int k = 0; k < term.channels; k++) {
        const Quad of_k = *reinterpret_cast<const Quad*>(weights + k * term.row_step);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            REAL s = part_of(term.part, source[(r < rows ? r : 0) * (i64)QUAD * term.stride + k]);
            s = term.round ? tf32(s) : s;
#pragma unroll
            for (int e = 0; e < QUAD; e++)
                sums[r][e] = fma_(s, of_k.v[e], sums[r][e]);
        }
    }
}

// The sums of a row's window become outputs or relevance.
template <int NS>
__device__ __forceinline__ void finish_window(const Contraction& op, const Run& run, const REAL (&sums)[NS][QUAD],
                                              const REAL (&x)[QUAD], i64 m, i64 column)
{
    const i64 at = m * op.width + column, in_sample = m % op.rows * op.width + column, left = op.width - column;
    if (column >= 0) {
        epilogue_of_window<NS>(op, run, sums, x, at, in_sample, (int)min(left, (i64)QUAD));
        return;
    }
#pragma unroll
    for (int e = 1; e < QUAD; e++) { // the first window of a row begins before it
        REAL one[NS][1], of_x[1] = {x[e]};
#pragma unroll
        for (int a = 0; a < NS; a++)
            one[a][0] = sums[a][e];
        if (column + e >= 0)
            epilogue_of_window<NS>(op, run, one, of_x, at + e, in_sample + e, 1);
    }
}

// Products of few terms, finished: a thread has a window of columns of ROWS rows, `groups` times.
template <int NS, int ROWS = AT_ONCE / NS>
__device__ __forceinline__ void small_k(const Contraction& op, int groups, const Run& run)
{
    const i64 total = run.samples * op.rows, width = op.width;
    const i64 begin = first_row(blockIdx.x, ROWS * groups);
    if (begin >= total)
        return;
    const int shift = shift_of(run.at(op.shares_count ? op.out : op.outputs[0].buffer) + begin * width);
    const i64 window = blockIdx.y * (i64)THREADS + threadIdx.x, column = window * QUAD - shift;
    if (column >= width)
        return;
#pragma unroll 1
    for (i64 first = begin; groups-- && first < total; first += ROWS * QUAD) {
        const int rows = (int)min((total - first + QUAD - 1) / QUAD, (i64)ROWS);
        REAL x[ROWS][QUAD], sums[NS][ROWS][QUAD];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int e = 0; e < QUAD; e++) {
                x[r][e] = 0;
#pragma unroll
                for (int a = 0; a < NS; a++)
                    sums[a][r][e] = 0;
            }
            if (op.shares_count) // all are under way before the first is needed
                take_part(run.at(op.x) + (first + (i64)(r < rows ? r : 0) * QUAD) * width, column, width, x[r]);
        }
#pragma unroll
        for (int a = 0; a < NS; a++)
#pragma unroll 1
            for (int t = 0; t < op.terms_count; t++) {
                const Term& term = op.terms[t];
                if (term.accumulator == a)
                    add_products(term, run.at(term.source) + first * term.stride,
                                 term.weights[0] + shift * term.column_step + window * QUAD, rows, sums[a]);
            }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            REAL of_row[NS][QUAD];
#pragma unroll
            for (int a = 0; a < NS; a++)
#pragma unroll
                for (int e = 0; e < QUAD; e++)
                    of_row[a][e] = sums[a][r][e];
            if (r < rows)
                finish_window<NS>(op, run, of_row, x[r], first + (i64)r * QUAD, column);
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
