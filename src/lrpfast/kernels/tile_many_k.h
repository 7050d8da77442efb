/* Sums over many k for few columns, where memory is the limit: vectors hold neighbouring k of one row. */

/* C[row, column] of one or two accumulators. The weights are packed as for `small_k`, transposed: panels of PANEL
 * vectors of k, in each of them one column after the other. So the input is read where it is, its parts and those of
 * the weights are formed in registers, and one packed matrix serves all of them, and `small_k` on the way back.
 * LRPFAST_MANY_X, _MANY_POSITIVE, _MANY_NEGATIVE, _MANY_ABSOLUTE: x · w, x⁺ · w, x⁻ · w, |x| · w, in one accumulator.
 * LRPFAST_MANY_BOTH: x · w, and x⁺ · w⁺ + x⁻ · w⁻ in a second.
 * LRPFAST_MANY_SIGNS: x⁺ · w⁺ + x⁻ · w⁻, and x⁺ · w⁻ + x⁻ · w⁺ in a second.
 * LRPFAST_MANY_SIZES: x · w, and |x| · |w| in a second.
 * A lane sums a block of k in order; blocks are added in order, and the lanes last. */
#define MANY_ACCUMULATORS(form) ((form) >= LRPFAST_MANY_BOTH ? 2 : 1)

/* One vector of k of MR rows, times those of NC columns. */
static inline __attribute__((always_inline)) void NAME(many_k_step)(
    const int form, const int MR, const int NC, const NAME(v) a[4], const T *restrict b, ptrdiff_t width,
    NAME(v) c[4][4], NAME(v) d[4][4])
{
    const NAME(v) zero = {0};
    UNROLL
    for (int n = 0; n < NC; n++) {
        NAME(v) w = *(const NAME(u) *)(b + n * width), wp = MAX(w, zero), wn = MIN(w, zero);
        UNROLL
        for (int i = 0; i < MR; i++) {
            NAME(v) positive = MAX(a[i], zero), negative = MIN(a[i], zero);
            if (form == LRPFAST_MANY_X || form == LRPFAST_MANY_BOTH || form == LRPFAST_MANY_SIZES)
                c[i][n] = FMA(a[i], w, c[i][n]);
            if (form == LRPFAST_MANY_POSITIVE)
                c[i][n] = FMA(positive, w, c[i][n]);
            if (form == LRPFAST_MANY_NEGATIVE)
                c[i][n] = FMA(negative, w, c[i][n]);
            if (form == LRPFAST_MANY_ABSOLUTE)
                c[i][n] = FMA(MAX(a[i], -a[i]), w, c[i][n]);
            if (form == LRPFAST_MANY_SIZES)
                d[i][n] = FMA(MAX(a[i], -a[i]), MAX(w, -w), d[i][n]);
            if (form == LRPFAST_MANY_BOTH)
                d[i][n] = FMA(negative, wn, FMA(positive, wp, d[i][n]));
            if (form == LRPFAST_MANY_SIGNS) {
                c[i][n] = FMA(negative, wn, FMA(positive, wp, c[i][n]));
                d[i][n] = FMA(negative, wp, FMA(positive, wn, d[i][n]));
            }
        }
    }
}

static inline __attribute__((always_inline)) void NAME(many_k_tile)(
    const int form, const int MR, const int NC, ptrdiff_t k, ptrdiff_t end, ptrdiff_t K, ptrdiff_t columns,
    ptrdiff_t n0, const T *restrict x, const T *restrict B, NAME(v) *restrict lanes, ptrdiff_t row_step)
{
    const ptrdiff_t panel = PANEL * VL, ahead = 2 * LRPFAST_DEPTH;
    NAME(v) a[4], c[4][4], d[4][4];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NC; n++)
            c[i][n] = d[i][n] = (NAME(v)){0};
    for (; k + panel <= end; k += panel) {
        const T *b = B + columns * k + n0 * panel;
        for (ptrdiff_t j = 0; j < panel; j += VL) {
            UNROLL
            for (int i = 0; i < MR; i++) {
                const T *from = x + i * K + k + j;
                a[i] = *(const NAME(u) *)from;
                if (n0 == 0)
                    __builtin_prefetch(from + ahead, 0, 2);
            }
            NAME(many_k_step)(form, MR, NC, a, b + j, panel, c, d);
        }
    }
    if (k < end) { /* the last panel is as wide as its vectors, the last of which may be longer than the row */
        const ptrdiff_t width = (end - k + VL - 1) / VL * VL;
        const T *b = B + columns * k + n0 * width;
        for (ptrdiff_t j = 0; j < width; j += VL) {
            UNROLL
            for (int i = 0; i < MR; i++)
                a[i] = NAME(load_vector)(x + i * K + k + j, end - k - j);
            NAME(many_k_step)(form, MR, NC, a, b + j, width, c, d);
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int n = 0; n < NC; n++) {
            NAME(v) *to = lanes + i * row_step + (n0 + n) * MANY_ACCUMULATORS(form);
            to[0] = to[0] + c[i][n];
            if (MANY_ACCUMULATORS(form) == 2)
                to[1] = to[1] + d[i][n];
        }
}

