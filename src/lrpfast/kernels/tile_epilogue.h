/* The epilogue: what finished sums become, bias and ReLU forwards; times x, perhaps divided, backwards. */

/* Row i of a plane of sums goes to row at[i] of the buffers; what has its own values for each row of a sample
 * is at in_sample[i]. The last vector overlaps the one before: no short loop. */
#define FOR_VECTORS(n)                                                                     \
    for (ptrdiff_t j = 0, left = (n); left > 0; j += VL, left -= VL)                       \
        if (left < VL && (n) >= VL && (j -= VL - left, left = VL, 0)) {                    \
        } else

static inline __attribute__((always_inline)) int NAME(epilogue_forward_any)(
    const int plain, const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
    const ptrdiff_t *in_sample, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    NAME(v) check = {0};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (int o = 0; o < f->outputs; o++) {
            const lrpfast_output *output = &f->output[o];
            const T *acc = sums + i * ld;
            T *out = (T *)buffers[o] + at[i] + n0;
            const T *constant = (const T *)output->constant;
            if (constant)
                constant += n0 + (output->per_row ? in_sample[i] : 0);
            FOR_VECTORS(n) {
                NAME(v) value = {0};
                int first = 1;
                if (plain)
                    value = NAME(load_vector)(acc + j, left);
                for (int a = 0; !plain && a < f->sums; a++) {
                    T c = (T)output->coefficients[a];
                    if (c == 0)
                        continue;
                    NAME(v) sum = NAME(load_vector)(acc + a * plane + j, left);
                    if (c != 1)
                        sum = c * sum;
                    value = first ? sum : value + sum;
                    first = 0;
                }
                if (constant)
                    value = value + NAME(load_vector)(constant + j, left);
                check = FMA(value, (NAME(v)){0}, check); /* before a ReLU can hide it */
                if (output->relu)
                    value = WHERE(value > (NAME(v)){0}, value, (NAME(v)){0});
                NAME(store_vector)(out + j, value, left);
            }
        }
    return NAME(is_zero)(check);
}

static int NAME(epilogue_forward)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at, const ptrdiff_t *in_sample,
    ptrdiff_t n0, ptrdiff_t n, const void *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    int plain = f->sums == 1;
    for (int o = 0; o < f->outputs; o++)
        plain &= f->output[o].coefficients[0] == 1;
    if (plain) /* nearly always */
        return NAME(epilogue_forward_any)(1, f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
    return NAME(epilogue_forward_any)(0, f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
}

/* out = Σ_shares c · part(x) ⊙ sum, then perhaps out / (z + stabilizer); buffers are x, out, z and mask_z.
 * A bound is one number (step 0) or one per element (step 1). Under TF32 x − bound is taken after multiplying, as the
 * reference does. */
static inline __attribute__((always_inline)) int NAME(epilogue_backward_any)(
    const int plain, const int divides, const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows,
    const ptrdiff_t *at, const ptrdiff_t *in_sample, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane,
    ptrdiff_t ld)
{
    NAME(v) check = {0};
    const NAME(v) zero = {0};
    for (ptrdiff_t i = 0; i < rows; i++) {
        const T *acc = sums + i * ld;
        const T *from = (const T *)buffers[0] + at[i] + n0;
        T *to = (T *)buffers[1] + at[i] + n0;
        const T *z = (const T *)buffers[2] + (f->z_per_row ? in_sample[i] : at[i]) + n0;
        const T *mask_z = (const T *)buffers[3] + at[i] + n0;
        FOR_VECTORS(n) {
            NAME(v) x = NAME(load_vector)(from + j, left), total = zero;
            if (plain)
                total = x * NAME(load_vector)(acc + f->share[0].accumulator * plane + j, left);
            for (int h = 0; !plain && h < f->shares; h++) {
                const lrpfast_share *share = &f->share[h];
                NAME(v) value = NAME(load_vector)(acc + share->accumulator * plane + j, left);
                T c = (T)share->coefficient;
                if (share->part == LRPFAST_X)
                    value = x * value;
                else if (share->part == LRPFAST_POSITIVE)
                    value = WHERE(x > zero, x, zero) * value;
                else if (share->part == LRPFAST_NEGATIVE)
                    value = WHERE(x < zero, x, zero) * value;
                else if (share->part == LRPFAST_ABSOLUTE)
                    value = WHERE(x < zero, -x, x) * value;
                else if (share->part == LRPFAST_X_MINUS_BOUND) {
                    const T *bounds = (const T *)share->bound;
                    NAME(v) bound = bounds[0] - zero;
                    if (share->step)
                        bound = NAME(load_vector)(bounds + in_sample[i] + n0 + j, left);
                    value = f->tf32 ? x * value - bound * value : (x - bound) * value;
                }
                if (c != 1)
                    value = c * value;
                total = h ? total + value : value;
            }
            if (divides)
                total = NAME(divide_stabilized)(total, NAME(load_vector)(z + j, left), (T)f->stabilizer_value,
                                                f->stabilizer);
            if (!plain && f->mask) {
                NAME(v) m = NAME(load_vector)(mask_z + j, left);
                total = f->mask > 0 ? WHERE(m > zero, total, zero) : WHERE(m < zero, total, zero);
            }
            check = FMA(total, zero, check);
            NAME(store_vector)(to + j, total, left);
        }
    }
    return NAME(is_zero)(check);
}

static int NAME(epilogue_backward)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at, const ptrdiff_t *in_sample,
    ptrdiff_t n0, ptrdiff_t n, const void *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    const lrpfast_share *share = &f->share[0];
    if (f->shares == 1 && share->part == LRPFAST_X && share->coefficient == 1 && !f->mask) { /* nearly always */
        if (f->divides)
            return NAME(epilogue_backward_any)(1, 1, f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
        return NAME(epilogue_backward_any)(1, 0, f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
    }
    return NAME(epilogue_backward_any)(0, f->divides, f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
}
