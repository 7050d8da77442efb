// Contractions' structs, and what becomes of finished sums: bias and ReLU, or times x and divided.

enum { SUMS = 8 };

struct Term {
    Buffer source;
    int part, round, accumulator;
    int quads;                            // whether rows can be copied by 16 bytes
    int channels, stride;                 // of a row: those of a group (all, without geometry), and all
    int alike, unused;                    // of a diagonal term: one weight for all channels
    i64 row_step, column_step;            // of the weights (k, n)
    const Geometry* geometry;
    const REAL* const* weights;           // of each region, for the sum at `accumulator`
    const REAL* const* others;            // and for the next one, or 0
};
struct Output {
    Buffer buffer, plus;                  // what is added to the sums, if it has a size
    const REAL* constant;
    int per_row, relu;
    double zero;                          // what stands for a value of exactly 0
    double coefficients[SUMS];
};
struct Share {
    const REAL* bound;
    int accumulator, part, step, unused;
    double coefficient;
};
struct Divisor {                          // z + stabilizer, and where the mask allows a result
    Buffer z, mask_z;
    const REAL* constant;                 // in z's place, or 0
    double value;
    int divides, stabilizer, mask, unused;
};
struct Branch {                           // what a sum's layer does for one of its inputs
    Buffer x, out;
    Divisor divisor;
    int part;
    double weight, coefficient;
};
struct Contraction {
    int terms_count, sums, outputs_count, shares_count;
    int rows, width, columns, groups;     // of a sample's output; columns are a group's
    int check, round;
    int quads;                            // whether all weights can be copied by 16 bytes
    int branches_count;                   // into which the result goes; without any it is written itself
    Divisor divisor;
    Buffer x, out, plus;                  // the last is added to the sums' relevance, if it has a size
    const Geometry* geometry;             // whose out positions all terms share, or 0
    const Term* terms;
    const Output* outputs;
    const Share* shares;
    const Branch* branches;
};

// Sums of V columns, STEP apart, become outputs or relevance. `at` is where the first one is among all
// samples' values, `in_sample` where within a sample's; n columns are left from there on.
template <int NS, int V, int STEP = 1>
__device__ __forceinline__ void epilogue_forward(const Contraction& op, const Run& run, const REAL (&sums)[NS][V],
                                                 i64 at, i64 in_sample, int n)
{
    bool bad = false;
    for (int o = 0; o < op.outputs_count; o++) {
        const Output& output = op.outputs[o];
        REAL value[V], more[V];
#pragma unroll
        for (int j = 0; j < V; j++)
            value[j] = 0;
        bool added = false;
#pragma unroll
        for (int a = 0; a < NS; a++) {
            const REAL c = (REAL)output.coefficients[a];
            if (c == 0)
                continue;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const REAL sum = c == 1 ? sums[a][j] : c * sums[a][j];
                value[j] = added ? value[j] + sum : sum;
            }
            added = true;
        }
        if (output.constant) {
            const unsigned first = output.per_row ? (unsigned)in_sample : (unsigned)in_sample % (unsigned)op.width;
            get<V, STEP>(output.constant + first, n, more);
#pragma unroll
            for (int j = 0; j < V; j++)
                value[j] = value[j] + more[j];
        }
        if (output.plus.size) {
            get<V, STEP>(run.at(output.plus) + at, n, more);
#pragma unroll
            for (int j = 0; j < V; j++)
                value[j] = value[j] + more[j];
        }
#pragma unroll
        for (int j = 0; j < V; j++) {
            bad |= j * STEP < n && !finite_(value[j]); // before a ReLU can hide it
            if (output.relu)
                value[j] = positive(value[j]);
            if (output.zero != 0 && value[j] == 0)
                value[j] = (REAL)output.zero;
        }
        put<V, STEP>(run.at(output.buffer) + at, n, value);
    }
    if (bad)
        run.fault(NOT_FINITE, at / ((i64)op.rows * op.width));
}

// Relevance of V columns, STEP apart, divided in place.
template <int V, int STEP>
__device__ __forceinline__ void divide(const Divisor& by, const Run& run, i64 at, i64 in_sample, int n, REAL (&total)[V])
{
    REAL more[V];
    get<V, STEP>(by.constant ? by.constant + in_sample : run.at(by.z) + at, n, more);
#pragma unroll
    for (int j = 0; j < V; j++)
        total[j] = divide_stabilized(total[j], more[j], (REAL)by.value, by.stabilizer);
    if (by.mask) {
        get<V, STEP>(run.at(by.mask_z) + at, n, more);
#pragma unroll
        for (int j = 0; j < V; j++)
            total[j] = (by.mask > 0 ? more[j] > 0 : more[j] < 0) ? total[j] : (REAL)0;
    }
}

