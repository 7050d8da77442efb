// The light operations of a program, one kernel each, named after ops.py. What a kernel reads and writes is in the
// order of the operation's row. A value is made by one thread, or a row of them by one warp: no atomic sums.

struct Recurrence;
struct Light {
    Buffer reads[8], writes[5];
    int function, flag, columns, sources_count;
    int check, detached, length, stabilizer;
    i64 count, run, source_offset, source_step, out_offset, out_step;
    int m, n, k, has_winner;
    double p[4];
    const REAL *values, *more_values;
    const int *index, *starts;  // Scatter and PoolBack: what goes to an output value, in order, from starts[i] on
    const Buffer* sources;
    const Geometry* geometry;
    const Recurrence* recurrence;
};

#define LIGHT_BLOCKS 2 // of a multiprocessor: each thread has 128 registers
#define LIGHT(NAME)                                                                                              \
    __device__ __forceinline__ void do_##NAME(const Light& op, const Run& run);                                  \
    extern "C" __global__ void __launch_bounds__(256, LIGHT_BLOCKS) light_##NAME(const Light* op, RUN_ARGUMENTS) \
    {                                                                                                            \
        do_##NAME(*op, RUN);                                                                                     \
    }                                                                                                            \
    __device__ __forceinline__ void do_##NAME(const Light& op, const Run& run)

// out[i] = value, noting a value that is not finite where it matters
__device__ __forceinline__ void write(const Light& op, const Run& run, REAL* out, i64 i, REAL value)
{
    out[i] = value;
    if (op.check && !finite_(value))
        run.fault(NOT_FINITE, i / op.writes[0].size);
}

LIGHT(divide) // relevance, z, mask_z
{
    const i64 size = op.writes[0].size;
    const REAL *r = run.at(op.reads[0]), *z = op.values ? op.values : run.at(op.reads[1]), *m = run.at(op.reads[2]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
    {
        REAL s = divide_stabilized(r[i], z[op.values ? i % size : i], (REAL)op.p[0], op.stabilizer);
        if (op.flag)
            s = (op.flag > 0 ? m[i] > 0 : m[i] < 0) ? s : (REAL)0;
        write(op, run, out, i, s);
    }
}

LIGHT(divide_by_sign) // relevance, z where mask_z is positive, z where it is negative, mask_z
{
    const REAL *r = run.at(op.reads[0]), *above = run.at(op.reads[1]), *below = run.at(op.reads[2]);
    const REAL* m = run.at(op.reads[3]);
    REAL *out = run.at(op.writes[0]), *signed_out = run.at(op.writes[1]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const REAL z = m[i] > 0 ? above[i] : below[i];
        const REAL s = m[i] == 0 ? (REAL)0 : divide_stabilized(r[i], z, (REAL)op.p[0], op.stabilizer);
        write(op, run, out, i, s);
        signed_out[i] = m[i] < 0 ? -s : s;
    }
}

__device__ __forceinline__ double warp_sum(double v)
{
    for (int d = 16; d; d /= 2)
        v = v + __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

__device__ __forceinline__ double warp_max(double v)
{
    for (int d = 16; d; d /= 2) {
        const double other = __shfl_xor_sync(0xffffffffu, v, d);
        v = other > v ? other : v;
    }
    return v;
}

#define FOR_EACH_ROW(i, n)                                                                                       \
    const int lane = threadIdx.x % 32;                                                                           \
    for (i64 i = (blockIdx.x * (i64)blockDim.x + threadIdx.x) / 32; i < (n); i += (i64)gridDim.x * blockDim.x / 32)

LIGHT(activate)
{
    const i64 size = op.writes[0].size;
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
    {
        const double slope = op.function == PRELU ? op.values[i % size] : 0;
        write(op, run, out, i, (REAL)evaluate(op.function, x[i], op.function == PRELU ? &slope : op.p));
    }
}

LIGHT(relu) // without ceiling, slope or threshold
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const REAL v = x[i];
        if (!finite_(v))
            run.fault(NOT_FINITE, i / op.writes[0].size);
        out[i] = positive(v);
    }
}

