/* The derivative of recurrent layers: the slots of a step are factors of it, so that the way back only multiplies.
 *
 * Of an LSTM, with s = f_out(c): g σ'(i), c_old σ'(f), i f'(g), s σ'(o), o f_out'(c), f. Of a GRU: (1 - z) f'(n),
 * (h_old - n) σ'(z), z, then σ'(r) times h U_n where it resets after the product, times h_old where before, and r.
 * Of a simple cell f'(z). Primes are derivatives at the pre-activations, computed from these: from the values
 * themselves, 1 - tanh² would keep no digits where a unit is saturated. */

/* out = f'(z), n values, a multiple of VL. */
static void NAME(apply_slope)(const lrpfast_recurrent *op, const lrpfast_gate_function *f, ptrdiff_t n, const T *z, T *out)
{
    if (f->number == LRPFAST_SIGMOID || f->number == LRPFAST_TANH) {
        /* t / (1 + t)² with t = e^-|x|; of tanh 4 times that, of 2 x */
        const T times = f->number == LRPFAST_TANH ? 2 : 1;
        for (ptrdiff_t j = 0; j < n; j += VL) {
            const NAME(v) none = {0}, x = *(const NAME(u) *)(z + j) * times;
            const NAME(v) t = NAME(exponential)(WHERE(x > none, none - x, x)), y = times / (1.0 + t);
            *(NAME(u) *)(out + j) = t * y * y;
        }
    } else
        for (ptrdiff_t j = 0; j < n; j++)
            out[j] = f->number < 0 ? 1 : op->slope(f->number, z[j], f->parameters);
}

/* Forwards: as lstm_step and gru_step, but for the slots; those from 7 on are scratch. */

static void NAME(lstm_factors)(const lrpfast_recurrent *op, T *z, T *restrict h, T *restrict c, T *slots)
{
    const ptrdiff_t n = op->padded;
    T *i = z, *f = z + n, *g = z + 2 * n, *o = z + 3 * n, *s = z + 4 * n, *slopes = slots + 7 * n;
    NAME(apply_slope)(op, &op->gate_function, 2 * n, i, slopes);
    NAME(apply_slope)(op, &op->cell_function, n, g, slopes + 2 * n);
    NAME(apply_slope)(op, &op->gate_function, n, o, slopes + 3 * n);
    NAME(apply_function)(op, &op->gate_function, 2 * n, i, i);
    NAME(apply_function)(op, &op->cell_function, n, g, g);
    NAME(apply_function)(op, &op->gate_function, n, o, o);
    for (ptrdiff_t j = 0; j < n; j++) {
        slots[j] = g[j] * slopes[j];
        slots[n + j] = c[j] * slopes[n + j];
        slots[2 * n + j] = i[j] * slopes[2 * n + j];
        slots[5 * n + j] = f[j];
        const T old_part = f[j] * c[j], new_part = i[j] * g[j];
        c[j] = old_part + new_part;
    }
    NAME(apply_slope)(op, &op->output_function, n, c, slopes);
    NAME(apply_function)(op, &op->output_function, n, c, s);
    for (ptrdiff_t j = 0; j < n; j++) {
        slots[3 * n + j] = s[j] * slopes[3 * n + j];
        slots[4 * n + j] = o[j] * slopes[j];
        h[j] = o[j] * s[j];
    }
}

static void NAME(gru_factors)(const lrpfast_recurrent *op, T *z, T *restrict h, T *slots)
{
    const ptrdiff_t n = op->padded;
    const int after = op->cell == LRPFAST_GRU_AFTER;
    T *r = z + n, *candidate = z + 2 * n, *inner = z + 3 * n;
    const T *slopes = slots + 7 * n; /* of z and r, by gru_gates; then of n */
    for (ptrdiff_t j = 0; after && j < n; j++)
        candidate[j] = candidate[j] + r[j] * inner[j];
    NAME(apply_slope)(op, &op->cell_function, n, candidate, slots + 9 * n);
    NAME(apply_function)(op, &op->cell_function, n, candidate, candidate);
    for (ptrdiff_t j = 0; j < n; j++) {
        slots[j] = (1 - z[j]) * slopes[2 * n + j];
        slots[n + j] = (h[j] - candidate[j]) * slopes[j];
        slots[2 * n + j] = z[j];
        slots[3 * n + j] = (after ? inner[j] : h[j]) * slopes[n + j];
        slots[4 * n + j] = r[j];
        const T old_part = z[j] * h[j], new_part = (1 - z[j]) * candidate[j];
        h[j] = old_part + new_part;
    }
}

