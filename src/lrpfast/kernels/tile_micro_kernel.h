/* The micro-kernel: a tile of sums in registers over one block of k. */

/* One block of k: `segments` runs of lengths[s] consecutive k, of which row i's values are at
 * rows[s * LRPFAST_ROWS + i]. A dense layer has one run; a convolution has one for each tap. */
static inline __attribute__((always_inline)) void NAME(tile)(
    const int MR, const int NV, ptrdiff_t segments, const ptrdiff_t *lengths, const T *const *rows,
    const T *restrict B, T *restrict C, ptrdiff_t ldc, int accumulate)
{
    NAME(v) c[8][4];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++)
            c[i][j] = (NAME(v)){0};
    for (ptrdiff_t s = 0; s < segments; s++, rows += LRPFAST_ROWS) {
        const ptrdiff_t length = lengths[s];
        const T *a[8];
        UNROLL
        for (int i = 0; i < MR; i++)
            a[i] = rows[i];
        for (ptrdiff_t k = 0; k < length; k++) {
            NAME(v) b[4];
            if (NV == 1 && k % (64 / (ptrdiff_t)sizeof(T)) == 0) /* few outputs: the input's stream is the bottleneck */
                UNROLL
                for (int i = 0; i < MR; i++)
                    __builtin_prefetch(a[i] + k + length, 0, 2);
            UNROLL
            for (int j = 0; j < NV; j++)
                b[j] = *(const NAME(u) *)(B + j * VL);
            B += NV * VL;
            UNROLL
            for (int i = 0; i < MR; i++) {
                NAME(v) x = a[i][k] - (NAME(v)){0};
                UNROLL
                for (int j = 0; j < NV; j++)
                    c[i][j] = FMA(x, b[j], c[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) {
            NAME(u) *p = (NAME(u) *)(C + i * ldc + j * VL);
            if (accumulate)
                c[i][j] = *p + c[i][j];
            *p = c[i][j];
        }
}

#define TILE(MR, NV)                                                                       \
    static __attribute__((noinline)) void NAME(tile_##MR##x##NV)(                          \
        ptrdiff_t segments, const ptrdiff_t *lengths, const T *const *rows, const T *B, T *C, \
        ptrdiff_t ldc, int accumulate)                                                     \
    {                                                                                      \
        NAME(tile)(MR, NV, segments, lengths, rows, B, C, ldc, accumulate);                \
    }
#define TILE_KERNEL(MR, NV) {MR, NAME(tile_##MR##x##NV)}

typedef struct {
    int rows;
    void (*run)(ptrdiff_t, const ptrdiff_t *, const T *const *, const T *, T *, ptrdiff_t, int);
} NAME(tile_kernel);

#if WIDE
#define PANEL 4
TILE(8, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
TILE(8, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
TILE(8, 3) TILE(4, 3) TILE(2, 3) TILE(1, 3)
TILE(6, 4) TILE(4, 4) TILE(2, 4) TILE(1, 4)
static const NAME(tile_kernel) NAME(tiles)[4][4] = {
    {TILE_KERNEL(8, 1), TILE_KERNEL(4, 1), TILE_KERNEL(2, 1), TILE_KERNEL(1, 1)},
    {TILE_KERNEL(8, 2), TILE_KERNEL(4, 2), TILE_KERNEL(2, 2), TILE_KERNEL(1, 2)},
    {TILE_KERNEL(8, 3), TILE_KERNEL(4, 3), TILE_KERNEL(2, 3), TILE_KERNEL(1, 3)},
    {TILE_KERNEL(6, 4), TILE_KERNEL(4, 4), TILE_KERNEL(2, 4), TILE_KERNEL(1, 4)},
};
#else
#define PANEL 2
TILE(8, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
TILE(6, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
static const NAME(tile_kernel) NAME(tiles)[2][4] = {
    {TILE_KERNEL(8, 1), TILE_KERNEL(4, 1), TILE_KERNEL(2, 1), TILE_KERNEL(1, 1)},
    {TILE_KERNEL(6, 2), TILE_KERNEL(4, 2), TILE_KERNEL(2, 2), TILE_KERNEL(1, 2)},
};
#endif

/* C[rows, columns] (+)= A[rows, one block of k] · packed B; columns is a multiple of VL. */
static void NAME(block)(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const void *const *input,
                        const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ldc, int accumulate)
{
    const T *const *A = (const T *const *)input;
    const T *B = packed;
    T *C = sums;
    ptrdiff_t depth = 0;
    for (ptrdiff_t s = 0; s < segments; s++)
        depth += lengths[s];
    for (ptrdiff_t n = 0; n < columns; n += PANEL * VL) {
        ptrdiff_t width = columns - n < PANEL * VL ? columns - n : PANEL * VL;
        const NAME(tile_kernel) *entry = NAME(tiles)[width / VL - 1];
        for (ptrdiff_t i = 0; i < rows; i += entry->rows) {
            while (entry->rows > rows - i)
                entry++;
            entry->run(segments, lengths, A + i, B, C + i * ldc + n, ldc, accumulate);
        }
        B += depth * width;
    }
}
