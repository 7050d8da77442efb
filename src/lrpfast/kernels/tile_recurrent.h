/* Recurrent layers, forwards and backwards: all arithmetic in double, whatever the buffers hold.
 *
 * Relevance is a quotient of sums that may nearly cancel, handed on over hundreds of steps. States of a forward pass in
 * float cost up to 5e-6 of the largest relevance of a year of days, those of one in double that are only stored as floats
 * 1e-7 (docs/performance.md). So this file is compiled for T = double alone.
 *
 * Samples go through the steps together, a row each, so that a step is one product of matrices. A sum depends on its own
 * sample alone: results are the same bits for any batch.
 */

/* Activation functions. */

typedef long long NAME(i) __attribute__((vector_size(VBYTES)));

/* e^x - 1 as scale * p + (scale - 1), scale = 2^n: for x from -708 to 0. */
static inline __attribute__((always_inline)) NAME(v) NAME(reduced_exp)(NAME(v) x, NAME(v) *scale)
{
    static const double factors[] = {/* 1 / k! from 13 down to 2 */
        1.6059043836821615e-10, 2.0876756987868100e-09, 2.5052108385441720e-08, 2.7557319223985890e-07,
        2.7557319223985893e-06, 2.4801587301587302e-05, 1.9841269841269841e-04, 1.3888888888888889e-03,
        8.3333333333333332e-03, 4.1666666666666664e-02, 1.6666666666666666e-01, 0.5};
    const NAME(v) zero = {0}, shift = 6755399441055744.0 - zero; /* 1.5 * 2^52 */
    NAME(v) shifted = FMA(x, 1.4426950408889634 - zero, shift), n = shifted - shift;
    NAME(v) r = FMA(n, -6.93147180369123816490e-01 - zero, x);
    r = FMA(n, -1.90821492927058770002e-10 - zero, r);
    NAME(v) q = factors[0] - zero;
    UNROLL
    for (int k = 1; k < 12; k++)
        q = FMA(q, r, factors[k] - zero);
    *scale = (NAME(v))(((NAME(i))shifted + 1023) << 52);
    return FMA(r * r, q, r);
}

static inline __attribute__((always_inline)) NAME(v) NAME(minus_absolute)(NAME(v) x, double factor)
{
    const NAME(v) zero = {0}, least = -708.0 - zero;
    NAME(v) a = WHERE(x > zero, x * -factor, x * factor);
    return WHERE(a < least, least, a);
}

static inline __attribute__((always_inline)) NAME(v) NAME(sigmoid)(NAME(v) x)
{
    const NAME(v) zero = {0};
    NAME(v) scale, p = NAME(reduced_exp)(NAME(minus_absolute)(x, 1.0), &scale);
    NAME(v) t = FMA(scale, p, scale), y = (1.0 - zero) / (1.0 + t);
    return WHERE(x >= zero, y, t * y);
}

static inline __attribute__((always_inline)) NAME(v) NAME(tanh)(NAME(v) x)
{
    const NAME(v) zero = {0};
    NAME(v) scale, p = NAME(reduced_exp)(NAME(minus_absolute)(x, 2.0), &scale);
    NAME(v) e = FMA(scale, p, scale - 1.0), y = e / (2.0 + e);
    return WHERE(x > zero, zero - y, y);
}

/* out = f(z), n values, a multiple of VL; `sigmoid` and `tanh` are the numbers that codes.py has for them. */
static void NAME(apply_function)(const lrpfast_recurrent *op, const lrpfast_function *f, ptrdiff_t n, const T *z, T *out)
{
    if (f->number == LRPFAST_FUNCTION_SIGMOID)
        for (ptrdiff_t j = 0; j < n; j += VL)
            *(NAME(u) *)(out + j) = NAME(sigmoid)(*(const NAME(u) *)(z + j));
    else if (f->number == LRPFAST_FUNCTION_TANH)
        for (ptrdiff_t j = 0; j < n; j += VL)
            *(NAME(u) *)(out + j) = NAME(tanh)(*(const NAME(u) *)(z + j));
    else
        for (ptrdiff_t j = 0; j < n; j++)
            out[j] = f->number < 0 ? z[j] : op->evaluate(f->number, z[j], f->parameters);
}

/* Buffers of floats or doubles. */

static inline void NAME(fetch)(const lrpfast_recurrent *op, const void *buffer, ptrdiff_t at, ptrdiff_t n, T *restrict to)
{
    if (op->single)
        for (ptrdiff_t j = 0; j < n; j++) to[j] = ((const float *)buffer)[at + j];
    else
        for (ptrdiff_t j = 0; j < n; j++) to[j] = ((const double *)buffer)[at + j];
}