LIGHT(softmax) // or its logarithm
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH_ROW(row, run.samples * (op.writes[0].size / op.columns))
    {
        const i64 at = row * op.columns;
        double top = x[at], total = 0;
        for (int j = lane; j < op.columns; j += 32)
            top = x[at + j] > top ? (double)x[at + j] : top;
        top = warp_max(top);
        for (int j = lane; j < op.columns; j += 32)
            total += exp(x[at + j] - top);
        total = warp_sum(total);
        const double shift = op.function == LOG_SOFTMAX ? log(total) : 0;
        for (int j = lane; j < op.columns; j += 32) {
            const double v = x[at + j] - top;
            write(op, run, out, at + j, (REAL)(op.function == LOG_SOFTMAX ? v - shift : exp(v) / total));
        }
    }
}

LIGHT(activate_back) // x, relevance
{
    const i64 size = op.writes[0].size;
    const REAL *x = run.at(op.reads[0]), *r = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
    {
        const double slope = op.function == PRELU ? op.values[i % size] : 0;
        const double s = slope_of(op.function, x[i], op.function == PRELU ? &slope : op.p);
        write(op, run, out, i, (REAL)(r[i] * s));
    }
}

LIGHT(softmax_back) // x or nothing, y, relevance
{
    const REAL *y = run.at(op.reads[1]), *r = run.at(op.reads[2]);
    const REAL* x = op.flag ? run.at(op.reads[0]) : 0;
    REAL* out = run.at(op.writes[0]);
    FOR_EACH_ROW(row, run.samples * (op.writes[0].size / op.columns))
    {
        const i64 at = row * op.columns;
        double total = 0;
        for (int j = lane; j < op.columns; j += 32)
            total += r[at + j];
        total = warp_sum(total);
        for (i64 j = at + lane; j < at + op.columns; j += 32)
            write(op, run, out, j, (REAL)((x ? (double)x[j] : 1.0) * (r[j] - y[j] * total)));
    }
}

LIGHT(share_remainder) // relevance, source
{
    const REAL *r = run.at(op.reads[0]), *x = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH_ROW(row, run.samples * (op.writes[0].size / op.columns))
    {
        double total = 0;
        for (int j = lane; j < op.n; j += 32)
            total += r[row * op.n + j];
        for (int j = lane; j < op.columns; j += 32)
            total -= x[row * op.columns + j];
        total = warp_sum(total);
        for (i64 j = row * op.columns + lane; j < (row + 1) * op.columns; j += 32)
            write(op, run, out, j, (REAL)(x[j] + total / op.columns));
    }
}

LIGHT(mask_nan)
{
    const REAL* x = run.at(op.reads[0]);
    REAL *clean = run.at(op.writes[0]), *present = run.at(op.writes[1]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const REAL v = x[i];
        present[i] = v == v ? 1 : 0;
        clean[i] = v == v ? v : (REAL)0;
    }
}

LIGHT(scale)
{
    const i64 size = op.writes[0].size;
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
        write(op, run, out, i, x[i] * op.values[i % size]);
}

LIGHT(restore_nan) // present; buffer
{
    const REAL* present = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
        if (present[i] == 0)
            out[i] = (REAL)__uint_as_float(0x7fc00000u);
}

LIGHT(copy)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
        write(op, run, out, i, x[i]);
}

LIGHT(accumulate)
{
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        REAL value = run.at(op.sources[0])[i];
        for (int j = 1; j < op.sources_count; j++)
            value = value + run.at(op.sources[j])[i];
        write(op, run, out, i, value);
    }
}

LIGHT(multiply_op)
{
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        REAL value = run.at(op.sources[0])[i];
        for (int j = 1; j < op.sources_count; j++)
            value = value * run.at(op.sources[j])[i];
        write(op, run, out, i, value);
    }
}

LIGHT(extremum) // out, and the winner's number where asked for
{
    REAL *out = run.at(op.writes[0]), *winner = run.at(op.writes[1]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        REAL value = run.at(op.sources[0])[i];
        int won = 0;
        for (int j = 1; j < op.sources_count; j++) {
            const REAL v = run.at(op.sources[j])[i];
            if (op.flag > 0 ? v > value : v < value) {
                value = v;
                won = j;
            }
        }
        if (op.has_winner)
            winner[i] = (REAL)won;
        write(op, run, out, i, value);
    }
}

