/* Products of float32 on the tile registers of AMX, which multiply bfloat16.
 *
 * x = high + middle + low, three bfloat16, to nearest even: exact, but that parts below 2^-126 count as zero. Of the
 * nine products the six large ones are summed; the others are below 2^-25 of |x w| each. Over AMX_DEPTH of k the small
 * ones are summed first and high · high last, from zero; these sums are added in the order of k. So each output's sum
 * depends on K alone, and is rounded less often at its full size than by a chain of fused multiply-adds. Of TF32's 11
 * bits low has none: four products. BF16x2 leaves low out of any value, and middle · middle too: three products.
 *
 * compute.c includes this file beside tile.h's float32 of x86-64-v4, whose other functions the table below has too. A
 * test, or a build with LRPFAST_EMULATE_AMX, includes amx_emulation.h in the place of the instructions.
 */

#if defined(LRPFAST_EMULATE_AMX)
#include "amx_emulation.h"
#else
#define TILE_CONFIG(config) _tile_loadconfig(config)
#define TILE_RELEASE() _tile_release()
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

static inline __m512 amx_widen(__m256i half)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* 32 values as the sum of three in bfloat16. */
static inline void amx_split32(const float *x, uint16_t *high, uint16_t *middle, uint16_t *low)
{
    __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
    uint16_t *const parts[3] = {high, middle, low};
    UNROLL
    for (int p = 0; p < 3; p++) {
        __m512i part = (__m512i)_mm512_cvtne2ps_pbh(second, first);
        _mm512_storeu_si512(parts[p], part);
        first = _mm512_sub_ps(first, amx_widen(_mm512_castsi512_si256(part)));
        second = _mm512_sub_ps(second, amx_widen(_mm512_extracti64x4_epi64(part, 1)));
    }
}
#endif

#define AMX_SIDE 32   /* rows and columns of a tile of sums: two by two registers */
#define AMX_STEP 32   /* k that one instruction multiplies */
#define AMX_DEPTH 96  /* k of a panel: one of rows and one of columns fit in the first cache together */
#define AMX_PART (AMX_SIDE * AMX_STEP)
#define AMX_PARTS(products) ((products) == 6 ? 3 : 2)
#define AMX_UP(n, multiple) (((n) + (multiple) - 1) / (multiple) * (multiple))

/* Packed columns and split rows: panels of 32, of these AMX_STEP after AMX_STEP of k, part after part, two halves of 16.
 * A half of rows is [row][k]; of columns [pair of k][column][of the pair], as the instruction reads it. */

static inline __attribute__((always_inline)) void amx_pack(const int products, ptrdiff_t depth, ptrdiff_t columns,
                                                           const float *w, ptrdiff_t row_step, ptrdiff_t column_step,
                                                           int sign, uint16_t *out)
{
    const int part_of = LRPFAST_PART_OF(sign), parts = AMX_PARTS(products);
    for (ptrdiff_t n0 = 0; n0 < columns; n0 += 16)
        for (ptrdiff_t k0 = 0; k0 < depth; k0 += AMX_STEP) {
            /* columns are padded to whole panels: the last one may lack its second half */
            int halves = n0 % AMX_SIDE == 0 && n0 + 16 >= columns ? 2 : 1;
            uint16_t *to = out + (n0 / AMX_SIDE * AMX_UP(depth, AMX_STEP) + k0) * AMX_SIDE * parts + n0 % AMX_SIDE * AMX_STEP;
            float values[AMX_STEP / 2][32]; /* as the instruction reads them */
            uint16_t rest[32];
            ptrdiff_t width = columns - n0 < 16 ? columns - n0 : 16, end = depth - k0 < AMX_STEP ? depth - k0 : AMX_STEP;
            const float *from = w + k0 * row_step + n0 * column_step;
            if (end < AMX_STEP || width < 16)
                memset(values, 0, sizeof values);
            if (end == AMX_STEP && width == 16 && column_step == 1)
                for (ptrdiff_t k = 0; k < AMX_STEP; k += 2, from += 2 * row_step)
                    for (int j = 0; j < 16; j++) {
                        values[k / 2][2 * j] = from[j];
                        values[k / 2][2 * j + 1] = from[row_step + j];
                    }
            else
                for (ptrdiff_t j = 0; j < width; j++)
                    for (ptrdiff_t k = 0; k < end; k++)
                        values[k / 2][2 * j + k % 2] = from[k * row_step + j * column_step];
            NAME(load)(AMX_STEP * 16, values, part_of, products == 4, values);
            for (int k = 0; k < AMX_STEP / 2; k++)
                amx_split32(values[k], to + k * 32, to + AMX_PART + k * 32, parts == 3 ? to + 2 * AMX_PART + k * 32 : rest);
            for (int part = 0; part < parts && halves == 2; part++)
                memset(to + part * AMX_PART + AMX_PART / 2, 0, AMX_PART / 2 * sizeof *to);
        }
}