static inline void NAME(keep)(const lrpfast_recurrent *op, void *buffer, ptrdiff_t at, ptrdiff_t n, const T *restrict from)
{
    if (op->single)
        for (ptrdiff_t j = 0; j < n; j++) ((float *)buffer)[at + j] = (float)from[j];
    else
        for (ptrdiff_t j = 0; j < n; j++) ((double *)buffer)[at + j] = from[j];
}

/* What a thread keeps of some samples, a row each. */
typedef struct {
    ptrdiff_t width, wide; /* of a row of inputs, of a row of blocks */
    T *inputs, *resets;    /* x_t and h; x_t and r h */
    T *blocks, *sums, *h, *c, *more, *slots, *terms;
    const void *input_rows[LRPFAST_ROWS], *reset_rows[LRPFAST_ROWS], *block_rows[LRPFAST_ROWS];
    ptrdiff_t first[LRPFAST_ROWS]; /* the first of the computed steps that counts */
    int counts[LRPFAST_ROWS];
} NAME(cells);

static void NAME(lay_out)(const lrpfast_recurrent *op, void *scratch, NAME(cells) *k)
{
    k->width = (op->features + op->units + 7) / 8 * 8;
    k->wide = (op->blocks + 1) * op->padded;
    T *at = scratch;
    const ptrdiff_t rows = LRPFAST_ROWS;
    k->inputs = at, at += rows * k->width;
    k->resets = at, at += rows * k->width;
    k->sums = at, at += rows * k->width;
    k->blocks = at, at += rows * k->wide;
    k->h = at, at += rows * op->padded;
    k->c = at, at += rows * op->padded;
    k->more = at, at += 2 * rows * op->padded;
    k->terms = at, at += 4 * rows;
    k->slots = at;
    for (ptrdiff_t r = 0; r < rows; r++) {
        k->input_rows[r] = k->inputs + r * k->width;
        k->reset_rows[r] = k->resets + r * k->width;
        k->block_rows[r] = k->blocks + r * k->wide;
    }
}

static ptrdiff_t NAME(recurrent_scratch)(const lrpfast_recurrent *op)
{
    const ptrdiff_t width = (op->features + op->units + 7) / 8 * 8, wide = (op->blocks + 1) * op->padded;
    return (LRPFAST_ROWS * (3 * width + wide + 4 * op->padded + 4) + 16 * op->padded) * (ptrdiff_t)sizeof(T);
}

static void NAME(product)(ptrdiff_t rows, ptrdiff_t depth, const void *const *input, const void *panels,
                          ptrdiff_t columns, T *sums, ptrdiff_t ld)
{
    NAME(block)(rows, 1, &depth, input, panels, (columns + VL - 1) / VL * VL, sums, ld, 0);
}

/* The step that is computed as the number-th, and the row of a sequence's output that has its state. */
static inline ptrdiff_t NAME(step_of)(const lrpfast_recurrent *op, ptrdiff_t number)
{
    return op->backwards ? op->steps - 1 - number : number;
}

static inline ptrdiff_t NAME(output_row)(const lrpfast_recurrent *op, ptrdiff_t number)
{
    return op->time_order ? NAME(step_of)(op, number) : number;
}

/* Which rows' step counts. */
static void NAME(read_mask)(const lrpfast_recurrent *op, const void *mask, ptrdiff_t rows, ptrdiff_t step, int *counts)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        T value = 1;
        if (mask)
            NAME(fetch)(op, mask, r * op->steps + step, 1, &value);
        counts[r] = value != 0;
    }
}

/* Values that a step keeps for the way back, in units: what `state` holds of it. */
static ptrdiff_t NAME(recurrent_slots)(const lrpfast_recurrent *op)
{
    static const int signal[] = {2, 5, 6, 6}, all[] = {2, 12, 9, 9};
    return op->product == LRPFAST_SIGNAL ? signal[op->cell] : all[op->cell];
}

/* Forwards. Each function makes the new h (and c) of one row of pre-activations z, biases included, and the slots. */