LIGHT(select) // relevance, winner
{
    const REAL *r = run.at(op.reads[0]), *winner = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
        write(op, run, out, i, winner[i] == (REAL)op.flag ? r[i] : (REAL)0);
}

LIGHT(gather)
{
    const i64 size = op.writes[0].size;
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
    {
        const i64 s = i / size;
        const int j = op.index[i - s * size];
        write(op, run, out, i, j >= 0 ? x[s * op.reads[0].size + j] : (REAL)0);
    }
}

LIGHT(scatter)
{
    const i64 size = op.writes[0].size;
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * size)
    {
        const i64 s = i / size;
        const int to = (int)(i - s * size);
        REAL value = 0;
        for (int e = op.starts[to]; e < op.starts[to + 1]; e++)
            value = value + x[s * op.reads[0].size + op.index[e]];
        write(op, run, out, i, value);
    }
}

LIGHT(strided)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    const i64 size = op.count * op.run;
    FOR_EACH(i, run.samples * size)
    {
        const i64 s = i / size, e = i - s * size, r = e / op.run, j = e - r * op.run;
        write(op, run, out, s * op.writes[0].size + op.out_offset + r * op.out_step + j,
              x[s * op.reads[0].size + op.source_offset + r * op.source_step + j]);
    }
}

LIGHT(pool) // source; out, and the winner's tap where asked for
{
    const Geometry& g = *op.geometry;
    const Region& region = g.regions[0];
    const Axis *a = &region.axes[0], *b = a + 1, *c = a + 2;
    const REAL* x = run.at(op.reads[0]);
    REAL *out = run.at(op.writes[0]), *winner = run.at(op.writes[1]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 m = i / op.columns;
        const int channel = (int)(i - m * op.columns);
        const RowCoords p = coords_of(region, m);
        int tap = 0, won = -1;
        REAL value = 0;
        for (int j = p.axis[0] * a->taps; j < (p.axis[0] + 1) * a->taps; j++)
            for (int k = p.axis[1] * b->taps; k < (p.axis[1] + 1) * b->taps; k++)
                for (int l = p.axis[2] * c->taps; l < (p.axis[2] + 1) * c->taps; l++, tap++) {
                    if (a->index[j] < 0 || b->index[k] < 0 || c->index[l] < 0)
                        continue;
                    const i64 row = p.sample * g.source_rows +
                                    ((i64)a->index[j] * g.source[1] + b->index[k]) * g.source[2] + c->index[l];
                    const REAL v = x[row * op.columns + channel];
                    if (won < 0 || v > value) {
                        value = v;
                        won = tap;
                    }
                }
        const i64 at = (p.sample * region.rows + row_at(g, region, p)) * op.columns + channel;
        if (op.has_winner)
            winner[at] = (REAL)won;
        write(op, run, out, at, value);
    }
}

LIGHT(pool_back) // relevance, winner; `index` holds (row, tap) of all that see a source row, rows in order
{
    const Geometry& g = *op.geometry;
    const REAL *r = run.at(op.reads[0]), *winner = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    const i64 pooled = (i64)g.regions[0].rows;
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 m = i / op.columns, s = m / g.source_rows;
        const int channel = (int)(i - m * op.columns), row = (int)(m - s * g.source_rows);
        REAL value = 0;
        for (int e = op.starts[row]; e < op.starts[row + 1]; e++) {
            const i64 at = (s * pooled + op.index[2 * e]) * op.columns + channel;
            if (winner[at] == (REAL)op.index[2 * e + 1])
                value = value + r[at];
        }
        write(op, run, out, i, value);
    }
}

// what a normalization subtracts from a row and divides it by
__device__ __forceinline__ void statistics(const Light& op, const REAL* x, int lane, double* mean, double* sigma)
{
    double total = 0;
    *mean = 0;
    if (op.flag) {
        for (int j = lane; j < op.columns; j += 32)
            total += x[j];
        *mean = warp_sum(total) / op.columns;
    }
    total = 0;
    for (int j = lane; j < op.columns; j += 32)
        total += (x[j] - *mean) * (x[j] - *mean);
    total = warp_sum(total);
    *sigma = sqrt((op.length ? total : total / op.columns) + op.p[0]);
}