/* Rows of one block of k, each in `segments` runs as `tile` reads them, split into panels of AMX_DEPTH and 32 rows. */
static inline __attribute__((always_inline)) void amx_split(const int parts, ptrdiff_t rows, ptrdiff_t first,
                                                            ptrdiff_t count, ptrdiff_t segments,
                                                            const ptrdiff_t *lengths, const void *const *input,
                                                            uint16_t *out)
{
    ptrdiff_t depth = 0;
    for (ptrdiff_t s = 0; s < segments; s++)
        depth += lengths[s];
    const ptrdiff_t padded_rows = AMX_UP(rows, AMX_SIDE), padded = AMX_UP(depth, AMX_STEP);
    float line[LRPFAST_DEPTH];
    uint16_t rest[32];
    for (ptrdiff_t k = depth; k < padded; k++)
        line[k] = 0;
    for (ptrdiff_t j = 0, i = first; j < count; j++, i++) {
        const float *from = input[j];
        if (segments > 1 || padded > depth) {
            float *to = line;
            for (ptrdiff_t s = 0; s < segments; s++, to += lengths[s - 1])
                memcpy(to, input[s * LRPFAST_ROWS + j], lengths[s] * sizeof *to);
            from = line;
        }
        for (ptrdiff_t k0 = 0; k0 < padded; k0 += AMX_DEPTH) {
            ptrdiff_t length = padded - k0 < AMX_DEPTH ? padded - k0 : AMX_DEPTH;
            uint16_t *to = out + (k0 * padded_rows + i / AMX_SIDE * AMX_SIDE * length) * parts +
                           i / 16 % 2 * (AMX_PART / 2) + i % 16 * AMX_STEP;
            for (ptrdiff_t k = 0; k < length; k += AMX_STEP, to += parts * AMX_PART)
                amx_split32(from + k0 + k, to, to + AMX_PART, parts == 3 ? to + 2 * AMX_PART : rest);
        }
    }
}

#define LOAD_ROWS(part)                                                                    \
    TILE_LOAD(4, a + (part) * AMX_PART, 64);                                               \
    if (TWO)                                                                               \
        TILE_LOAD(5, a + (part) * AMX_PART + AMX_PART / 2, 64)
#define LOAD_COLUMNS(part)                                                                 \
    TILE_LOAD(6, b + (part) * AMX_PART, 64);                                               \
    TILE_LOAD(7, b + (part) * AMX_PART + AMX_PART / 2, 64)
#define MULTIPLY()                                                                         \
    TILE_MULTIPLY(0, 4, 6);                                                                \
    TILE_MULTIPLY(1, 4, 7);                                                                \
    if (TWO) {                                                                             \
        TILE_MULTIPLY(2, 5, 6);                                                            \
        TILE_MULTIPLY(3, 5, 7);                                                            \
    }
#define FETCH(lines)                                                                       \
    for (int z = 0; z < (lines); z++, next += 64)                                          \
        __builtin_prefetch(next)

/* A tile's sums on their way from the registers: added while the next tile is multiplied. */
typedef struct {
    float tile[AMX_SIDE * AMX_SIDE] __attribute__((aligned(64)));
    float *to;
    ptrdiff_t rows;
    int accumulate;
} amx_sums;

static inline void amx_add(const amx_sums *sums, ptrdiff_t ld)
{
    const float *from = sums->tile;
    float *to = sums->to;
    for (ptrdiff_t i = 0; i < sums->rows; i++, from += AMX_SIDE, to += ld)
        UNROLL
        for (int j = 0; j < AMX_SIDE; j += VL) {
            NAME(v) value = *(const NAME(u) *)(from + j);
            if (sums->accumulate)
                value = *(const NAME(u) *)(to + j) + value;
            *(NAME(u) *)(to + j) = value;
        }
}

