/* A whole redistribution of small k, epilogue included: memory is its limit. */

/* A whole redistribution with few k and many columns, where memory is the limit: sums
 * stay in registers, x is read and out written once, and both are fetched ahead.
 * LRPFAST_SUM: out = sum; LRPFAST_TIMES_X: out = x ⊙ sum; LRPFAST_TWO_BOUNDS: out = (x − low) ⊙ sum +
 * (x − high) ⊙ second, term for term as `block` and `epilogue_backward` compute them. Returns whether out is finite. */
#define AHEAD (2048 / (ptrdiff_t)sizeof(T))

static inline __attribute__((always_inline)) void NAME(small_k_tile)(
    const int MR, const int NV, const int form, ptrdiff_t K, const T *restrict A, ptrdiff_t lda,
    const T *restrict B, const T *restrict B2, ptrdiff_t step, ptrdiff_t columns,
    const T *restrict x, T low, T high, T *restrict out, ptrdiff_t ld, NAME(v) *check)
{
    NAME(v) c[6][2], d[6][2];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++)
            c[i][j] = d[i][j] = (NAME(v)){0};
    for (ptrdiff_t k = 0; k < K; k++) {
        NAME(v) b[2], b2[2];
        UNROLL
        for (int j = 0; j < NV; j++) {
            b[j] = *(const NAME(u) *)(B + k * step + j * VL);
            if (form == LRPFAST_TWO_BOUNDS)
                b2[j] = *(const NAME(u) *)(B2 + k * step + j * VL);
        }
        UNROLL
        for (int i = 0; i < MR; i++) {
            NAME(v) a = A[i * lda + k] - (NAME(v)){0};
            UNROLL
            for (int j = 0; j < NV; j++) {
                c[i][j] = FMA(a, b[j], c[i][j]);
                if (form == LRPFAST_TWO_BOUNDS)
                    d[i][j] = FMA(a, b2[j], d[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) {
            const T *from = x + i * ld + j * VL;
            T *to = out + i * ld + j * VL;
            __builtin_prefetch(from + AHEAD, 0, 2);
            __builtin_prefetch(to + AHEAD, 1, 2);
            ptrdiff_t left = columns - j * VL;
            NAME(u) value = {0};
            if (form != LRPFAST_SUM && left >= VL)
                value = *(const NAME(u) *)from;
            else if (form != LRPFAST_SUM)
                for (ptrdiff_t n = 0; n < left; n++)
                    value[n] = from[n];
            NAME(v) result = c[i][j];
            if (form == LRPFAST_TIMES_X)
                result = value * c[i][j];
            if (form == LRPFAST_TWO_BOUNDS)
                result = (value - low) * c[i][j] + (value - high) * d[i][j];
            *check = FMA(result, (NAME(v)){0}, *check);
            if (left >= VL)
                *(NAME(u) *)to = result;
            else
                for (ptrdiff_t n = 0; n < left; n++)
                    to[n] = result[n];
        }
}

#if WIDE
#define TALL 6
#else
#define TALL 2
#endif

static inline __attribute__((always_inline)) int NAME(small_k_any)(
    const int form, ptrdiff_t rows, ptrdiff_t K, const T *A, ptrdiff_t lda, const T *B, const T *B2,
    ptrdiff_t columns, const T *x, T low, T high, T *out, ptrdiff_t ld)
{
    NAME(v) check = {0};
    for (ptrdiff_t n = 0; n < columns; n += PANEL * VL) {
        ptrdiff_t width = columns - n < PANEL * VL ? (columns - n + VL - 1) / VL * VL : PANEL * VL;
        for (ptrdiff_t j = 0; j < width; j += 2 * VL) {
            ptrdiff_t i = 0, at = n + j, left = columns - at;
            int pair = width - j >= 2 * VL;
            for (; i + TALL <= rows && pair; i += TALL)
                NAME(small_k_tile)(TALL, 2, form, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
            for (; i < rows && pair; i++)
                NAME(small_k_tile)(1, 2, form, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
            for (; i < rows; i++)
                NAME(small_k_tile)(1, 1, form, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
        }
        B += K * width;
        B2 += K * width;
    }
    T total = 0;
    for (ptrdiff_t k = 0; k < VL; k++)
        total = total + check[k];
    return total == 0;
}

static int NAME(small_k)(int form, ptrdiff_t rows, ptrdiff_t K, const void *source, ptrdiff_t lda, const void *packed,
                         const void *packed2, ptrdiff_t columns, const void *input, double low_bound, double high_bound,
                         void *output, ptrdiff_t ld)
{
    const T *A = source, *B = packed, *B2 = packed2, *x = input, low = (T)low_bound, high = (T)high_bound;
    T *out = output;
    if (form == LRPFAST_SUM)
        return NAME(small_k_any)(LRPFAST_SUM, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
    if (form == LRPFAST_TIMES_X)
        return NAME(small_k_any)(LRPFAST_TIMES_X, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
    return NAME(small_k_any)(LRPFAST_TWO_BOUNDS, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
}
#undef TALL
#undef AHEAD
