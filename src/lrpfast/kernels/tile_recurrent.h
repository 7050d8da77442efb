/* Recurrent layers, forwards and backwards: all arithmetic in double, whatever the buffers hold.
 *
 * Relevance is a quotient of sums that may nearly cancel, handed on over hundreds of steps. States of a forward pass in
 * float cost up to 5e-6 of the largest relevance of a year of days, those of one in double that are only stored as floats
 * 1e-7 (docs/performance.md). So this file is compiled for T = double alone.
 *
 * Samples go through the steps together, a row each, so that a step is one product of matrices. A sum depends on its own
 * sample alone: results are the same bits for any batch.
 */

/* Activation functions. `tile_functions.h` has the others. */

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

static inline __attribute__((always_inline)) NAME(v) NAME(tanh)(NAME(v) x)
{
    const NAME(v) zero = {0};
    const NAME(v) least = -708.0 - zero;
    NAME(v) a = WHERE(x > zero, -2.0 * x, 2.0 * x), scale;
    NAME(v) p = NAME(reduced_exp)(WHERE(a < least, least, a), &scale);
    NAME(v) e = FMA(scale, p, scale - 1.0), y = e / (2.0 + e);
    return WHERE(x > zero, zero - y, y);
}

/* out = f(z), n values, a multiple of VL. */
static void NAME(apply_function)(const lrpfast_recurrent *op, const lrpfast_gate_function *f, ptrdiff_t n, const T *z, T *out)
{
    if (f->number == LRPFAST_SIGMOID)
        for (ptrdiff_t j = 0; j < n; j += VL)
            *(NAME(u) *)(out + j) = NAME(sigmoid)(*(const NAME(u) *)(z + j));
    else if (f->number == LRPFAST_TANH)
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
    static const int signal[] = {2, 5, 6, 6}, all[] = {2, 12, 9, 9}, derivative[] = {1, 6, 5, 5};
    return (op->product == LRPFAST_SIGNAL ? signal : op->product == LRPFAST_DERIVATIVE ? derivative : all)[op->cell];
}

static void NAME(fetch_slots)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t step, const void *state)
{
    const ptrdiff_t slots = NAME(recurrent_slots)(op);
    for (ptrdiff_t s = 0; s < slots; s++)
        NAME(fetch)(op, state, ((r * op->steps + step) * slots + s) * op->units, op->units, k->slots + s * op->padded);
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
        const T old_part = f[j] * c[j], new_part = i[j] * g[j];
        if (!all)
            at[j] = old_part, at[n + j] = new_part;
        c[j] = old_part + new_part;
    }
    NAME(apply_function)(op, &op->output_function, n, c, s);
    for (ptrdiff_t j = 0; j < n; j++)
        h[j] = o[j] * s[j];
    if (all)
        memcpy(at, z, 5 * n * sizeof(T)), at += 3 * n;
    memcpy(at + 2 * n, c, n * sizeof(T));
}

/* Of tile_recurrent_gradient.h: derivatives of n values, and steps whose slots are factors of the derivative. */
static void NAME(apply_slope)(const lrpfast_recurrent *op, const lrpfast_gate_function *f, ptrdiff_t n, const T *z, T *out);
static void NAME(lstm_factors)(const lrpfast_recurrent *op, T *z, T *h, T *c, T *slots);
static void NAME(gru_factors)(const lrpfast_recurrent *op, T *z, T *h, T *slots);

static void NAME(gru_gates)(const lrpfast_recurrent *op, T *z, T *slots)
{
    const ptrdiff_t n = op->padded;
    if (op->product == LRPFAST_DERIVATIVE)
        NAME(apply_slope)(op, &op->gate_function, 2 * n, z, slots + 7 * n);
    else if (op->product != LRPFAST_SIGNAL)
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
        const T old_part = z[j] * h[j], new_part = (1 - z[j]) * candidate[j];
        h[j] = old_part + new_part;
        slots[3 * n + j] = h[j];
        slots[4 * n + j] = op->product == LRPFAST_SIGNAL ? old_part : z[j];
        slots[5 * n + j] = op->product == LRPFAST_SIGNAL ? new_part : candidate[j];
    }
    if (op->product != LRPFAST_SIGNAL)
        memcpy(slots + 6 * n, inner, n * sizeof(T));
}

static void NAME(simple_step)(const lrpfast_recurrent *op, T *z, T *restrict h, T *slots)
{
    const ptrdiff_t n = op->padded;
    if (op->product == LRPFAST_DERIVATIVE)
        NAME(apply_slope)(op, &op->cell_function, n, z, slots);
    else {
        for (ptrdiff_t j = 0; j < n; j++)
            slots[j] = z[j] - (op->bias_share == LRPFAST_IGNORE ? op->bias[j] : 0);
        memcpy(slots + n, h, n * sizeof(T));
    }
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
        if (op->product != LRPFAST_SIGNAL) /* until the row's step is computed */
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

/* One step of one row: its new states, and the slots that the way back needs. */
static void NAME(row_step)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r, ptrdiff_t step, void *state)
{
    const ptrdiff_t n = op->padded, slots = NAME(recurrent_slots)(op);
    const int derivative = op->product == LRPFAST_DERIVATIVE;
    T *z = k->blocks + r * k->wide, *h = k->h + r * n;
    if (op->cell == LRPFAST_LSTM)
        (derivative ? NAME(lstm_factors) : NAME(lstm_step))(op, z, h, k->c + r * n, k->slots);
    else if (op->cell == LRPFAST_SIMPLE)
        NAME(simple_step)(op, z, h, k->slots);
    else {
        if (op->cell == LRPFAST_GRU_AFTER)
            NAME(gru_gates)(op, z, k->slots);
        else if (op->product != LRPFAST_SIGNAL)
            memcpy(k->slots + 7 * n, k->more + r * 2 * n, 2 * n * sizeof(T));
        (derivative ? NAME(gru_factors) : NAME(gru_step))(op, z, h, k->slots);
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
