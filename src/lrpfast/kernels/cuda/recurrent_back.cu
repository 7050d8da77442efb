// Recurrent layers backwards: see recurrent.cu; recurrent_gradient.cu has their derivative.

// What a step's sums give away, of which a lane has a part.
struct Terms {
    double bias, stabilizer, lost, shared;
};

__device__ __forceinline__ double stabilized(double z, double epsilon) { return z + (z >= 0 ? epsilon : -epsilon); }

__device__ void shares_of(const Recurrence& r, double gate, double signal, double& of_gate, double& of_signal)
{
    if (r.product == HALF || r.product == SIGNAL) {
        of_gate = r.product == HALF ? 0.5 : 0;
        of_signal = 1 - of_gate;
        return;
    }
    if (r.product == ABS) {
        gate = fabs(gate);
        signal = fabs(signal);
    }
    const double sum = stabilized(gate + signal, r.epsilon);
    of_gate = gate / sum;
    of_signal = signal / sum;
}

// R of a product becomes R of the signal; R of the gate is returned
__device__ double split(const Recurrence& r, double gate, double signal, double& relevance, Terms& t)
{
    double one, other;
    shares_of(r, gate, signal, one, other);
    const double of_gate = one * relevance;
    t.stabilizer += relevance * (1 - one - other);
    relevance *= other;
    return of_gate;
}

__device__ double quotient(const Recurrence& r, double z, double relevance, Terms& t)
{
    const double s = relevance / stabilized(z, r.epsilon), noise = (z >= 0 ? s : -s) * r.epsilon;
    (r.bias_share == SHARE ? t.shared : t.stabilizer) += noise;
    return s;
}

// s of sums of two parts, unit by unit, and what each part gets of their stabilizers
__device__ double pairs(const Recurrence& r, const REAL* sums, const double* relevance, int lane, double* s, Terms& t)
{
    Terms own = {0, 0, 0, 0};
    UNITS(j)
        s[j] = quotient(r, sums[j], relevance[j], own);
    t.stabilizer += own.stabilizer;
    return warp_sum(own.shared) / (2 * r.units);
}

__device__ void lstm_back(const Recurrence& r, const REAL* v, int lane, const Back& b, Terms& t)
{
    const int n = r.units, all = r.product != SIGNAL;
    UNITS(j)
    {
        if (all)
            b.gates[3 * n + j] = split(r, v[9 * n + j], v[10 * n + j], b.h[j], t);
        b.c[j] += b.h[j];
        b.h[j] = 0;
    }
    const double each = pairs(r, v + (all ? 11 : 4) * n, b.c, lane, b.more, t);
    UNITS(j)
    {
        const double s = b.more[j];
        const double first = all ? (double)v[7 * n + j] * v[5 * n + j] : (double)v[2 * n + j];
        const double second = all ? (double)v[6 * n + j] * v[8 * n + j] : (double)v[3 * n + j];
        double old_part = first * s + each, new_part = second * s + each;
        if (!all) {
            b.c[j] = old_part;
            b.s[j] = quotient(r, v[j], new_part, t);
            continue;
        }
        b.gates[n + j] = split(r, v[7 * n + j], v[5 * n + j], old_part, t);
        b.gates[j] = split(r, v[6 * n + j], v[8 * n + j], new_part, t);
        b.gates[2 * n + j] = new_part;
        b.c[j] = old_part;
        for (int g = 0; g < 4; g++)
            b.s[g * n + j] = quotient(r, v[g * n + j], b.gates[g * n + j], t);
    }
}

