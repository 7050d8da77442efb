/* What the micro-kernel reads: packed weights, and rows of the input that do not lie as it takes them. */

/* A row's part of x, rounded to TF32 if asked. */
static void NAME(load)(ptrdiff_t n, const void *input, int part, int tf32, void *output)
{
    const T *x = input;
    T *out = output;
    if (part == LRPFAST_X && out != x)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j];
    else if (part == LRPFAST_POSITIVE)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] > 0 ? x[j] : 0;
    else if (part == LRPFAST_NEGATIVE)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] < 0 ? x[j] : 0;
    else if (part == LRPFAST_ABSOLUTE)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] < 0 ? -x[j] : x[j];
    if (tf32)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = NAME(tf32)(out[j]);
}

typedef T NAME(four) __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));

/* A transpose, 16 of depth at a time: lines that are read stay in the cache till they are used up. */
static void NAME(transpose)(ptrdiff_t depth, ptrdiff_t width, const T *w, ptrdiff_t row_step, ptrdiff_t column_step,
                       T *restrict out, ptrdiff_t ld)
{
    for (ptrdiff_t k0 = 0; k0 < depth; k0 += 16) {
        ptrdiff_t end = k0 + 16 < depth ? k0 + 16 : depth, j = 0;
        if (row_step == 1 && end == k0 + 16)
            for (; j + 4 <= width; j += 4) {
                const T *a = w + j * column_step, *b = a + column_step, *c = b + column_step, *d = c + column_step;
                __builtin_prefetch(a + k0 + 64);
                __builtin_prefetch(b + k0 + 64);
                __builtin_prefetch(c + k0 + 64);
                __builtin_prefetch(d + k0 + 64);
                UNROLL
                for (int k = 0; k < 16; k += 4) {
                    NAME(four) p = *(const NAME(four) *)(a + k0 + k), q = *(const NAME(four) *)(b + k0 + k);
                    NAME(four) r = *(const NAME(four) *)(c + k0 + k), s = *(const NAME(four) *)(d + k0 + k);
                    UNROLL
                    for (int l = 0; l < 4; l++)
                        *(NAME(four) *)(out + (k0 + k + l) * ld + j) = (NAME(four)){p[l], q[l], r[l], s[l]};
                }
            }
        for (; j < width; j++)
            for (ptrdiff_t k = k0; k < end; k++)
                out[k * ld + j] = w[k * row_step + j * column_step];
    }
}

/* w, element (k, n) at k * row_step + n * column_step, as panels for `block`, padded with zeros. The sign says
 * which part of w: clamping costs nothing here. */
static void NAME(pack)(ptrdiff_t depth, ptrdiff_t columns, const void *weights, ptrdiff_t row_step,
                       ptrdiff_t column_step, int sign, int tf32, void *restrict packed)
{
    const T *w = weights;
    T *restrict out = packed;
    const int part = LRPFAST_PART_OF(sign);
    for (ptrdiff_t n0 = 0; n0 < columns; n0 += PANEL * VL) {
        ptrdiff_t width = columns - n0 < PANEL * VL ? columns - n0 : PANEL * VL, padded = (width + VL - 1) / VL * VL;
        if (width < padded)
            for (ptrdiff_t k = 0; k < depth; k++)
                for (ptrdiff_t j = width; j < padded; j++)
                    out[k * padded + j] = 0;
        if (column_step == 1)
            for (ptrdiff_t k = 0; k < depth; k++)
                for (ptrdiff_t j = 0; j < width; j++)
                    out[k * padded + j] = w[k * row_step + n0 + j];
        else
            NAME(transpose)(depth, width, w + n0 * column_step, row_step, column_step, out, padded);
        NAME(load)(depth * padded, out, part, tf32, out);
        out += depth * padded;
    }
}

static inline __attribute__((always_inline)) void NAME(copy)(ptrdiff_t n, const T *from, T *to)
{
    if (n < VL) {
        for (ptrdiff_t j = 0; j < n; j++) to[j] = from[j];
        return;
    }
    for (ptrdiff_t j = 0; j + VL < n; j += VL)
        *(NAME(u) *)(to + j) = *(const NAME(u) *)(from + j);
    *(NAME(u) *)(to + n - VL) = *(const NAME(u) *)(from + n - VL); /* may overlap the one before */
}

/* Columns k0 to k0 + depth of the matrix that a convolution multiplies, for some rows: k counts
 * (tap, channel), `sources` holds the row of x of every (row, tap), or −1 outside. */
static void NAME(gather)(ptrdiff_t rows, const int64_t *sources, ptrdiff_t taps, ptrdiff_t channels, ptrdiff_t stride,
                         const void *input, ptrdiff_t k0, ptrdiff_t depth, int part, int tf32, void *gathered,
                         ptrdiff_t ld)
{
    const T *x = input;
    T *out = gathered;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const int64_t *source = sources + i * taps + k0 / channels;
        T *row = out + i * ld;
        ptrdiff_t from = k0 % channels;
        for (ptrdiff_t k = 0; k < depth;) {
            ptrdiff_t n = channels - from;
            int64_t at = *source++;
            if (at >= 0 && stride == channels) /* neighbours in memory are one run */
                while (k + n < depth && *source == source[-1] + 1) {
                    n += channels;
                    source++;
                }
            n = n < depth - k ? n : depth - k;
            if (at >= 0)
                NAME(copy)(n, x + at * stride + from, row + k);
            else
                for (ptrdiff_t j = 0; j < n; j++) row[k + j] = 0;
            k += n;
            from = 0;
        }
        if (part == LRPFAST_POSITIVE)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = row[j] > 0 ? row[j] : 0;
        if (part == LRPFAST_NEGATIVE)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = row[j] < 0 ? row[j] : 0;
        if (part == LRPFAST_ABSOLUTE)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = row[j] < 0 ? -row[j] : row[j];
        if (tf32)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = NAME(tf32)(row[j]);
    }
}