/* Backwards: derivatives by the new states in k->h and k->c become those by pre-activations in the row's blocks, and by
 * the old states, but for what the products with the weights add. `more` has what a second product waits for. */
static void NAME(row_derivative)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t r)
{
    const ptrdiff_t n = op->padded;
    T *h = k->h + r * n, *c = k->c + r * n, *s = k->blocks + r * k->wide, *later = k->more + r * 2 * n;
    const T *v = k->slots;
    for (ptrdiff_t j = 0; j < op->units; j++) {
        const T of_h = h[j], of_c = op->cell == LRPFAST_LSTM ? c[j] + of_h * v[4 * n + j] : 0;
        switch (op->cell) {
        case LRPFAST_LSTM:
            s[j] = of_c * v[j], s[n + j] = of_c * v[n + j], s[2 * n + j] = of_c * v[2 * n + j];
            s[3 * n + j] = of_h * v[3 * n + j];
            c[j] = of_c * v[5 * n + j], h[j] = 0;
            break;
        case LRPFAST_GRU_AFTER:
            s[2 * n + j] = of_h * v[j], s[n + j] = s[2 * n + j] * v[3 * n + j], s[3 * n + j] = s[2 * n + j] * v[4 * n + j];
            s[j] = of_h * v[n + j];
            h[j] = of_h * v[2 * n + j];
            break;
        case LRPFAST_GRU_BEFORE:
            s[j] = of_h * v[j], later[j] = of_h * v[n + j];
            h[j] = of_h * v[2 * n + j];
            break;
        default:
            s[j] = of_h * v[j], h[j] = 0;
        }
    }
}

/* What a product with the weights hands on: to x, added, and to h or to r h. */
static void NAME(add_derivatives)(const lrpfast_recurrent *op, const NAME(cells) *k, ptrdiff_t r, T *restrict to_h)
{
    const T *sums = k->sums + r * k->width;
    T *to_x = k->resets + r * k->width;
    for (ptrdiff_t j = 0; j < op->features; j++)
        to_x[j] += sums[j];
    for (ptrdiff_t j = 0; j < op->units; j++)
        to_h[j] += sums[op->features + j];
}

/* Everything between the derivatives by all rows' states after a step and by those before it. Rows whose step does not
 * count keep theirs. */
static void NAME(derivative_back)(const lrpfast_recurrent *op, NAME(cells) *k, ptrdiff_t rows, ptrdiff_t step,
                                  const lrpfast_recurrent_backward *b)
{
    const ptrdiff_t n = op->padded, columns = op->features + op->units;
    const int before = op->cell == LRPFAST_GRU_BEFORE;
    for (ptrdiff_t r = 0; r < rows; r++) {
        memset(k->resets + r * k->width, 0, k->width * sizeof(T)); /* of x, and of r h */
        memset(k->blocks + r * k->wide, 0, k->wide * sizeof(T));
        if (!k->counts[r])
            continue;
        NAME(fetch_slots)(op, k, r, step, b->state);
        NAME(row_derivative)(op, k, r);
    }
    NAME(product)(rows, (before ? 1 : op->blocks) * n, k->block_rows, before ? op->candidate_back : op->back, columns,
                  k->sums, k->width);
    for (ptrdiff_t r = 0; r < rows; r++)
        if (k->counts[r])
            NAME(add_derivatives)(op, k, r, before ? k->resets + r * k->width + op->features : k->h + r * n);
    if (!before)
        return;
    for (ptrdiff_t r = 0; r < rows; r++) {
        T *s = k->blocks + r * k->wide, *h = k->h + r * n;
        const T *q = k->resets + r * k->width + op->features, *v = k->slots;
        memset(s, 0, n * sizeof(T));
        if (!k->counts[r])
            continue;
        NAME(fetch_slots)(op, k, r, step, b->state);
        for (ptrdiff_t j = 0; j < op->units; j++) {
            s[j] = k->more[r * 2 * n + j], s[n + j] = q[j] * v[3 * n + j];
            h[j] += q[j] * v[4 * n + j];
        }
    }
    NAME(product)(rows, 2 * n, k->block_rows, op->back, columns, k->sums, k->width);
    for (ptrdiff_t r = 0; r < rows; r++)
        if (k->counts[r])
            NAME(add_derivatives)(op, k, r, k->h + r * n);
}