static void NAME(lstm_step)(const lrpfast_recurrent *op, T *z, T *restrict h, T *restrict c, T *slots)
{
    const ptrdiff_t n = op->padded;
    T *i = z, *f = z + n, *g = z + 2 * n, *o = z + 3 * n, *s = z + 4 * n;
    const int all = op->product != LRPFAST_SIGNAL;
    T *at = slots;
    for (int b = all ? 0 : 2; b < (all ? 4 : 3); b++, at += n) /* pre-activations */
        for (ptrdiff_t j = 0; j < n; j++)
            at[j] = z[b * n + j] - (op->bias_share == LRPFAST_IGNORE ? op->bias[b * n + j] : 0);
    memcpy(at, h, n * sizeof(T)), at += n;
    if (all)
        memcpy(at, c, n * sizeof(T)), at += n;
    NAME(apply_function)(op, &op->gate_function, 2 * n, i, i);
    NAME(apply_function)(op, &op->cell_function, n, g, g);
    NAME(apply_function)(op, &op->gate_function, n, o, o);
    for (ptrdiff_t j = 0; j < n; j++) {
        const T kept = f[j] * c[j], fresh = i[j] * g[j];
        if (!all)
            at[j] = kept, at[n + j] = fresh;
        c[j] = kept + fresh;
    }
    NAME(apply_function)(op, &op->output_function, n, c, s);
    for (ptrdiff_t j = 0; j < n; j++)
        h[j] = o[j] * s[j];
    if (all)
        memcpy(at, z, 5 * n * sizeof(T)), at += 3 * n;
    memcpy(at + 2 * n, c, n * sizeof(T));
}

static void NAME(gru_gates)(const lrpfast_recurrent *op, T *z, T *slots)
{
    const ptrdiff_t n = op->padded;
    if (op->product != LRPFAST_SIGNAL)
        for (ptrdiff_t j = 0; j < 2 * n; j++)
            slots[7 * n + j] = z[j] - (op->bias_share == LRPFAST_IGNORE ? op->bias[j] : 0);
    NAME(apply_function)(op, &op->gate_function, 2 * n, z, z);
}

/* From the gates z and r, x W_n + b_n and h U_n + b'_n: slots n', h, r, new h and z h, (1 - z) n or z, n, h U_n. */
static void NAME(gru_step)(const lrpfast_recurrent *op, T *z, T *restrict h, T *slots)
{
    const ptrdiff_t n = op->padded;
    T *r = z + n, *candidate = z + 2 * n, *inner = z + 3 * n;
    const int ignores = op->bias_share == LRPFAST_IGNORE, after = op->cell == LRPFAST_GRU_AFTER;
    for (ptrdiff_t j = 0; j < n; j++) {
        T sum = candidate[j] + (after ? r[j] * inner[j] : 0), bias = 0;
        if (ignores)
            bias = after ? op->bias[2 * n + j] + r[j] * op->bias[3 * n + j] : op->candidate_bias[j];
        slots[j] = sum - bias;
        candidate[j] = sum;
    }
    memcpy(slots + n, h, n * sizeof(T));
    memcpy(slots + 2 * n, r, n * sizeof(T));
    NAME(apply_function)(op, &op->cell_function, n, candidate, candidate);
    for (ptrdiff_t j = 0; j < n; j++) {
        const T kept = z[j] * h[j], fresh = (1 - z[j]) * candidate[j];
        h[j] = kept + fresh;
        slots[3 * n + j] = h[j];
        slots[4 * n + j] = op->product == LRPFAST_SIGNAL ? kept : z[j];
        slots[5 * n + j] = op->product == LRPFAST_SIGNAL ? fresh : candidate[j];
    }
    if (op->product != LRPFAST_SIGNAL)
        memcpy(slots + 6 * n, inner, n * sizeof(T));
}

static void NAME(simple_step)(const lrpfast_recurrent *op, T *z, T *restrict h, T *slots)
{
    const ptrdiff_t n = op->padded;
    for (ptrdiff_t j = 0; j < n; j++)
        slots[j] = z[j] - (op->bias_share == LRPFAST_IGNORE ? op->bias[j] : 0);
    memcpy(slots + n, h, n * sizeof(T));
    NAME(apply_function)(op, &op->cell_function, n, z, h);
}

/* Rows of inputs: x_t, and h or r h beside it. */
static void NAME(gather_inputs)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows, const void *x, ptrdiff_t step)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        T *row = k->inputs + r * k->width;
        NAME(fetch)(op, x, (r * op->steps + step) * op->features, op->features, row);
        memcpy(row + op->features, k->h + r * op->padded, op->units * sizeof(T));
    }
}

