/* Copies features, whose samples are adjacent, to samples, whose features are adjacent.
 *
 * Reading by features touches a cache line of every feature for a few samples, at a stride that no hardware prefetcher
 * follows across pages. So 16 samples (a line of 4 bytes each) of 4 features are copied at a time, from registers, and
 * the lines of later features are requested on the way. Panels of features keep what is written in the cache.
 */
#ifndef LRPFAST_TRANSPOSE_H
#define LRPFAST_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PANEL = 1024, SAMPLES_AT_ONCE = 16, FEATURES_AT_ONCE = 4, FEATURES_AHEAD = 24 };

typedef uint32_t four __attribute__((vector_size(16)));

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (four){i, j, k, l})
#endif

/* Four samples of four features. */
static inline void transpose_block_4(const uint32_t *const *in, ptrdiff_t sample, uint32_t *out, ptrdiff_t out_stride)
{
    four a, b, c, d, ab_low, ab_high, cd_low, cd_high;
    memcpy(&a, in[0] + sample, sizeof a);
    memcpy(&b, in[1] + sample, sizeof b);
    memcpy(&c, in[2] + sample, sizeof c);
    memcpy(&d, in[3] + sample, sizeof d);
    ab_low = SHUFFLE(a, b, 0, 4, 1, 5);
    ab_high = SHUFFLE(a, b, 2, 6, 3, 7);
    cd_low = SHUFFLE(c, d, 0, 4, 1, 5);
    cd_high = SHUFFLE(c, d, 2, 6, 3, 7);
    a = SHUFFLE(ab_low, cd_low, 0, 1, 4, 5);
    b = SHUFFLE(ab_low, cd_low, 2, 3, 6, 7);
    c = SHUFFLE(ab_high, cd_high, 0, 1, 4, 5);
    d = SHUFFLE(ab_high, cd_high, 2, 3, 6, 7);
    memcpy(out, &a, sizeof a);
    memcpy(out + out_stride, &b, sizeof b);
    memcpy(out + 2 * out_stride, &c, sizeof c);
    memcpy(out + 3 * out_stride, &d, sizeof d);
}

static inline void transpose_block_8(const uint64_t *const *in, ptrdiff_t sample, uint64_t *out, ptrdiff_t out_stride)
{
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++)
            out[j * out_stride + i] = in[i][sample + j];
}

/* Features first to last of `in` (the one at `order[i]` where there is an order) become these columns of `out`. */
#define TRANSPOSE(BYTES, ITEM) \
static void transpose_##BYTES(const ITEM *in, ptrdiff_t in_stride, const int64_t *order, ITEM *out, \
                              ptrdiff_t out_stride, ptrdiff_t first, ptrdiff_t last, ptrdiff_t samples) \
{ \
    for (ptrdiff_t begin = first; begin < last; begin += PANEL) { \
        const ptrdiff_t end = last - begin < PANEL ? last : begin + PANEL; \
        for (ptrdiff_t s = 0; s < samples; s += SAMPLES_AT_ONCE) { \
            const ptrdiff_t stop = samples - s < SAMPLES_AT_ONCE ? samples : s + SAMPLES_AT_ONCE; \
            for (ptrdiff_t f = begin; f < end; f += FEATURES_AT_ONCE) { \
                const ptrdiff_t count = end - f < FEATURES_AT_ONCE ? end - f : FEATURES_AT_ONCE; \
                const ITEM *rows[FEATURES_AT_ONCE] = {in, in, in, in}; \
                for (ptrdiff_t i = 0; i < count; i++) { \
                    rows[i] = in + (order ? (ptrdiff_t)order[f + i] : f + i) * in_stride; \
                    if (f + i + FEATURES_AHEAD < end) { \
                        const ptrdiff_t ahead = f + i + FEATURES_AHEAD; \
                        __builtin_prefetch(in + (order ? (ptrdiff_t)order[ahead] : ahead) * in_stride + s); \
                    } \
                } \
                ptrdiff_t t = s; \
                if (count == FEATURES_AT_ONCE) \
                    for (; t + 4 <= stop; t += 4) \
                        transpose_block_##BYTES(rows, t, out + t * out_stride + f, out_stride); \
                for (; t < stop; t++) \
                    for (ptrdiff_t i = 0; i < count; i++) \
                        out[t * out_stride + f + i] = rows[i][t]; \
            } \
        } \
    } \
}

TRANSPOSE(4, uint32_t)
TRANSPOSE(8, uint64_t)

#endif
