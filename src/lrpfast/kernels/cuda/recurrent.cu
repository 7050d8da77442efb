// Recurrent layers: a warp takes a sample through all steps, its lanes the units. As on the CPU (tile_recurrent.h and
// tile_recurrent_gradient.h, whose functions have the same names and slots), all arithmetic is in double, and states are
// stored as REAL.

struct Function {
    int number, unused;
    double parameters[3];
};
struct Recurrence {
    int cell, product, bias_share, backwards, sequences, time_order, zero_masked, return_state;
    int steps, features, units, blocks, slots, first_block, relevant_blocks, unused;
    double epsilon;
    Function cell_function, gate_function, output_function;
    const double *weights, *candidate, *bias, *candidate_bias, *initial_h, *initial_c;
};

__device__ __forceinline__ double apply(const Function& f, double x)
{
    return f.number < 0 ? x : evaluate(f.number, x, f.parameters);
}

__device__ __forceinline__ double slope(const Function& f, double x)
{
    return f.number < 0 ? 1 : slope_of(f.number, x, f.parameters);
}

__device__ __forceinline__ int step_of(const Recurrence& r, int number)
{
    return r.backwards ? r.steps - 1 - number : number;
}

__device__ __forceinline__ int output_row(const Recurrence& r, int number)
{
    return r.time_order ? step_of(r, number) : number;
}

// many values of a unit at a time: more registers, or some of them would lie in memory
#undef LIGHT_BLOCKS
#define LIGHT_BLOCKS 1

#define UNITS(j) for (int j = lane; j < r.units; j += 32)

// z = [x, h] W + b, a lane for each column
__device__ void pre_activation(const Recurrence& r, const REAL* x, const double* h, const double* w, const double* b,
                               int columns, int lane, double* z)
{
    for (int at = lane; at < columns; at += 32) {
        double sum = 0;
        for (int k = 0; k < r.features; k++)
            sum = fma((double)x[k], w[(i64)k * columns + at], sum);
        for (int k = 0; k < r.units; k++)
            sum = fma(h[k], w[(i64)(r.features + k) * columns + at], sum);
        z[at] = sum + b[at];
    }
}

// One unit's step: z are its pre-activations, r.units apart; `slot` is where its first slot is stored, or 0.
__device__ void lstm_unit(const Recurrence& r, const double* z, int j, double& h, double& c, REAL* slot)
{
    const int n = r.units, all = r.product != SIGNAL;
    const double i = apply(r.gate_function, z[j]), f = apply(r.gate_function, z[n + j]);
    const double g = apply(r.cell_function, z[2 * n + j]), o = apply(r.gate_function, z[3 * n + j]);
    const double old_part = f * c, new_part = i * g, new_c = old_part + new_part, s = apply(r.output_function, new_c);
    if (slot && r.product == DERIVATIVE) { // factors, as in tile_recurrent_gradient.h
        slot[0] = (REAL)(g * slope(r.gate_function, z[j]));
        slot[n] = (REAL)(c * slope(r.gate_function, z[n + j]));
        slot[2 * n] = (REAL)(i * slope(r.cell_function, z[2 * n + j]));
        slot[3 * n] = (REAL)(s * slope(r.gate_function, z[3 * n + j]));
        slot[4 * n] = (REAL)(o * slope(r.output_function, new_c));
        slot[5 * n] = (REAL)f;
    } else if (slot) {
        int at = 0;
        for (int b = all ? 0 : 2; b < (all ? 4 : 3); b++)
            slot[at++ * n] = (REAL)(z[b * n + j] - (r.bias_share == IGNORE ? r.bias[b * n + j] : 0));
        slot[at++ * n] = (REAL)h;
        if (all) {
            const double values[6] = {c, i, f, g, o, s};
            for (int v = 0; v < 6; v++)
                slot[at++ * n] = (REAL)values[v];
        } else {
            slot[at++ * n] = (REAL)old_part;
            slot[at++ * n] = (REAL)new_part;
        }
        slot[at * n] = (REAL)new_c;
    }
    c = new_c;
    h = o * s;
}