/* The products of one step, biases included. A GRU that resets before the product computes its gates first. */
static void NAME(pre_activations)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows)
{
    const ptrdiff_t depth = op->features + op->units, n = op->padded, columns = op->blocks * n;
    NAME(product)(rows, depth, k->input_rows, op->packed, columns, k->blocks, k->wide);
    for (ptrdiff_t r = 0; r < rows; r++) {
        T *z = k->blocks + r * k->wide;
        for (ptrdiff_t j = 0; j < columns; j++)
            z[j] = z[j] + op->bias[j];
    }
    if (op->cell != LRPFAST_GRU_BEFORE)
        return;
    for (ptrdiff_t r = 0; r < rows; r++) {
        T *z = k->blocks + r * k->wide, *row = k->resets + r * k->width;
        NAME(gru_gates)(op, z, k->slots);
        if (op->product != LRPFAST_SIGNAL) /* kept until the row's step is made */
            memcpy(k->more + r * 2 * n, k->slots + 7 * n, 2 * n * sizeof(T));
        memcpy(row, k->inputs + r * k->width, op->features * sizeof(T));
        for (ptrdiff_t j = 0; j < op->units; j++)
            row[op->features + j] = z[n + j] * k->h[r * n + j];
    }
    NAME(product)(rows, depth, k->reset_rows, op->candidate, n, k->blocks + 2 * n, k->wide);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t j = 0; j < n; j++)
            k->blocks[r * k->wide + 2 * n + j] += op->candidate_bias[j];
}

/* One step of one row: its new states, and what is kept of it. */
static void NAME(row_step)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t step, void *state)
{
    const ptrdiff_t n = op->padded, slots = NAME(recurrent_slots)(op);
    T *z = k->blocks + r * k->wide, *h = k->h + r * n;
    if (op->cell == LRPFAST_LSTM)
        NAME(lstm_step)(op, z, h, k->c + r * n, k->slots);
    else if (op->cell == LRPFAST_SIMPLE)
        NAME(simple_step)(op, z, h, k->slots);
    else {
        if (op->cell == LRPFAST_GRU_AFTER)
            NAME(gru_gates)(op, z, k->slots);
        else if (op->product != LRPFAST_SIGNAL)
            memcpy(k->slots + 7 * n, k->more + r * 2 * n, 2 * n * sizeof(T));
        NAME(gru_step)(op, z, h, k->slots);
    }
    if (state)
        for (ptrdiff_t s = 0; s < slots; s++)
            NAME(keep)(op, state, ((r * op->steps + step) * slots + s) * op->units, op->units, k->slots + s * n);
}

/* The initial states of all rows: inputs, or constants. */
static void NAME(begin_states)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows, const void *h, const void *c)
{
    memset(k->h, 0, rows * op->padded * sizeof(T));
    memset(k->c, 0, rows * op->padded * sizeof(T));
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (h)
            NAME(fetch)(op, h, r * op->units, op->units, k->h + r * op->padded);
        else
            memcpy(k->h + r * op->padded, op->initial_h, op->units * sizeof(T));
        if (c)
            NAME(fetch)(op, c, r * op->units, op->units, k->c + r * op->padded);
        else
            memcpy(k->c + r * op->padded, op->initial_c, op->units * sizeof(T));
        k->first[r] = op->steps;
    }
}

/* At most LRPFAST_ROWS samples through all steps; 1 where the run is to stop. */
static int NAME(recur)(const lrpfast_recurrent *op, const lrpfast_recurrent_forward *b, ptrdiff_t rows, void *scratch)
{
    const ptrdiff_t n = op->padded, size = op->units, last = op->sequences ? op->steps : 1;
    const ptrdiff_t out_rows = last + op->return_state;
    const double work = (double)rows * (op->features + size) * op->blocks * size;
    NAME(cells) k;
    NAME(lay_out)(op, scratch, &k);
    NAME(begin_states)(op, &k, rows, b->h, b->c);
    for (ptrdiff_t number = 0; number < op->steps; number++) {
        const ptrdiff_t step = NAME(step_of)(op, number);
        if (op->stopped(work))
            return 1;
        NAME(gather_inputs)(op, &k, rows, b->x, step);
        NAME(pre_activations)(op, &k, rows);
        NAME(read_mask)(op, b->mask, rows, step, k.counts);
        for (ptrdiff_t r = 0; r < rows; r++) {
            if (k.counts[r]) {
                NAME(row_step)(op, &k, r, step, b->state);
                k.first[r] = k.first[r] < number ? k.first[r] : number;
            }
            if (!op->sequences && number < op->steps - 1)
                continue;
            const int shows = k.first[r] <= number && (k.counts[r] || !op->sequences || !op->zero_masked);
            const ptrdiff_t row = op->sequences ? NAME(output_row)(op, number) : 0;
            memset(k.slots, 0, n * sizeof(T));
            NAME(keep)(op, b->out, (r * out_rows + row) * size, size, shows ? k.h + r * n : k.slots);
        }
    }
    for (ptrdiff_t r = 0; op->return_state && r < rows; r++)
        NAME(keep)(op, b->out, (r * out_rows + last) * size, size, k.c + r * n);
    return 0;
}