/* Up to 32 rows by 32 columns over one panel of k. What is `next` is fetched meanwhile, and the sums before added. */
static inline __attribute__((always_inline)) void amx_tile(const int products, const int TWO, ptrdiff_t depth,
                                                           const uint16_t *rows, const uint16_t *columns,
                                                           const char *next, amx_sums *sums, const amx_sums *before,
                                                           ptrdiff_t ld)
{
    const int parts = AMX_PARTS(products);
    TILE_ZERO(0);
    TILE_ZERO(1);
    if (TWO) {
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    const uint16_t *a = rows, *b = columns;
    for (ptrdiff_t k = 0; k < depth; k += AMX_STEP, a += parts * AMX_PART, b += parts * AMX_PART) {
        LOAD_ROWS(0);
        if (parts == 3) {
            LOAD_COLUMNS(2);
            MULTIPLY();
            FETCH(16);
        }
        LOAD_COLUMNS(1);
        MULTIPLY();
        FETCH(16);
        LOAD_ROWS(1);
        if (products > 3) {
            MULTIPLY();
            FETCH(16);
        }
        LOAD_COLUMNS(0);
        MULTIPLY();
        FETCH(16);
        if (parts == 3) {
            LOAD_ROWS(2);
            MULTIPLY();
        }
    }
    amx_add(before, ld);
    for (a = rows, b = columns; a < rows + depth * AMX_SIDE * parts; a += parts * AMX_PART, b += parts * AMX_PART) {
        LOAD_ROWS(0);
        LOAD_COLUMNS(0);
        MULTIPLY();
        if (products != 4) {
            FETCH(32);
        }
    }
    TILE_STORE(0, sums->tile, 4 * AMX_SIDE);
    TILE_STORE(1, sums->tile + 16, 4 * AMX_SIDE);
    if (TWO) {
        TILE_STORE(2, sums->tile + 16 * AMX_SIDE, 4 * AMX_SIDE);
        TILE_STORE(3, sums->tile + 16 * AMX_SIDE + 16, 4 * AMX_SIDE);
    }
}

static inline __attribute__((always_inline)) void amx_block(const int products, ptrdiff_t rows, ptrdiff_t depth,
                                                            const uint16_t *split, const uint16_t *packed,
                                                            ptrdiff_t columns, float *sums, ptrdiff_t ldc,
                                                            int accumulate)
{
    const ptrdiff_t padded_rows = AMX_UP(rows, AMX_SIDE), padded = AMX_UP(depth, AMX_STEP);
    amx_sums results[2] = {{.rows = 0}, {.rows = 0}};
    int turn = 0;
    const int parts = AMX_PARTS(products);
    uint8_t config[64] __attribute__((aligned(64))) = {1};
    for (int t = 0; t < 8; t++) {
        config[16 + 2 * t] = 64;
        config[48 + t] = 16;
    }
    if (rows < 16) /* of few rows the instruction multiplies these only */
        config[48] = config[49] = config[52] = (uint8_t)rows;
    __asm__ volatile("" ::: "memory"); /* what tiles load must lie in memory: not all compilers know that they read it */
    TILE_CONFIG(config);
    for (ptrdiff_t n = 0; n < columns; n += AMX_SIDE, packed += padded * AMX_SIDE * parts)
        for (ptrdiff_t k0 = 0; k0 < padded; k0 += AMX_DEPTH) {
            ptrdiff_t length = padded - k0 < AMX_DEPTH ? padded - k0 : AMX_DEPTH;
            const uint16_t *a = split + k0 * padded_rows * parts, *b = packed + k0 * AMX_SIDE * parts;
            for (ptrdiff_t i = 0; i < rows; i += AMX_SIDE, a += length * AMX_SIDE * parts, turn ^= 1) {
                amx_sums *tile = &results[turn];
                tile->to = sums + i * ldc + n;
                tile->rows = rows - i < AMX_SIDE ? rows - i : AMX_SIDE;
                tile->accumulate = accumulate || k0;
                const uint16_t *next = (i + AMX_SIDE < rows ? a : b) + length * AMX_SIDE * parts;
                if (tile->rows > 16)
                    amx_tile(products, 1, length, a, b, (const char *)next, tile, &results[turn ^ 1], ldc);
                else
                    amx_tile(products, 0, length, a, b, (const char *)next, tile, &results[turn ^ 1], ldc);
            }
        }
    amx_add(&results[turn ^ 1], ldc);
    TILE_RELEASE();
}

/* The forms: of float32 in three parts, of TF32 and BF16x2 in two. */
#define AMX_FORM(name, products)                                                         \
    static void name##_pack(ptrdiff_t depth, ptrdiff_t columns, const void *weights, ptrdiff_t row_step, \
                            ptrdiff_t column_step, int sign, int tf32, void *restrict packed) \
    {                                                                                      \
        (void)tf32;                                                                        \
        amx_pack(products, depth, columns, weights, row_step, column_step, sign, packed);     \
    }                                                                                      \
    static void name##_split(ptrdiff_t rows, ptrdiff_t first, ptrdiff_t count, ptrdiff_t segments, \
                             const ptrdiff_t *lengths, const void *const *input, void *split) \
    {                                                                                      \
        amx_split(AMX_PARTS(products), rows, first, count, segments, lengths, input, split);             \
    }                                                                                      \
    static void name##_block(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const void *const *input, \
                             const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ldc, int accumulate) \
    {                                                                                      \
        (void)segments; /* `split` has made them one */                                    \
        amx_block(products, rows, lengths[0], input[0], packed, columns, sums, ldc, accumulate); \
    }                                                                                      \
    static const lrpfast_kernels name = {                                                  \
        .lanes = AMX_SIDE,                                                                 \
        .panel = 2,                                                                        \
        .depth_step = AMX_STEP,                                                            \
        .packed_bytes = 2 * AMX_PARTS(products),                                                         \
        .pack = name##_pack,                                                               \
        .split = name##_split,                                                             \
        .block = name##_block,                                                             \
        KERNELS_BUT_PRODUCTS,                                                              \
    };
AMX_FORM(kernels_amx, 6)
AMX_FORM(kernels_amx_tf32, 4)
AMX_FORM(kernels_amx_bf16x2, 3)