__device__ void gru_back(const Recurrence& r, const REAL* v, int lane, const Back& b, Terms& t)
{
    const int n = r.units, all = r.product != SIGNAL;
    const double each = pairs(r, v + 3 * n, b.h, lane, b.more, t);
    UNITS(j)
    {
        const double s = b.more[j], old_h = v[n + j], reset = v[2 * n + j], z = v[4 * n + j];
        double old_part = (all ? z * old_h : z) * s + each;
        double new_part = (all ? (1 - z) * v[5 * n + j] : (double)v[5 * n + j]) * s + each, of_z = 0, of_r = 0;
        if (all) {
            of_z = split(r, z, old_h, old_part, t);
            of_z += split(r, 1 - z, v[5 * n + j], new_part, t);
        }
        b.h[j] = old_part;
        const double q = quotient(r, v[j], new_part, t);
        b.gates[j] = of_z;
        if (r.cell == GRU_BEFORE) {
            b.s[j] = q;
            continue;
        }
        double through = reset * q;
        if (all) {
            const double inner = v[6 * n + j];
            double arrives = (inner - (r.bias_share == IGNORE ? r.bias[3 * n + j] : 0)) * through, one, other;
            shares_of(r, reset, inner, one, other);
            t.stabilizer += arrives * (1 - one - other);
            of_r = arrives * one;
            through *= other;
            b.s[j] = quotient(r, v[7 * n + j], of_z, t);
            b.s[n + j] = quotient(r, v[8 * n + j], of_r, t);
        }
        b.s[(all ? 2 : 0) * n + j] = q;
        b.s[(all ? 3 : 1) * n + j] = through;
    }
}

// The product with the weights: messages to x (added to what is there where `adds`) and, added, to `to_h`.
__device__ void messages(const Recurrence& r, const REAL* x, const REAL* old_h, const REAL* reset, const double* w,
                         const double* bias, int columns, int blocks, bool adds, int lane, const double* s, REAL* to_x,
                         double* x_sums, double* to_h, Terms& t)
{
    double rest = 0;
    if (r.bias_share != IGNORE)
        for (int k = lane; k < blocks * r.units; k += 32)
            rest += s[k] * bias[k];
    double each = 0;
    if (r.bias_share == DISTRIBUTE || r.bias_share == SHARE) {
        each = warp_sum(rest + t.shared) / (r.features + r.units);
        t.shared = 0;
    } else
        t.bias += rest;
    __syncwarp();
    for (int i = lane; i < r.features + r.units; i += 32) {
        const double* row = w + (i64)i * columns;
        double sum = 0;
        for (int k = 0; k < blocks * r.units; k++)
            sum = fma(s[k], row[k], sum);
        if (i < r.features) {
            x_sums[i] = (adds ? x_sums[i] : 0) + (x[i] * sum + each);
            to_x[i] = (REAL)x_sums[i];
        } else {
            const int j = i - r.features;
            to_h[j] += (double)old_h[j] * (reset ? (double)reset[j] : 1.0) * sum + each;
        }
    }
    __syncwarp();
}

__device__ void step_back(const Recurrence& r, const REAL* x, const REAL* v, int lane, const Back& b, REAL* to_x,
                          double* x_sums, Terms& t)
{
    const int n = r.units, all = r.product != SIGNAL, columns = r.blocks * n;
    if (r.cell == LSTM)
        lstm_back(r, v, lane, b, t);
    else if (r.cell == SIMPLE)
        UNITS(j)
        {
            b.s[j] = quotient(r, v[j], b.h[j], t);
            b.h[j] = 0;
        }
    else
        gru_back(r, v, lane, b, t);
    __syncwarp();
    if (r.cell != GRU_BEFORE) {
        const REAL* old_h = v + (r.cell == LSTM && all ? 4 : 1) * n;
        messages(r, x, old_h, 0, r.weights + r.first_block * n, r.bias + r.first_block * n, columns, r.relevant_blocks,
                 false, lane, b.s, to_x, x_sums, b.h, t);
        return;
    }
    double* q = all ? b.more : b.h; // R of r h, all of which is h's where products give all to the signal
    if (all)
        UNITS(j)
            q[j] = 0;
    __syncwarp();
    messages(r, x, v + n, v + 2 * n, r.candidate, r.candidate_bias, n, 1, false, lane, b.s, to_x, x_sums, q, t);
    if (!all)
        return;
    UNITS(j)
    {
        const double of_r = split(r, v[2 * n + j], v[n + j], q[j], t);
        b.h[j] += q[j];
        b.s[j] = quotient(r, v[7 * n + j], b.gates[j], t);
        b.s[n + j] = quotient(r, v[8 * n + j], of_r, t);
    }
    __syncwarp();
    messages(r, x, v + n, 0, r.weights, r.bias, columns, 2, true, lane, b.s, to_x, x_sums, b.h, t);
}