/* Backwards. `terms` has, of one row, what its sums' biases and stabilizers and its outputs of 0 took. */
enum { NAME(BIAS_TERM), NAME(STABILIZER_TERM), NAME(LOST_TERM), NAME(SHARED_TERM) };

static inline __attribute__((always_inline)) T NAME(stabilized)(T z, T epsilon)
{
    return z + (z >= 0 ? epsilon : -epsilon);
}

/* The shares of a gate and of the signal that it multiplies; what is left of 1 is the stabilizer's. */
static inline void NAME(shares_of)(const lrpfast_recurrent *op, T gate, T signal, T *of_gate, T *of_signal)
{
    if (op->product == LRPFAST_HALF) {
        *of_gate = *of_signal = 0.5;
        return;
    }
    if (op->product == LRPFAST_ABS)
        gate = fabs(gate), signal = fabs(signal);
    const T sum = NAME(stabilized)(gate + signal, op->epsilon);
    *of_gate = gate / sum, *of_signal = signal / sum;
}

/* R of a product, each unit's, becomes R of the signal; R of the gate is added. */
static void NAME(split)(const lrpfast_recurrent *op, const T *gate, int from_one, const T *signal, T *relevance, T *of_gate,
                        T *terms)
{
    if (op->product == LRPFAST_SIGNAL)
        return;
    for (ptrdiff_t j = 0; j < op->units; j++) {
        T one, other;
        NAME(shares_of)(op, from_one ? 1 - gate[j] : gate[j], signal[j], &one, &other);
        terms[NAME(STABILIZER_TERM)] += relevance[j] * (1 - one - other);
        of_gate[j] += one * relevance[j];
        relevance[j] *= other;
    }
}

/* s = R / stabilized z of one block of sums. */
static void NAME(quotients)(const lrpfast_recurrent *op, const T *z, const T *relevance, T *restrict s, T *terms)
{
    T noise = 0;
    for (ptrdiff_t j = 0; j < op->units; j++)
        s[j] = relevance[j] / NAME(stabilized)(z[j], op->epsilon);
    for (ptrdiff_t j = 0; j < op->units; j++)
        noise += z[j] >= 0 ? s[j] : -s[j];
    terms[op->bias_share == LRPFAST_SHARE ? NAME(SHARED_TERM) : NAME(STABILIZER_TERM)] += noise * op->epsilon;
}

/* R of sums of two parts, unit by unit, becomes R of the parts. A shared stabilizer goes to all parts of all units. */
static void NAME(pairs)(const lrpfast_recurrent *op, const T *sum, T *restrict first, T *restrict second, const T *relevance,
                        T *restrict s, T *terms)
{
    const ptrdiff_t n = op->units;
    const T before = terms[NAME(SHARED_TERM)];
    NAME(quotients)(op, sum, relevance, s, terms);
    const T each = (terms[NAME(SHARED_TERM)] - before) / (2 * n);
    terms[NAME(SHARED_TERM)] = before;
    for (ptrdiff_t j = 0; j < n; j++) {
        first[j] = first[j] * s[j] + each;
        second[j] = second[j] * s[j] + each;
    }
}

/* What the biases of sums with quotients s take, or, for each of the sums' inputs, what it gets of them. */
static T NAME(bias_terms)(const lrpfast_recurrent *op, const T *s, const T *bias, ptrdiff_t blocks, T *terms)
{
    T rest = 0;
    if (op->bias_share != LRPFAST_IGNORE)
        for (ptrdiff_t b = 0; b < blocks; b++)
            for (ptrdiff_t j = 0; j < op->units; j++)
                rest += s[b * op->padded + j] * bias[b * op->padded + j];
    if (op->bias_share < LRPFAST_DISTRIBUTE) {
        terms[NAME(BIAS_TERM)] += rest;
        return 0;
    }
    rest += terms[NAME(SHARED_TERM)];
    terms[NAME(SHARED_TERM)] = 0;
    return rest / (op->features + op->units);
}

/* Each makes, of R of the new states in k->h and k->c, quotients in the row's blocks, and leaves R of the old states
 * there, but for what the product with the weights adds. */