#if WIDE
#define TALL(form) (MANY_ACCUMULATORS(form) == 1 ? 4 : 2)
#else
#define TALL(form) (MANY_ACCUMULATORS(form) == 1 ? 2 : 1)
#endif

static inline __attribute__((always_inline)) void NAME(many_k_rows)(
    const int form, const int MR, ptrdiff_t k0, ptrdiff_t k1, ptrdiff_t K, ptrdiff_t columns, const T *x, const T *B,
    NAME(v) *lanes)
{
    const ptrdiff_t step = columns * MANY_ACCUMULATORS(form);
    ptrdiff_t n = 0;
    for (; n + 4 <= columns; n += 4)
        NAME(many_k_tile)(form, MR, 4, k0, k1, K, columns, n, x, B, lanes, step);
    for (; n < columns; n++)
        NAME(many_k_tile)(form, MR, 1, k0, k1, K, columns, n, x, B, lanes, step);
}

static inline __attribute__((always_inline)) void NAME(many_k_any)(
    const int form, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t columns, const T *x, const T *B, NAME(v) *lanes)
{
    const ptrdiff_t step = columns * MANY_ACCUMULATORS(form);
    for (ptrdiff_t i = 0; i < rows * step; i++)
        lanes[i] = (NAME(v)){0};
    for (ptrdiff_t k0 = 0; k0 < K; k0 += 2 * LRPFAST_DEPTH) {
        const ptrdiff_t k1 = K - k0 < 2 * LRPFAST_DEPTH ? K : k0 + 2 * LRPFAST_DEPTH;
        ptrdiff_t i = 0;
        for (; i + TALL(form) <= rows; i += TALL(form))
            NAME(many_k_rows)(form, TALL(form), k0, k1, K, columns, x + i * K, B, lanes + i * step);
        for (; i < rows; i++)
            NAME(many_k_rows)(form, 1, k0, k1, K, columns, x + i * K, B, lanes + i * step);
    }
}

/* One accumulator's sums of its lanes, to the sums of a piece. */
static void NAME(add_lanes)(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t step, const NAME(v) *lanes, T *sums,
                            ptrdiff_t ld, int accumulate)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t n = 0; n < columns; n++) {
            NAME(v) total = lanes[(i * columns + n) * step];
            UNROLL
            for (ptrdiff_t half = VL / 2; half; half /= 2)
                UNROLL
                for (ptrdiff_t j = 0; j < half; j++)
                    total[j] = total[j] + total[j + half];
            sums[i * ld + n] = accumulate ? sums[i * ld + n] + total[0] : total[0];
        }
}

/* `lanes` has room for rows * columns * accumulators vectors; `first` and `second` are the accumulators. */
static void NAME(many_k)(int form, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t columns, const void *input,
                         const void *packed, void *scratch, void *first, int add_first, void *second, int add_second,
                         ptrdiff_t ld)
{
    const T *x = input, *B = packed;
    NAME(v) *lanes = scratch;
    switch (form) {
    case LRPFAST_MANY_X: NAME(many_k_any)(LRPFAST_MANY_X, rows, K, columns, x, B, lanes); break;
    case LRPFAST_MANY_POSITIVE: NAME(many_k_any)(LRPFAST_MANY_POSITIVE, rows, K, columns, x, B, lanes); break;
    case LRPFAST_MANY_NEGATIVE: NAME(many_k_any)(LRPFAST_MANY_NEGATIVE, rows, K, columns, x, B, lanes); break;
    case LRPFAST_MANY_ABSOLUTE: NAME(many_k_any)(LRPFAST_MANY_ABSOLUTE, rows, K, columns, x, B, lanes); break;
    case LRPFAST_MANY_SIZES: NAME(many_k_any)(LRPFAST_MANY_SIZES, rows, K, columns, x, B, lanes); break;
    case LRPFAST_MANY_BOTH: NAME(many_k_any)(LRPFAST_MANY_BOTH, rows, K, columns, x, B, lanes); break;
    default: NAME(many_k_any)(LRPFAST_MANY_SIGNS, rows, K, columns, x, B, lanes);
    }
    NAME(add_lanes)(rows, columns, MANY_ACCUMULATORS(form), lanes, first, ld, add_first);
    if (MANY_ACCUMULATORS(form) == 2)
        NAME(add_lanes)(rows, columns, 2, lanes + 1, second, ld, add_second);
}
#undef TALL