__device__ void note_account(const Light& op, const Run& run, const Recurrence& r, const Back& b, Terms& t, int lane,
                             REAL* account)
{
    double carried = 0, absolute = 0;
    UNITS(j)
    {
        carried += b.h[j] + b.c[j];
        absolute += fabs(b.h[j]) + fabs(b.c[j]);
    }
    const double values[5] = {warp_sum(t.bias), warp_sum(t.stabilizer), warp_sum(t.lost), warp_sum(carried),
                              warp_sum(absolute)};
    if (lane == 0)
        for (int i = 0; i < 5; i++)
            account[i] = (REAL)values[i];
}

LIGHT(recur_back) // x, mask, state, relevance; out, out_h, out_c, account, scratch
{
    const Recurrence& r = *op.recurrence;
    const int n = r.units, last = r.sequences ? r.steps : 1;
    const bool masked = op.flag & 1, has_h = op.flag & 2, has_c = op.flag & 4, keeps = op.flag & 8;
    FOR_EACH_ROW(s, run.samples)
    {
        const REAL *x = run.at(op.reads[0]) + s * op.reads[0].size, *mask = run.at(op.reads[1]) + s * r.steps;
        const REAL *state = run.at(op.reads[2]) + s * op.reads[2].size, *relevance = run.at(op.reads[3]);
        relevance += s * op.reads[3].size;
        REAL *out = run.at(op.writes[0]) + s * op.writes[0].size, *account = run.at(op.writes[3]) + s * op.writes[3].size;
        double* at = (double*)(run.at(op.writes[4]) + s * op.writes[4].size);
        const Back b = {at, at + n, at + 2 * n, at + 6 * n, at + 10 * n};
        double* x_sums = at + 11 * n;
        int first = r.steps;
        for (int number = r.steps - 1; number >= 0; number--)
            if (!masked || mask[step_of(r, number)] != 0)
                first = number;
        UNITS(j)
        {
            b.h[j] = 0;
            b.c[j] = r.return_state ? (double)relevance[(i64)last * n + j] : 0;
        }
        for (int number = r.steps - 1; number >= 0; number--) {
            const int step = step_of(r, number);
            const bool counts = !masked || mask[step] != 0;
            Terms t = {0, 0, 0, 0};
            if (r.sequences || number == r.steps - 1) {
                const bool shows = first <= number && (counts || !r.sequences || !r.zero_masked);
                const i64 row = r.sequences ? output_row(r, number) : 0;
                UNITS(j)
                    (shows ? b.h[j] : t.lost) += relevance[row * n + j];
            }
            REAL* to_x = out + (i64)step * r.features;
            __syncwarp();
            if (counts && r.product == DERIVATIVE)
                derivative_back(r, state + (i64)step * r.slots * n, lane, b, to_x, x_sums);
            else if (counts)
                step_back(r, x + (i64)step * r.features, state + (i64)step * r.slots * n, lane, b, to_x, x_sums, t);
            else
                for (int i = lane; i < r.features; i += 32)
                    to_x[i] = 0;
            for (int i = lane; op.check && i < r.features; i += 32)
                if (!finite_(to_x[i]))
                    run.fault(NOT_FINITE, s);
            if (keeps)
                note_account(op, run, r, b, t, lane, account + (i64)step * 5);
            __syncwarp();
        }
        UNITS(j)
        {
            if (has_h)
                run.at(op.writes[1])[s * n + j] = (REAL)b.h[j];
            if (has_c)
                run.at(op.writes[2])[s * n + j] = (REAL)b.c[j];
        }
        __syncwarp();
    }
}