static void NAME(lstm_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, T *terms)
{
    const ptrdiff_t n = op->padded;
    T *rh = k->h + r * n, *rc = k->c + r * n, *s = k->blocks + r * k->wide, *v = k->slots;
    if (op->product == LRPFAST_SIGNAL) {
        T *kept = v + 2 * n, *fresh = v + 3 * n;
        for (ptrdiff_t j = 0; j < op->units; j++)
            rc[j] += rh[j];
        NAME(pairs)(op, v + 4 * n, kept, fresh, rc, s, terms);
        memcpy(rc, kept, n * sizeof(T));
        memset(rh, 0, n * sizeof(T));
        NAME(quotients)(op, v, fresh, s, terms);
        return;
    }
    T *old_c = v + 5 * n, *i = v + 6 * n, *f = i + n, *g = f + n, *o = g + n, *tanh_c = o + n, *c = tanh_c + n;
    T *gates = c + n; /* R of i, f, g and o */
    memset(gates, 0, 4 * n * sizeof(T));
    NAME(split)(op, o, 0, tanh_c, rh, gates + 3 * n, terms);
    for (ptrdiff_t j = 0; j < op->units; j++) {
        rc[j] += rh[j];
        rh[j] = f[j] * old_c[j];
        gates[2 * n + j] = i[j] * g[j];
    }
    NAME(pairs)(op, c, rh, gates + 2 * n, rc, s, terms);
    memcpy(rc, rh, n * sizeof(T));
    memset(rh, 0, n * sizeof(T));
    NAME(split)(op, f, 0, old_c, rc, gates + n, terms);
    NAME(split)(op, i, 0, g, gates + 2 * n, gates, terms);
    for (int b = 0; b < 4; b++)
        NAME(quotients)(op, v + b * n, gates + b * n, s + b * n, terms);
}

/* Leaves R of the candidate's part of the old state, R of z and of n in the slots from 9 on; see `gru_step`. */
static void NAME(gru_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, T *terms)
{
    const ptrdiff_t n = op->padded;
    T *rh = k->h + r * n, *v = k->slots, *rz = v + 9 * n, *rr = v + 10 * n, *kept = v + 4 * n, *fresh = v + 5 * n;
    const T *old_h = v + n, *reset = v + 2 * n;
    T *s = k->blocks + r * k->wide;
    memset(rz, 0, 2 * n * sizeof(T));
    if (op->product != LRPFAST_SIGNAL) {
        T *first = v + 11 * n, *second = v + 12 * n;
        for (ptrdiff_t j = 0; j < op->units; j++) {
            first[j] = kept[j] * old_h[j];
            second[j] = (1 - kept[j]) * fresh[j];
        }
        NAME(pairs)(op, v + 3 * n, first, second, rh, s, terms);
        NAME(split)(op, kept, 0, old_h, first, rz, terms);
        NAME(split)(op, kept, 1, fresh, second, rz, terms);
        kept = first, fresh = second;
    } else
        NAME(pairs)(op, v + 3 * n, kept, fresh, rh, s, terms);
    memcpy(rh, kept, n * sizeof(T));
    if (op->cell == LRPFAST_GRU_BEFORE) {
        NAME(quotients)(op, v, fresh, s, terms);
        return;
    }
    T *x_part = s + (op->product == LRPFAST_SIGNAL ? 0 : 2 * n), *h_part = x_part + n;
    NAME(quotients)(op, v, fresh, x_part, terms);
    for (ptrdiff_t j = 0; j < op->units; j++) {
        h_part[j] = reset[j] * x_part[j];
        if (op->product == LRPFAST_SIGNAL)
            continue;
        const T inner = v[6 * n + j], bias = op->bias_share == LRPFAST_IGNORE ? op->bias[3 * n + j] : 0;
        const T arrives = (inner - bias) * h_part[j];
        T one, other;
        NAME(shares_of)(op, reset[j], inner, &one, &other);
        terms[NAME(STABILIZER_TERM)] += arrives * (1 - one - other);
        rr[j] = arrives * one;
        h_part[j] *= other;
    }
    if (op->product != LRPFAST_SIGNAL)
        for (int b = 0; b < 2; b++)
            NAME(quotients)(op, v + (7 + b) * n, rz + b * n, s + b * n, terms);
}

/* The sums of a row become relevance of x, added, and of what stands beside it. */
static void NAME(messages)(const lrpfast_recurrent *op, const NAME(cells) *k, ptrdiff_t r, const T *inputs, T each,
                           T *restrict to_x, T *restrict to_h)
{
    const T *sums = k->sums + r * k->width;
    for (ptrdiff_t j = 0; j < op->features; j++)
        to_x[j] += inputs[j] * sums[j] + each;
    inputs += op->features, sums += op->features;
    for (ptrdiff_t j = 0; j < op->units; j++)
        to_h[j] += inputs[j] * sums[j] + each;
}

