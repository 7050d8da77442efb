/* Recurrent layers backwards: see tile_recurrent.h; tile_recurrent_gradient.h has their derivative. */

/* `terms` has, of one row, what its sums' biases and stabilizers and its outputs of 0 took. */
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
        T *old_part = v + 2 * n, *new_part = v + 3 * n;
        for (ptrdiff_t j = 0; j < op->units; j++)
            rc[j] += rh[j];
        NAME(pairs)(op, v + 4 * n, old_part, new_part, rc, s, terms);
        memcpy(rc, old_part, n * sizeof(T));
        memset(rh, 0, n * sizeof(T));
        NAME(quotients)(op, v, new_part, s, terms);
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
    T *rh = k->h + r * n, *v = k->slots, *rz = v + 9 * n, *rr = v + 10 * n, *old_part = v + 4 * n, *new_part = v + 5 * n;
    const T *old_h = v + n, *reset = v + 2 * n;
    T *s = k->blocks + r * k->wide;
    memset(rz, 0, 2 * n * sizeof(T));
    if (op->product != LRPFAST_SIGNAL) {
        T *first = v + 11 * n, *second = v + 12 * n;
        for (ptrdiff_t j = 0; j < op->units; j++) {
            first[j] = old_part[j] * old_h[j];
            second[j] = (1 - old_part[j]) * new_part[j];
        }
        NAME(pairs)(op, v + 3 * n, first, second, rh, s, terms);
        NAME(split)(op, old_part, 0, old_h, first, rz, terms);
        NAME(split)(op, old_part, 1, new_part, second, rz, terms);
        old_part = first, new_part = second;
    } else
        NAME(pairs)(op, v + 3 * n, old_part, new_part, rh, s, terms);
    memcpy(rh, old_part, n * sizeof(T));
    if (op->cell == LRPFAST_GRU_BEFORE) {
        NAME(quotients)(op, v, new_part, s, terms);
        return;
    }
    T *x_part = s + (op->product == LRPFAST_SIGNAL ? 0 : 2 * n), *h_part = x_part + n;
    NAME(quotients)(op, v, new_part, x_part, terms);
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
        if (op->product == LRPFAST_DERIVATIVE)
            NAME(derivative_back)(op, &k, rows, step, b);
        else
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
