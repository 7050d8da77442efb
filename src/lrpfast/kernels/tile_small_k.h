/* A whole redistribution of small k and many columns, epilogue included: memory is its limit. */

/* Sums stay in registers, x is read and out written once, and both are fetched ahead.
 * LRPFAST_SUM: out = sum; LRPFAST_TIMES_X: out = x ⊙ sum; LRPFAST_TWO_BOUNDS: out = (x − p[0]) ⊙ sum +
 * (x − p[1]) ⊙ second. LRPFAST_TWO_PARTS: out = p[0] · x⁺ ⊙ sum + p[1] · x⁻ ⊙ second; LRPFAST_SPLIT_PARTS the same,
 * of w⁺ and w⁻, which are formed in registers; LRPFAST_FOUR_PARTS adds p[2] · x⁺ ⊙ third + p[3] · x⁻ ⊙ fourth, of
 * another source with w⁻ and w⁺. Term for term as `block` and `epilogue_backward` compute them. Returns whether out
 * is finite. */
#define AHEAD (2048 / (ptrdiff_t)sizeof(T))
/* Columns of a pass, whose weights stay in the nearest cache while all rows meet them. */
#define SMALL_K_COLUMNS (16 * PANEL * VL)

typedef struct {
    ptrdiff_t K, columns;
    T p[4];
} NAME(small_k_sizes);

/* What becomes of a value's sums. */
static inline __attribute__((always_inline)) NAME(v) NAME(small_k_share)(
    const int form, const T *p, NAME(v) x, NAME(v) sum, NAME(v) second, NAME(v) third, NAME(v) fourth)
{
    const NAME(v) zero = {0}, positive = MAX(x, zero), negative = MIN(x, zero);
    if (form == LRPFAST_SUM)
        return sum;
    if (form == LRPFAST_TIMES_X)
        return x * sum;
    if (form == LRPFAST_TWO_BOUNDS)
        return (x - p[0]) * sum + (x - p[1]) * second;
    NAME(v) result = p[0] * (positive * sum) + p[1] * (negative * second);
    if (form == LRPFAST_FOUR_PARTS) {
        result = result + p[2] * (positive * third);
        result = result + p[3] * (negative * fourth);
    }
    return result;
}