static void NAME(fetch_slots)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t step, const void *state)
{
    const ptrdiff_t slots = NAME(recurrent_slots)(op);
    for (ptrdiff_t s = 0; s < slots; s++)
        NAME(fetch)(op, state, ((r * op->steps + step) * slots + s) * op->units, op->units, k->slots + s * op->padded);
}

/* What arrives at a step's own output. Where that is 0 whatever the input, relevance is lost. */
static void NAME(add_arriving)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t number,
                               const void *relevance, T *terms)
{
    const ptrdiff_t last = op->sequences ? op->steps : 1, row = op->sequences ? NAME(output_row)(op, number) : 0;
    if (!op->sequences && number < op->steps - 1)
        return;
    NAME(fetch)(op, relevance, (r * (last + op->return_state) + row) * op->units, op->units, k->slots);
    const int shows = k->first[r] <= number && (k->counts[r] || !op->sequences || !op->zero_masked);
    for (ptrdiff_t j = 0; j < op->units; j++)
        *(shows ? k->h + r * op->padded + j : terms + NAME(LOST_TERM)) += k->slots[j];
}

/* The second product of a GRU that resets before the first: R of r h goes to r and h, that of r and z to x and h. */
static void NAME(gates_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows, ptrdiff_t step, const void *state)
{
    const ptrdiff_t n = op->padded;
    for (ptrdiff_t r = 0; r < rows; r++) {
        T *s = k->blocks + r * k->wide, *v = k->slots, *terms = k->terms + 4 * r;
        memset(s, 0, 2 * n * sizeof(T));
        if (!k->counts[r])
            continue;
        NAME(fetch_slots)(op, k, r, step, state);
        T *rr = v + 9 * n, *q = v + 10 * n;
        memset(rr, 0, n * sizeof(T));
        memcpy(q, k->resets + r * k->width + op->features, op->units * sizeof(T));
        NAME(split)(op, v + 2 * n, 0, v + n, q, rr, terms);
        for (ptrdiff_t j = 0; j < op->units; j++)
            k->h[r * n + j] += q[j];
        NAME(quotients)(op, v + 7 * n, k->more + r * 2 * n, s, terms);
        NAME(quotients)(op, v + 8 * n, rr, s + n, terms);
    }
    NAME(product)(rows, 2 * n, k->block_rows, op->back, op->features + op->units, k->sums, k->width);
}

/* One row's quotients and inputs, before the product with the weights. */
static void NAME(row_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t step,
                           const lrpfast_recurrent_backward *b)
{
    const ptrdiff_t n = op->padded;
    T *row = k->inputs + r * k->width, *terms = k->terms + 4 * r;
    const int all = op->product != LRPFAST_SIGNAL;
    const ptrdiff_t old_h = op->cell == LRPFAST_LSTM && all ? 4 : 1;
    NAME(fetch_slots)(op, k, r, step, b->state);
    NAME(fetch)(op, b->x, (r * op->steps + step) * op->features, op->features, row);
    memcpy(row + op->features, k->slots + old_h * n, op->units * sizeof(T));
    if (op->cell == LRPFAST_LSTM)
        NAME(lstm_back)(op, k, r, terms);
    else if (op->cell == LRPFAST_SIMPLE) {
        NAME(quotients)(op, k->slots, k->h + r * n, k->blocks + r * k->wide, terms);
        memset(k->h + r * n, 0, n * sizeof(T));
    } else
        NAME(gru_back)(op, k, r, terms);
    if (op->cell != LRPFAST_GRU_BEFORE)
        return;
    for (ptrdiff_t j = 0; j < op->units; j++)
        row[op->features + j] *= k->slots[2 * n + j];
    memcpy(k->more + r * 2 * n, k->slots + 9 * n, n * sizeof(T));
}

