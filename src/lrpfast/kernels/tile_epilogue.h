/* The epilogue: what finished sums become, bias and ReLU forwards; times x, perhaps divided, backwards. */

/* Row i of a plane of sums goes to row at[i] of the buffers; what has its own values for each row of a sample
 * is at in_sample[i]. The last vector overlaps the one before: no short loop. */
#define FOR_VECTORS(n)                                                                     \
    for (ptrdiff_t j = 0, left = (n); left > 0; j += VL, left -= VL)                       \
        if (left < VL && (n) >= VL && (j -= VL - left, left = VL, 0)) {                    \
        } else

static int NAME(epilogue_forward_any)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
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
                for (int a = 0; a < f->sums; a++) {
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
                if (output->zero != 0) /* NaN stays as it is */
                    value = WHERE(value != (NAME(v)){0}, value, (T)output->zero - (NAME(v)){0});
                NAME(store_vector)(out + j, value, left);
            }
        }
    return NAME(is_zero)(check);
}

/* The accumulator that an output is, if it is one by itself; else -1. */
static inline int NAME(only_sum)(const lrpfast_epilogue *f, const lrpfast_output *output)
{
    int only = -1;
    for (int a = 0; a < f->sums; a++)
        if (output->coefficients[a] != 0) {
            if (only >= 0 || output->coefficients[a] != 1)
                return -1;
            only = a;
        }
    return only;
}

/* The same for one plane, of at least a vector of columns: short loops, so that the processor looks far ahead. */
static inline __attribute__((always_inline)) int NAME(epilogue_forward_plain)(
    const int biased, const int relu, const int nonzero, const lrpfast_output *output, T *out, ptrdiff_t rows,
    const ptrdiff_t *at, const ptrdiff_t *in_sample, ptrdiff_t n, const T *sums, ptrdiff_t ld, const T *constant)
{
    const NAME(v) zero = {0};
    NAME(v) check = zero;
    for (ptrdiff_t i = 0; i < rows; i++, sums += ld) {
        const T *own = output->per_row ? constant + in_sample[i] : constant;
        T *to = out + at[i];
        for (ptrdiff_t next = 0; next < n; next += VL) {
            ptrdiff_t j = next + VL <= n ? next : n - VL;
            NAME(v) value = *(const NAME(u) *)(sums + j);
            if (biased)
                value = value + *(const NAME(u) *)(own + j);
            check = FMA(value, zero, check);
            if (relu)
                value = WHERE(value > zero, value, zero);
            if (nonzero)
                value = WHERE(value != zero, value, (T)output->zero - zero);
            *(NAME(u) *)(to + j) = value;
        }
    }
    return NAME(is_zero)(check);
}

static int NAME(epilogue_forward)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at, const ptrdiff_t *in_sample,
    ptrdiff_t n0, ptrdiff_t n, const void *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    int plain = n >= VL, fine = 1;
    for (int o = 0; o < f->outputs; o++)
        plain &= NAME(only_sum)(f, &f->output[o]) >= 0 && !(f->output[o].relu && f->output[o].zero != 0);
    if (!plain)
        return NAME(epilogue_forward_any)(f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
    for (int o = 0; o < f->outputs; o++) { /* nearly always */
        const lrpfast_output *output = &f->output[o];
        const T *constant = output->constant ? (const T *)output->constant + n0 : 0;
        T *out = (T *)buffers[o] + n0;
        const T *sum = (const T *)sums + NAME(only_sum)(f, output) * plane;
#define FORWARD(biased, relu, nonzero)                                                                             \
    fine &= NAME(epilogue_forward_plain)(biased, relu, nonzero, output, out, rows, at, in_sample, n, sum, ld, constant)
        if (constant && output->relu)
            FORWARD(1, 1, 0);
        else if (constant && output->zero != 0)
            FORWARD(1, 0, 1);
        else if (constant)
            FORWARD(1, 0, 0);
        else if (output->relu)
            FORWARD(0, 1, 0);
        else if (output->zero != 0)
            FORWARD(0, 0, 1);
        else
            FORWARD(0, 0, 0);
#undef FORWARD
    }
    return fine;
}

/* out = Σ_shares c · part(x) ⊙ sum, then perhaps out / (z + stabilizer); buffers are x, out, z and mask_z.
 * A bound is one number (step 0) or one per element (step 1). Under TF32 x − bound is taken after multiplying, as the
 * reference does. */
static int NAME(epilogue_backward_any)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows,
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
            for (int h = 0; h < f->shares; h++) {
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
            if (f->divides)
                total = NAME(divide_stabilized)(total, NAME(load_vector)(z + j, left), (T)f->stabilizer_value,
                                                f->stabilizer);
            if (f->mask) {
                NAME(v) m = NAME(load_vector)(mask_z + j, left);
                total = f->mask > 0 ? WHERE(m > zero, total, zero) : WHERE(m < zero, total, zero);
            }
            check = FMA(total, zero, check);
            NAME(store_vector)(to + j, total, left);
        }
    }
    return NAME(is_zero)(check);
}

/* The same for one share of x itself, of at least a vector of columns; `stabilizer` is −1 where nothing is divided. */
static inline __attribute__((always_inline)) int NAME(epilogue_backward_plain)(
    const int stabilizer, const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
    const ptrdiff_t *in_sample, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t ld)
{
    const NAME(v) zero = {0};
    const T *x = (const T *)buffers[0] + n0, *z = (const T *)buffers[2] + n0;
    const T value = (T)f->stabilizer_value;
    T *out = (T *)buffers[1] + n0;
    NAME(v) check = zero;
    for (ptrdiff_t i = 0; i < rows; i++, sums += ld) {
        const ptrdiff_t z_at = f->z_per_row ? in_sample[i] : at[i];
        for (ptrdiff_t next = 0; next < n; next += VL) {
            ptrdiff_t j = next + VL <= n ? next : n - VL;
            NAME(v) total = *(const NAME(u) *)(x + at[i] + j) * *(const NAME(u) *)(sums + j);
            if (stabilizer >= 0)
                total = NAME(divide_stabilized)(total, *(const NAME(u) *)(z + z_at + j), value, stabilizer);
            check = FMA(total, zero, check);
            *(NAME(u) *)(out + at[i] + j) = total;
        }
    }
    return NAME(is_zero)(check);
}

static int NAME(epilogue_backward)(
    const lrpfast_epilogue *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at, const ptrdiff_t *in_sample,
    ptrdiff_t n0, ptrdiff_t n, const void *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    const lrpfast_share *share = &f->share[0];
    if (f->shares != 1 || share->part != LRPFAST_X || share->coefficient != 1 || f->mask || n < VL)
        return NAME(epilogue_backward_any)(f, buffers, rows, at, in_sample, n0, n, sums, plane, ld);
    sums = (const T *)sums + share->accumulator * plane;
#define BACKWARD(stabilizer)                                                                                   \
    return NAME(epilogue_backward_plain)(stabilizer, f, buffers, rows, at, in_sample, n0, n, sums, ld)
    if (!f->divides) /* nearly always one of these */
        BACKWARD(-1);
    if (f->stabilizer == LRPFAST_SIGN)
        BACKWARD(LRPFAST_SIGN);
    if (f->stabilizer == LRPFAST_UNSIGNED)
        BACKWARD(LRPFAST_UNSIGNED);
    BACKWARD(LRPFAST_ZERO);
#undef BACKWARD
}