// gates[0], gates[1]: z and r before their function; candidate: x W_n + b_n, or all of it where r h is in it already
__device__ void gru_unit(const Recurrence& r, const double* z, int j, double& h, REAL* slot)
{
    const int n = r.units, after = r.cell == GRU_AFTER;
    const double update = apply(r.gate_function, z[j]), reset = apply(r.gate_function, z[n + j]);
    const double inner = after ? z[3 * n + j] : 0, sum = z[2 * n + j] + (after ? reset * inner : 0);
    double bias = 0;
    if (r.bias_share == IGNORE)
        bias = after ? r.bias[2 * n + j] + reset * r.bias[3 * n + j] : r.candidate_bias[j];
    const double candidate = apply(r.cell_function, sum), old_part = update * h, new_part = (1 - update) * candidate;
    const int all = r.product != SIGNAL;
    if (slot && r.product == DERIVATIVE) {
        slot[0] = (REAL)((1 - update) * slope(r.cell_function, sum));
        slot[n] = (REAL)((h - candidate) * slope(r.gate_function, z[j]));
        slot[2 * n] = (REAL)update;
        slot[3 * n] = (REAL)((after ? inner : h) * slope(r.gate_function, z[n + j]));
        slot[4 * n] = (REAL)reset;
    } else if (slot) {
        const double values[7] = {sum - bias, h, reset, old_part + new_part, all ? update : old_part, all ? candidate : new_part, inner};
        for (int v = 0; v < (all ? 7 : 6); v++)
            slot[v * n] = (REAL)values[v];
        for (int b = 0; all && b < 2; b++)
            slot[(7 + b) * n] = (REAL)(z[b * n + j] - (r.bias_share == IGNORE ? r.bias[b * n + j] : 0));
    }
    h = old_part + new_part;
}

__device__ void recur_step(const Recurrence& r, const REAL* x, int lane, double* h, double* c, double* z, REAL* slots)
{
    const int n = r.units;
    pre_activation(r, x, h, r.weights, r.bias, r.blocks * n, lane, z);
    __syncwarp();
    if (r.cell == GRU_BEFORE) {
        double* q = z + 3 * n;
        UNITS(j)
            q[j] = apply(r.gate_function, z[n + j]) * h[j];
        __syncwarp();
        pre_activation(r, x, q, r.candidate, r.candidate_bias, n, lane, z + 2 * n);
        __syncwarp();
    }
    UNITS(j)
    {
        REAL* slot = slots ? slots + j : 0;
        if (r.cell == LSTM)
            lstm_unit(r, z, j, h[j], c[j], slot);
        else if (r.cell == SIMPLE) {
            if (slot && r.product == DERIVATIVE)
                slot[0] = (REAL)slope(r.cell_function, z[j]);
            else if (slot) {
                slot[0] = (REAL)(z[j] - (r.bias_share == IGNORE ? r.bias[j] : 0));
                slot[n] = (REAL)h[j];
            }
            h[j] = apply(r.cell_function, z[j]);
        } else
            gru_unit(r, z, j, h[j], slot);
    }
    __syncwarp();
}

LIGHT(recur) // source, mask, h, c; out, state, scratch
{
    const Recurrence& r = *op.recurrence;
    const int n = r.units;
    const bool masked = op.flag & 1, has_h = op.flag & 2, has_c = op.flag & 4, keeps = op.flag & 8;
    FOR_EACH_ROW(s, run.samples)
    {
        const REAL *x = run.at(op.reads[0]) + s * op.reads[0].size, *mask = run.at(op.reads[1]) + s * r.steps;
        const i64 base = s * op.writes[0].size;
        REAL *out = run.at(op.writes[0]), *state = run.at(op.writes[1]) + s * op.writes[1].size;
        double *h = (double*)(run.at(op.writes[2]) + s * op.writes[2].size), *c = h + n, *z = c + n;
        UNITS(j)
        {
            h[j] = has_h ? (double)run.at(op.reads[2])[s * n + j] : r.initial_h[j];
            c[j] = has_c ? (double)run.at(op.reads[3])[s * n + j] : r.initial_c[j];
        }
        __syncwarp();
        bool seen = false;
        for (int number = 0; number < r.steps; number++) {
            const int step = step_of(r, number);
            const bool counts = !masked || mask[step] != 0;
            if (counts)
                recur_step(r, x + (i64)step * r.features, lane, h, c, z, keeps ? state + (i64)step * r.slots * n : 0);
            seen = seen || counts;
            if (!r.sequences && number < r.steps - 1)
                continue;
            const bool shows = seen && (counts || !r.sequences || !r.zero_masked);
            const i64 row = r.sequences ? output_row(r, number) : 0;
            UNITS(j)
                write(op, run, out, base + row * n + j, shows ? (REAL)h[j] : (REAL)0);
        }
        if (r.return_state)
            UNITS(j)
                write(op, run, out, base + (i64)(r.sequences ? r.steps : 1) * n + j, (REAL)c[j]);
        __syncwarp();
    }
}

LIGHT(mask_steps)
{
    const REAL* x = run.at(op.reads[0]);
    REAL* out = run.at(op.writes[0]);
    FOR_EACH(i, run.samples * op.writes[0].size)
    {
        const i64 row = (op.flag ? i / op.columns : i) * op.columns;
        bool counts = false;
        for (int j = 0; j < op.columns; j++)
            counts = counts || x[row + j] != (REAL)op.p[0];
        write(op, run, out, i, !counts ? (REAL)0 : op.flag ? x[i] : (REAL)1);
    }
}
