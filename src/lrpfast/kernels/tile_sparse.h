/* Products with rows that are mostly zeros: what a ReLU or a max pooling leaves, and relevance there. */

/* A row's values that are not zero are listed once and meet the weights of SPARSE_GROUP vectors of columns, or, of a
 * window of LRPFAST_SPARSE_TAPS taps, those of a vector for all taps: so many sums are in registers, each multiply-add
 * reads a vector of weights from the nearest cache, and zeros cost nothing. NaN is not zero. */
#define SPARSE_GROUP 8

/* Lists of rows of n values each: `counts`, `values` and their places `at` in the row, LRPFAST_SPARSE_LIST for each. */
static void NAME(nonzeros)(ptrdiff_t rows, ptrdiff_t n, const void *const *input, void *values, int32_t *at,
                           int32_t *counts)
{
    T *value = values;
    for (ptrdiff_t i = 0; i < rows; i++, value += LRPFAST_SPARSE_LIST, at += LRPFAST_SPARSE_LIST) {
        const T *x = input[i];
        ptrdiff_t count = 0, j = 0;
#if VBYTES == 64
        /* what is stored beyond the list's end, the next vector overwrites */
        for (; j + VL <= n; j += VL) {
#if SINGLE
            const __m512 some = _mm512_loadu_ps(x + j);
            const __m512i places = _mm512_add_epi32(
                _mm512_set1_epi32((int)j), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
            const __mmask16 kept = _mm512_cmp_ps_mask(some, _mm512_setzero_ps(), _CMP_NEQ_UQ);
            _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(kept, some));
            _mm512_storeu_si512(at + count, _mm512_maskz_compress_epi32(kept, places));
#else
            const __m512d some = _mm512_loadu_pd(x + j);
            const __m256i places = _mm256_add_epi32(_mm256_set1_epi32((int)j), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
            const __mmask8 kept = _mm512_cmp_pd_mask(some, _mm512_setzero_pd(), _CMP_NEQ_UQ);
            _mm512_storeu_pd(value + count, _mm512_maskz_compress_pd(kept, some));
            _mm256_storeu_si256((__m256i *)(at + count), _mm256_maskz_compress_epi32(kept, places));
#endif
            count += __builtin_popcount(kept);
        }
#endif
        for (; j < n; j++) {
            value[count] = x[j];
            at[count] = (int32_t)j;
            count += x[j] != 0;
        }
        counts[i] = (int32_t)count;
    }
}

/* w as panels for the two functions below, padded with zeros: element (k, tap, n) at k * row_step + tap * tap_step +
 * n * column_step. Of one tap, a panel is SPARSE_GROUP vectors wide, of more it is one, all taps side by side. */
static void NAME(pack_sparse)(ptrdiff_t depth, ptrdiff_t taps, ptrdiff_t columns, const void *weights, ptrdiff_t row_step,
                              ptrdiff_t tap_step, ptrdiff_t column_step, int sign, void *restrict packed)
{
    const T *w = weights;
    T *restrict out = packed;
    const ptrdiff_t panel = taps == 1 ? SPARSE_GROUP * VL : VL;
    for (ptrdiff_t n0 = 0; n0 < columns; n0 += panel) {
        const ptrdiff_t width = columns - n0 < panel ? columns - n0 : panel, padded = (width + VL - 1) / VL * VL;
        for (ptrdiff_t k = 0; k < depth; k++)
            for (ptrdiff_t t = 0; t < taps; t++, out += padded) {
                const T *from = w + k * row_step + t * tap_step + n0 * column_step;
                for (ptrdiff_t j = 0; j < padded; j++)
                    out[j] = j < width ? from[j * column_step] : 0;
                NAME(load)(padded, out, LRPFAST_PART_OF(sign), 0, out);
            }
    }
}

/* NT vectors of sums of one row's list. */
static inline __attribute__((always_inline)) void NAME(sparse_sums)(const int NT, ptrdiff_t count, const T *values,
                                                                    const int32_t *at, const T *restrict B, NAME(v) *c)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const NAME(v) x = values[i] - (NAME(v)){0};
        const T *b = B + (ptrdiff_t)at[i] * (NT * VL);
        UNROLL
        for (int t = 0; t < NT; t++)
            c[t] = FMA(x, *(const NAME(u) *)(b + t * VL), c[t]);
    }
}