LIGHT(normalize)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH_ROW(row, run.samples * (op.writes[0].size / op.columns))
    {
        const i64 at = row * op.columns;
        double mean, sigma;
        statistics(op, x + at, lane, &mean, &sigma);
        for (int j = lane; j < op.columns; j += 32) {
            const double scale = op.values ? (double)op.values[j] : 1;
            const double shift = op.more_values ? (double)op.more_values[j] : 0;
            write(op, run, out, at + j, (REAL)((x[at + j] - mean) / sigma * scale + shift));
        }
    }
}

LIGHT(normalize_back) // x, s
{
    const REAL *x = run.at(op.reads[0]), *s = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH_ROW(row, run.samples * (op.writes[0].size / op.columns))
    {
        const i64 at = row * op.columns;
        double mean, sigma, total = 0, along = 0;
        statistics(op, x + at, lane, &mean, &sigma);
        for (int j = lane; j < op.columns; j += 32) {
            const double t = (double)s[at + j] * (op.values ? (double)op.values[j] : 1);
            total += t;
            along += t * ((x[at + j] - mean) / sigma);
        }
        total = warp_sum(total);
        along = warp_sum(along);
        total = op.flag ? total / op.columns : 0;
        along = op.detached ? 0 : op.length ? along : along / op.columns;
        for (int j = lane; j < op.columns; j += 32) {
            const double t = (double)s[at + j] * (op.values ? (double)op.values[j] : 1);
            const double v = x[at + j];
            const double back = (t - total - (v - mean) / sigma * along) / sigma;
            write(op, run, out, at + j, (REAL)(op.count ? v * back : back));
        }
    }
}

LIGHT(local_normalize)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 row = i / op.columns * op.columns;
        const int c = (int)(i - row), size = (int)op.run;
        const int low = c - size / 2 > 0 ? c - size / 2 : 0;
        const int high = c + (size - 1) / 2 + 1 < op.columns ? c + (size - 1) / 2 + 1 : op.columns;
        double total = 0;
        for (int j = low; j < high; j++)
            total += (double)x[row + j] * x[row + j];
        write(op, run, out, i, (REAL)(x[i] / pow(op.p[2] + op.p[0] * total, op.p[1])));
    }
}

LIGHT(dot_op) // a, b
{
    const REAL *a = run.at(op.reads[0]), *b = run.at(op.reads[1]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 row = i / op.n, s = row / op.m; // s counts the products of all samples
        const REAL *p = a + row * op.k, *q = b + (s * op.n + (i - row * op.n)) * op.k;
        REAL sum = 0;
        for (int k = 0; k < op.k; k++)
            sum = fma_(p[k], q[k], sum);
        write(op, run, out, i, sum);
    }
}

LIGHT(dot_back) // s, other, x
{
    const REAL *s = run.at(op.reads[0]), *other = run.at(op.reads[1]), *x = run.at(op.reads[2]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 row = i / op.k, sample = row / op.m, m = row - sample * op.m, k = i - row * op.k;
        REAL sum = 0;
        for (int n = 0; n < op.n; n++) {
            const i64 at = op.flag ? (sample * op.n + n) * op.m + m : row * op.n + n;
            sum = fma_(s[at], other[(sample * op.n + n) * op.k + k], sum);
        }
        write(op, run, out, i, (REAL)op.p[0] * (x[i] * sum));
    }
}

LIGHT(lookup)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const REAL at = x[i / op.columns];
        const bool there = at >= 0 && at < (REAL)op.count;
        if (!there)
            run.fault(INPUT_OUT_OF_RANGE, i / op.writes[0].size);
        write(op, run, out, i, there ? op.values[(i64)at * op.columns + i % op.columns] : (REAL)0);
    }
}

LIGHT(sum_channels)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        REAL sum = 0;
        for (int c = 0; c < op.columns; c++)
            sum = sum + x[i * op.columns + c];
        write(op, run, out, i, sum);
    }
}