/* Everything between R of all rows' states after a step and R of those before it. */
static void NAME(step_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows, ptrdiff_t step,
                            const lrpfast_recurrent_backward *b)
{
    const ptrdiff_t n = op->padded, columns = op->features + op->units;
    const int before = op->cell == LRPFAST_GRU_BEFORE, all = op->product != LRPFAST_SIGNAL;
    const int first = !all && op->cell != LRPFAST_SIMPLE ? 2 : 0;
    const ptrdiff_t blocks = all ? op->blocks : op->cell == LRPFAST_GRU_AFTER ? 2 : 1;
    for (ptrdiff_t r = 0; r < rows; r++) {
        memset(k->resets + r * k->width, 0, k->width * sizeof(T));
        if (k->counts[r])
            NAME(row_back)(op, k, r, step, b);
        else
            memset(k->blocks + r * k->wide, 0, k->wide * sizeof(T));
    }
    NAME(product)(rows, before ? n : blocks * n, k->block_rows, before ? op->candidate_back : op->back, columns, k->sums,
                  k->width);
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (!k->counts[r])
            continue;
        T *to_x = k->resets + r * k->width, *to_h = before && all ? to_x + op->features : k->h + r * n;
        const T each = NAME(bias_terms)(op, k->blocks + r * k->wide, before ? op->candidate_bias : op->bias + first * n,
                                        before ? 1 : blocks, k->terms + 4 * r);
        NAME(messages)(op, k, r, k->inputs + r * k->width, each, to_x, to_h);
    }
    if (!before || !all)
        return;
    NAME(gates_back)(op, k, rows, step, b->state);
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (!k->counts[r])
            continue;
        T *row = k->inputs + r * k->width;
        const ptrdiff_t at = (r * op->steps + step) * NAME(recurrent_slots)(op) + 1; /* the slot of the old h */
        NAME(fetch)(op, b->state, at * op->units, op->units, row + op->features);
        const T each = NAME(bias_terms)(op, k->blocks + r * k->wide, op->bias, 2, k->terms + 4 * r);
        NAME(messages)(op, k, r, row, each, k->resets + r * k->width, k->h + r * n);
    }
}

static void NAME(note_account)(const lrpfast_recurrent *op, const NAME(cells) *k, ptrdiff_t r, ptrdiff_t step, void *account)
{
    const T *terms = k->terms + 4 * r, *h = k->h + r * op->padded, *c = k->c + r * op->padded;
    T values[LRPFAST_ACCOUNT] = {terms[NAME(BIAS_TERM)], terms[NAME(STABILIZER_TERM)], terms[NAME(LOST_TERM)], 0, 0};
    for (ptrdiff_t j = 0; j < op->units; j++) {
        values[3] += h[j] + c[j];
        values[4] += fabs(h[j]) + fabs(c[j]);
    }
    NAME(keep)(op, account, (r * op->steps + step) * LRPFAST_ACCOUNT, LRPFAST_ACCOUNT, values);
}

/* Relevance of at most LRPFAST_ROWS samples, from the last step that was computed to the first; 1 where to stop. */
static int NAME(recur_back)(const lrpfast_recurrent *op, const lrpfast_recurrent_backward *b, ptrdiff_t rows, void *scratch)
{
    const ptrdiff_t n = op->padded, size = op->units, last = op->sequences ? op->steps : 1;
    const double work = (double)rows * (op->features + size) * op->blocks * size;
    NAME(cells) k;
    NAME(lay_out)(op, scratch, &k);
    memset(k.blocks, 0, rows * k.wide * sizeof(T));
    memset(k.h, 0, rows * n * sizeof(T));
    memset(k.c, 0, rows * n * sizeof(T));
    for (ptrdiff_t r = 0; r < rows; r++)
        k.first[r] = op->steps;
    for (ptrdiff_t number = op->steps - 1; number >= 0; number--) {
        NAME(read_mask)(op, b->mask, rows, NAME(step_of)(op, number), k.counts);
        for (ptrdiff_t r = 0; r < rows; r++)
            k.first[r] = k.counts[r] ? number : k.first[r];
    }
    for (ptrdiff_t r = 0; op->return_state && r < rows; r++)
        NAME(fetch)(op, b->relevance, (r * (last + 1) + last) * size, size, k.c + r * n);
    for (ptrdiff_t number = op->steps - 1; number >= 0; number--) {
        const ptrdiff_t step = NAME(step_of)(op, number);
        if (op->stopped(work))
            return 1;
        NAME(read_mask)(op, b->mask, rows, step, k.counts);
        memset(k.terms, 0, 4 * rows * sizeof(T));
        for (ptrdiff_t r = 0; r < rows; r++)
            NAME(add_arriving)(op, &k, r, number, b->relevance, k.terms + 4 * r);
        NAME(step_back)(op, &k, rows, step, b);
        for (ptrdiff_t r = 0; r < rows; r++) {
            NAME(keep)(op, b->out, (r * op->steps + step) * op->features, op->features, k.resets + r * k.width);
            if (b->account)
                NAME(note_account)(op, &k, r, step, b->account);
        }
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        if (b->out_h)
            NAME(keep)(op, b->out_h, r * size, size, k.h + r * n);
        if (b->out_c)
            NAME(keep)(op, b->out_c, r * size, size, k.c + r * n);
    }
    return 0;
}