// Finished relevance of V columns goes to memory.
template <int V, int STEP, bool STREAMED = false>
__device__ __forceinline__ void write_relevance(const Contraction& op, const Run& run, const Buffer& out, i64 at, int n,
                                                const REAL (&total)[V])
{
    bool bad = false;
#pragma unroll
    for (int j = 0; j < V; j++)
        bad |= j * STEP < n && !finite_(total[j]);
    put<V, STEP, STREAMED>(run.at(out) + at, n, total);
    if (bad && op.check)
        run.fault(NOT_FINITE, at / ((i64)op.rows * op.width));
}

// What a sum's layer does with finished relevance for each of its inputs.
template <int V, int STEP>
__device__ __forceinline__ void write_branches(const Contraction& op, const Run& run, i64 at, i64 in_sample, int n,
                                               const REAL (&total)[V])
{
#pragma unroll 1
    for (int b = 0; b < op.branches_count; b++) {
        const Branch& branch = op.branches[b];
        REAL x[V], share[V];
        get<V, STEP>(run.at(branch.x) + at, n, x);
#pragma unroll
        for (int j = 0; j < V; j++) {
            share[j] = total[j] * (REAL)branch.weight;
            if (branch.part != ONE)
                share[j] = part_of(branch.part, x[j]) * share[j];
            if (branch.coefficient != 1)
                share[j] = (REAL)branch.coefficient * share[j];
        }
        if (branch.divisor.divides)
            divide<V, STEP>(branch.divisor, run, at, in_sample, n, share);
        write_relevance<V, STEP>(op, run, branch.out, at, n, share);
    }
}

template <int NS, int V, int STEP = 1, bool STREAMED = false>
__device__ __forceinline__ void epilogue_backward(const Contraction& op, const Run& run, const REAL (&sums)[NS][V],
                                                  const REAL (&x)[V], i64 at, i64 in_sample, int n)
{
    REAL total[V], more[V];
#pragma unroll
    for (int j = 0; j < V; j++)
        total[j] = 0;
    for (int h = 0; h < op.shares_count; h++) {
        const Share& share = op.shares[h];
        REAL value[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            value[j] = sums[0][j];
#pragma unroll
            for (int a = 1; a < NS; a++)
                value[j] = share.accumulator == a ? sums[a][j] : value[j];
        }
        if (share.part == X_MINUS_BOUND) {
            if (share.step)
                get<V, STEP>(share.bound + in_sample, n, more);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const REAL bound = share.step ? more[j] : share.bound[0];
                // under TF32 the difference is taken after multiplying, as the reference does
                value[j] = op.round ? x[j] * value[j] - bound * value[j] : (x[j] - bound) * value[j];
            }
        } else if (share.part != ONE)
#pragma unroll
            for (int j = 0; j < V; j++)
                value[j] = part_of(share.part, x[j]) * value[j];
        const REAL c = (REAL)share.coefficient;
#pragma unroll
        for (int j = 0; j < V; j++) {
            if (c != 1)
                value[j] = c * value[j];
            total[j] = h ? total[j] + value[j] : value[j];
        }
    }
    if (op.plus.size) {
        get<V, STEP>(run.at(op.plus) + at, n, more);
#pragma unroll
        for (int j = 0; j < V; j++)
            total[j] = total[j] + more[j];
    }
    if (op.divisor.divides)
        divide<V, STEP>(op.divisor, run, at, in_sample, n, total);
    if (!op.branches_count) {
        write_relevance<V, STEP, STREAMED>(op, run, op.out, at, n, total);
        return;
    }
    write_branches<V, STEP>(op, run, at, in_sample, n, total);
}

template <int NS, int V, int STEP = 1>
__device__ __forceinline__ void epilogue(const Contraction& op, const Run& run, const REAL (&sums)[NS][V], i64 at,
                                       i64 in_sample, int n)
{
    if (op.shares_count) {
        REAL x[V];
        get<V, STEP>(run.at(op.x) + at, n, x);
        epilogue_backward<NS, V, STEP>(op, run, sums, x, at, in_sample, n);
    } else
        epilogue_forward<NS, V, STEP>(op, run, sums, at, in_sample, n);
}

// The same of a window (many_k.cu), whose x has been read. Relevance of many values is not read again soon.
template <int NS, int V>
__device__ __forceinline__ void epilogue_of_window(const Contraction& op, const Run& run, const REAL (&sums)[NS][V],
                                                   const REAL (&x)[V], i64 at, i64 in_sample, int n)
{
    if (op.shares_count)
        epilogue_backward<NS, V, 1, true>(op, run, sums, x, at, in_sample, n);
    else
        epilogue_forward<NS, V>(op, run, sums, at, in_sample, n);
}