#define SPARSE_ROWS_OF(NT)                                                                    \
    static __attribute__((noinline)) void NAME(sparse_rows_##NT)(                          \
        ptrdiff_t rows, const T *values, const int32_t *at, const int32_t *counts, const T *B, T *C, ptrdiff_t ld, \
        int accumulate)                                                                    \
    {                                                                                      \
        for (ptrdiff_t i = 0; i < rows; i++, C += ld) {                                    \
            NAME(v) c[NT];                                                                 \
            UNROLL                                                                         \
            for (int t = 0; t < NT; t++)                                                   \
                c[t] = (NAME(v)){0};                                                       \
            NAME(sparse_sums)(NT, counts[i], values + i * LRPFAST_SPARSE_LIST, at + i * LRPFAST_SPARSE_LIST, B, c); \
            UNROLL                                                                         \
            for (int t = 0; t < NT; t++) {                                                 \
                NAME(u) *to = (NAME(u) *)(C + t * VL);                                     \
                if (accumulate)                                                            \
                    c[t] = *to + c[t];                                                     \
                *to = c[t];                                                                \
            }                                                                              \
        }                                                                                  \
    }
SPARSE_ROWS_OF(1) SPARSE_ROWS_OF(2) SPARSE_ROWS_OF(3) SPARSE_ROWS_OF(4)
SPARSE_ROWS_OF(5) SPARSE_ROWS_OF(6) SPARSE_ROWS_OF(7) SPARSE_ROWS_OF(8)
#undef SPARSE_ROWS_OF

/* C[rows, columns] (+)= the listed rows, of `depth` values each · packed B; columns is a multiple of VL. */
static void NAME(sparse_rows)(ptrdiff_t rows, const void *values, const int32_t *at, const int32_t *counts,
                              ptrdiff_t depth, const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ld,
                              int accumulate)
{
    static void (*const of[SPARSE_GROUP])(ptrdiff_t, const T *, const int32_t *, const int32_t *, const T *, T *,
                                          ptrdiff_t, int) = {
        NAME(sparse_rows_1), NAME(sparse_rows_2), NAME(sparse_rows_3), NAME(sparse_rows_4),
        NAME(sparse_rows_5), NAME(sparse_rows_6), NAME(sparse_rows_7), NAME(sparse_rows_8)};
    const T *B = packed;
    T *C = sums;
    for (ptrdiff_t n = 0; n < columns; n += SPARSE_GROUP * VL) {
        const ptrdiff_t width = columns - n < SPARSE_GROUP * VL ? columns - n : SPARSE_GROUP * VL;
        of[width / VL - 1](rows, values, at, counts, B, C + n, ld, accumulate);
        B += depth * width;
    }
}

/* Adds what each listed source row gives to the rows of C that begin at
 * targets[row * LRPFAST_SPARSE_TAPS + tap]. */
static void NAME(sparse_taps)(ptrdiff_t rows, const void *values, const int32_t *at, const int32_t *counts,
                              const int32_t *targets, ptrdiff_t depth, const void *packed, ptrdiff_t columns, void *sums)
{
    const T *value = values, *B = packed;
    T *C = sums;
    for (ptrdiff_t n = 0; n < columns; n += VL, C += VL, B += depth * LRPFAST_SPARSE_TAPS * VL)
        for (ptrdiff_t i = 0; i < rows; i++) {
            const int32_t *to = targets + i * LRPFAST_SPARSE_TAPS;
            NAME(v) c[LRPFAST_SPARSE_TAPS];
            UNROLL
            for (int t = 0; t < LRPFAST_SPARSE_TAPS; t++)
                c[t] = *(const NAME(u) *)(C + to[t]);
            NAME(sparse_sums)(LRPFAST_SPARSE_TAPS, counts[i], value + i * LRPFAST_SPARSE_LIST,
                              at + i * LRPFAST_SPARSE_LIST, B, c);
            UNROLL
            for (int t = 0; t < LRPFAST_SPARSE_TAPS; t++)
                *(NAME(u) *)(C + to[t]) = c[t];
        }
}
#undef SPARSE_GROUP