static inline __attribute__((always_inline)) void NAME(small_k_tile)(
    const int MR, const int NV, const int form, const NAME(small_k_sizes) *s, const T *restrict A,
    const T *restrict A2, const T *restrict B, const T *restrict B2, ptrdiff_t step, ptrdiff_t left,
    const T *restrict x, T *restrict out, NAME(v) *check)
{
    const int sums = form == LRPFAST_FOUR_PARTS ? 4 : form >= LRPFAST_TWO_BOUNDS ? 2 : 1;
    const NAME(v) zero = {0};
    NAME(v) c[4][6][2];
    UNROLL
    for (int a = 0; a < sums; a++)
        UNROLL
        for (int i = 0; i < MR; i++)
            UNROLL
            for (int j = 0; j < NV; j++)
                c[a][i][j] = zero;
    for (ptrdiff_t k = 0; k < s->K; k++) {
        NAME(v) b[2], b2[2];
        UNROLL
        for (int j = 0; j < NV; j++) {
            b[j] = *(const NAME(u) *)(B + k * step + j * VL);
            if (form >= LRPFAST_SPLIT_PARTS) {
                b2[j] = MIN(b[j], zero);
                b[j] = MAX(b[j], zero);
            } else if (sums > 1)
                b2[j] = *(const NAME(u) *)(B2 + k * step + j * VL);
        }
        UNROLL
        for (int i = 0; i < MR; i++) {
            NAME(v) a = A[i * s->K + k] - zero, a2 = zero;
            if (sums == 4)
                a2 = A2[i * s->K + k] - zero;
            UNROLL
            for (int j = 0; j < NV; j++) {
                c[0][i][j] = FMA(a, b[j], c[0][i][j]);
                if (sums > 1)
                    c[1][i][j] = FMA(a, b2[j], c[1][i][j]);
                if (sums == 4) {
                    c[2][i][j] = FMA(a2, b2[j], c[2][i][j]);
                    c[3][i][j] = FMA(a2, b[j], c[3][i][j]);
                }
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) {
            const T *from = x + i * s->columns + j * VL;
            T *to = out + i * s->columns + j * VL;
            __builtin_prefetch(from + AHEAD, 0, 2);
            __builtin_prefetch(to + AHEAD, 1, 2);
            NAME(v) value = form == LRPFAST_SUM ? zero : NAME(load_vector)(from, left - j * VL);
            NAME(v) result = NAME(small_k_share)(form, s->p, value, c[0][i][j], c[1][i][j], c[2][i][j], c[3][i][j]);
            *check = FMA(result, zero, *check);
            NAME(store_vector)(to, result, left - j * VL);
        }
}

#if WIDE
#define TALL(form) ((form) == LRPFAST_FOUR_PARTS ? 3 : 6)
#else
#define TALL(form) ((form) == LRPFAST_FOUR_PARTS ? 1 : 2)
#endif

static inline __attribute__((always_inline)) int NAME(small_k_any)(
    const int form, const NAME(small_k_sizes) *s, ptrdiff_t rows, const T *A, const T *A2, const T *B,
    const T *B2, const T *x, T *out)
{
    NAME(v) check = {0};
    for (ptrdiff_t n0 = 0; n0 < s->columns; n0 += SMALL_K_COLUMNS) {
        const ptrdiff_t end = s->columns - n0 < SMALL_K_COLUMNS ? s->columns : n0 + SMALL_K_COLUMNS;
        for (ptrdiff_t i = 0, tall; i < rows; i += tall) {
            tall = rows - i < TALL(form) ? 1 : TALL(form);
            const T *a = A + i * s->K, *a2 = A2 + i * s->K;
            for (ptrdiff_t n = n0; n < end; n += PANEL * VL) {
                const ptrdiff_t width = end - n < PANEL * VL ? (end - n + VL - 1) / VL * VL : PANEL * VL;
                for (ptrdiff_t j = 0; j < width; j += 2 * VL) {
                    const T *b = B + n * s->K + j, *b2 = B2 + n * s->K + j, *from = x + i * s->columns + n + j;
                    T *to = out + i * s->columns + n + j;
                    const ptrdiff_t left = s->columns - n - j;
                    if (width - j < 2 * VL)
                        for (ptrdiff_t r = 0; r < tall; r++)
                            NAME(small_k_tile)(1, 1, form, s, a + r * s->K, a2 + r * s->K, b, b2, width, left,
                                               from + r * s->columns, to + r * s->columns, &check);
                    else if (tall == 1)
                        NAME(small_k_tile)(1, 2, form, s, a, a2, b, b2, width, left, from, to, &check);
                    else
                        NAME(small_k_tile)(TALL(form), 2, form, s, a, a2, b, b2, width, left, from, to, &check);
                }
            }
        }
    }
    return NAME(is_zero)(check);
}

static int NAME(small_k)(int form, ptrdiff_t rows, ptrdiff_t K, const void *source, const void *source2,
                         const void *packed, const void *packed2, ptrdiff_t columns, const void *input,
                         const double *p, void *output)
{
    const NAME(small_k_sizes) s = {K, columns, {(T)p[0], (T)p[1], (T)p[2], (T)p[3]}};
    const T *A = source, *A2 = source2, *B = packed, *B2 = packed2, *x = input;
    T *out = output;
    switch (form) {
    case LRPFAST_SUM: return NAME(small_k_any)(LRPFAST_SUM, &s, rows, A, A2, B, B2, x, out);
    case LRPFAST_TIMES_X: return NAME(small_k_any)(LRPFAST_TIMES_X, &s, rows, A, A2, B, B2, x, out);
    case LRPFAST_TWO_BOUNDS: return NAME(small_k_any)(LRPFAST_TWO_BOUNDS, &s, rows, A, A2, B, B2, x, out);
    case LRPFAST_TWO_PARTS: return NAME(small_k_any)(LRPFAST_TWO_PARTS, &s, rows, A, A2, B, B2, x, out);
    case LRPFAST_SPLIT_PARTS: return NAME(small_k_any)(LRPFAST_SPLIT_PARTS, &s, rows, A, A2, B, B2, x, out);
    default: return NAME(small_k_any)(LRPFAST_FOUR_PARTS, &s, rows, A, A2, B, B2, x, out);
    }
}
#undef TALL
#undef AHEAD
#undef SMALL_K_COLUMNS
