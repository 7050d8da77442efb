/* Sums for at most four columns: vectors hold neighbouring k of one row, and their lanes are added up at the end. */

/* A vector with the sums of neighbouring lanes, `step` apart, of a and b: a's where the lane's bit `step` is 0. */
static inline __attribute__((always_inline)) NAME(v) NAME(add_neighbours)(NAME(v) a, NAME(v) b, const int step)
{
#if defined(__clang__)
    NAME(v) low, high;
    UNROLL
    for (int j = 0; j < VL; j++) {
        low[j] = j & step ? b[j - step] : a[j];
        high[j] = j & step ? b[j] : a[j + step];
    }
    return low + high;
#else
    __typeof__(a > b) low, high; /* integers of the same size */
    UNROLL
    for (int j = 0; j < VL; j++) {
        low[j] = j & step ? VL + j - step : j;
        high[j] = j & step ? VL + j : j + step;
    }
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
#endif
}

/* Lane j: the sum of the lanes of c[j], for `count` vectors; neighbours first, whatever the count. */
static inline __attribute__((always_inline)) NAME(v) NAME(add_lanes_of)(const int count, const NAME(v) *c)
{
    NAME(v) s[VL];
    UNROLL
    for (int j = 0; j < VL; j++)
        s[j] = j < count ? c[j] : (NAME(v)){0};
#define LEVEL(step)                                                                        \
    if (step < VL)                                                                         \
        UNROLL                                                                             \
        for (int j = 0; j < VL / 2 / step; j++)                                            \
            s[j * 2 * step] = NAME(add_neighbours)(s[j * 2 * step], s[(j * 2 * step + step) % VL], step % VL);
    LEVEL(1)
    LEVEL(2)
    LEVEL(4)
    LEVEL(8)
#undef LEVEL
    return s[0];
}

/* MR rows and NC columns of C, whose rows lie close together; the last vector is longer than they are. Weights are
 * packed by runs and by vectors of k, in each of them one column after the other. The last vector of a run ends where
 * the run ends, and its weights are 0 for values that the one before has as well. */
static inline __attribute__((always_inline)) void NAME(few_columns_tile)(
    const int MR, const int NC, ptrdiff_t segments, const ptrdiff_t *lengths, const T *const *rows,
    const T *restrict B, T *restrict C, int accumulate)
{
    NAME(v) c[16];
    UNROLL
    for (int i = 0; i < MR * NC; i++)
        c[i] = (NAME(v)){0};
    for (ptrdiff_t s = 0; s < segments; s++, rows += LRPFAST_ROWS) {
        const ptrdiff_t length = lengths[s];
        const T *a[8];
        UNROLL
        for (int i = 0; i < MR; i++)
            a[i] = rows[i];
        for (ptrdiff_t k = 0; k < length; k += VL, B += NC * VL) {
            const ptrdiff_t at = k + VL <= length ? k : length - VL;
            NAME(v) b[4];
            UNROLL
            for (int n = 0; n < NC; n++)
                b[n] = *(const NAME(u) *)(B + n * VL);
            UNROLL
            for (int i = 0; i < MR; i++) {
                NAME(v) x = *(const NAME(u) *)(a[i] + at);
                UNROLL
                for (int n = 0; n < NC; n++)
                    c[i * NC + n] = FMA(x, b[n], c[i * NC + n]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR * NC; i += VL) {
        NAME(u) *to = (NAME(u) *)(C + i);
        NAME(v) sum = NAME(add_lanes_of)(MR * NC - i, c + i);
        if (accumulate)
            sum = *to + sum;
        *to = sum;
    }
}

#define FEW_COLUMNS(MR, NC)                                                                \
    static __attribute__((noinline)) void NAME(few_columns_##MR##x##NC)(                   \
        ptrdiff_t segments, const ptrdiff_t *lengths, const T *const *rows, const T *B, T *C, int accumulate) \
    {                                                                                      \
        NAME(few_columns_tile)(MR, NC, segments, lengths, rows, B, C, accumulate);         \
    }
#if WIDE
FEW_COLUMNS(8, 1) FEW_COLUMNS(8, 2) FEW_COLUMNS(4, 3) FEW_COLUMNS(4, 4)
#else
FEW_COLUMNS(8, 1) FEW_COLUMNS(4, 2) FEW_COLUMNS(4, 3) FEW_COLUMNS(2, 4)
#endif
FEW_COLUMNS(1, 1) FEW_COLUMNS(1, 2) FEW_COLUMNS(1, 3) FEW_COLUMNS(1, 4)

/* As `block`, for at most four columns and runs of at least a vector; C's rows have as many values as columns, and
 * after the last one there is room for a vector. */
static void NAME(few_columns)(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const void *const *input,
                              const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ldc, int accumulate)
{
    static const struct few_columns {
        int rows;
        void (*tall)(ptrdiff_t, const ptrdiff_t *, const T *const *, const T *, T *, int);
        void (*single)(ptrdiff_t, const ptrdiff_t *, const T *const *, const T *, T *, int);
    } kernels[4] = {
#if WIDE
        {8, NAME(few_columns_8x1), NAME(few_columns_1x1)}, {8, NAME(few_columns_8x2), NAME(few_columns_1x2)},
        {4, NAME(few_columns_4x3), NAME(few_columns_1x3)}, {4, NAME(few_columns_4x4), NAME(few_columns_1x4)},
#else
        {8, NAME(few_columns_8x1), NAME(few_columns_1x1)}, {4, NAME(few_columns_4x2), NAME(few_columns_1x2)},
        {4, NAME(few_columns_4x3), NAME(few_columns_1x3)}, {2, NAME(few_columns_2x4), NAME(few_columns_1x4)},
#endif
    };
    const struct few_columns *kernel = &kernels[columns - 1];
    const T *const *A = (const T *const *)input;
    T *C = sums;
    ptrdiff_t i = 0;
    for (; i + kernel->rows <= rows; i += kernel->rows)
        kernel->tall(segments, lengths, A + i, packed, C + i * ldc, accumulate);
    for (; i < rows; i++)
        kernel->single(segments, lengths, A + i, packed, C + i * ldc, accumulate);
}
#undef FEW_COLUMNS
