/* The compute kernels of one dtype and instruction set, as a table of functions. */
#ifndef LRPFAST_COMPUTE_H
#define LRPFAST_COMPUTE_H

#include <stddef.h>
#include <stdint.h>

#include "recurrent.h"

#define LRPFAST_ROWS 48  /* rows of one tile pass: whole tiles of 6 and of 8 */
#define LRPFAST_SUMS 8   /* accumulators, outputs and shares of one contraction */
#define LRPFAST_DEPTH 256 /* k of a block: results depend on it */
#define LRPFAST_SPARSE_DEPTH 64 /* and of a block of rows that are mostly zeros: its weights stay in the nearest cache */
#define LRPFAST_SPARSE_LIST 80  /* room for a row's values of such a block, and for a vector after the last */
#define LRPFAST_SPARSE_TAPS 9   /* of the windows that such rows are contracted over */

/* codes.py's Part and Stabilizer; the bound of x − low or x − high comes beside the part. */
enum lrpfast_part {
    LRPFAST_X, LRPFAST_POSITIVE, LRPFAST_NEGATIVE, LRPFAST_ONE, LRPFAST_X_MINUS_BOUND, LRPFAST_ABSOLUTE
};
/* The part of weights that a sign takes: w⁺ of +1, w⁻ of −1, |w| of 2, all of 0. */
#define LRPFAST_PART_OF(sign) \
    ((sign) > 1 ? LRPFAST_ABSOLUTE : (sign) > 0 ? LRPFAST_POSITIVE : (sign) < 0 ? LRPFAST_NEGATIVE : LRPFAST_X)
enum lrpfast_stabilizer { LRPFAST_SIGN, LRPFAST_ZERO, LRPFAST_UNSIGNED };
/* codes.py's Function. */
enum lrpfast_function {
    LRPFAST_RELU, LRPFAST_LEAKY_RELU, LRPFAST_PRELU, LRPFAST_ELU, LRPFAST_SELU, LRPFAST_GELU, LRPFAST_SILU,
    LRPFAST_TANH, LRPFAST_SIGMOID, LRPFAST_HARD_SIGMOID, LRPFAST_SOFTPLUS, LRPFAST_SOFTSIGN, LRPFAST_EXPONENTIAL,
    LRPFAST_MISH, LRPFAST_CLIP, LRPFAST_CELU, LRPFAST_SHRINK, LRPFAST_LOG_SIGMOID, LRPFAST_POWER, LRPFAST_HARD_SILU,
    LRPFAST_LOG, LRPFAST_SOFTMAX, LRPFAST_LOG_SOFTMAX
};
/* What `small_k` makes of its sums; see there. */
enum lrpfast_small_k {
    LRPFAST_NO_SMALL_K, LRPFAST_SUM, LRPFAST_TIMES_X, LRPFAST_TWO_BOUNDS, LRPFAST_TWO_PARTS, LRPFAST_SPLIT_PARTS,
    LRPFAST_FOUR_PARTS
};
/* What `many_k` sums; see there. A term without a form is part of the one before. */
enum lrpfast_many_k {
    LRPFAST_NO_MANY_K, LRPFAST_MANY_X, LRPFAST_MANY_POSITIVE, LRPFAST_MANY_NEGATIVE, LRPFAST_MANY_ABSOLUTE,
    LRPFAST_MANY_BOTH, LRPFAST_MANY_SIGNS, LRPFAST_MANY_SIZES
};

/* What becomes of a contraction's sums; see tile_epilogue.h, whose functions take the buffers beside it. */
typedef struct {
    const void *constant;
    int per_row; /* whether the constant has its own values for each row of a sample */
    int relu;
    double zero; /* what stands for a value of exactly 0 */
    double coefficients[LRPFAST_SUMS];
} lrpfast_output;
typedef struct {
    const void *bound;
    int accumulator, part, step;
    double coefficient;
} lrpfast_share;
typedef struct {
    int sums, outputs, shares, tf32;
    lrpfast_output output[LRPFAST_SUMS];
    lrpfast_share share[LRPFAST_SUMS];
    int divides, stabilizer, mask, z_per_row;
    double stabilizer_value;
} lrpfast_epilogue;

/* The arrays of all functions hold floats, or doubles, as the table is float32's or float64's. */
typedef struct {
    ptrdiff_t lanes; /* elements of one vector */
    ptrdiff_t panel; /* vectors of one panel of packed weights */
    ptrdiff_t depth_step, packed_bytes; /* of packed weights: k is a multiple of this; bytes of one */
    void (*block)(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const void *const *input,
                  const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ldc, int accumulate);
    /* The same for at most four columns: see there. */
    void (*few_columns)(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const void *const *input,
                        const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ldc, int accumulate);
    /* Where there is one, `block` reads rows as this leaves them: `count` of `rows` at a time, from the first-th on. */
    void (*split)(ptrdiff_t rows, ptrdiff_t first, ptrdiff_t count, ptrdiff_t segments, const ptrdiff_t *lengths,
                  const void *const *input, void *split);
    void (*many_k)(int form, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t columns, const void *input, const void *packed,
                   void *scratch, void *first, int add_first, void *second, int add_second, ptrdiff_t ld);
    void (*nonzeros)(ptrdiff_t rows, ptrdiff_t n, const void *const *input, void *values, int32_t *at, int32_t *counts);
    void (*pack_sparse)(ptrdiff_t depth, ptrdiff_t taps, ptrdiff_t columns, const void *weights, ptrdiff_t row_step,
                        ptrdiff_t tap_step, ptrdiff_t column_step, int sign, void *packed);
    void (*sparse_rows)(ptrdiff_t rows, const void *values, const int32_t *at, const int32_t *counts, ptrdiff_t depth,
                        const void *packed, ptrdiff_t columns, void *sums, ptrdiff_t ld, int accumulate);
    void (*sparse_taps)(ptrdiff_t rows, const void *values, const int32_t *at, const int32_t *counts,
                        const int32_t *targets, ptrdiff_t depth, const void *packed, ptrdiff_t columns, void *sums);
    void (*load)(ptrdiff_t n, const void *input, int part, int tf32, void *output);
    void (*pack)(ptrdiff_t depth, ptrdiff_t columns, const void *weights, ptrdiff_t row_step, ptrdiff_t column_step,
                 int sign, int tf32, void *packed);
    void (*gather)(ptrdiff_t rows, const int64_t *sources, ptrdiff_t taps, ptrdiff_t channels, ptrdiff_t stride,
                   const void *input, ptrdiff_t k0, ptrdiff_t depth, int part, int tf32, void *gathered, ptrdiff_t ld);
    void (*channelwise)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, int part,
                        const void *const *inputs, const void *const *weight_rows, const void *tap_factors,
                        int accumulate, void *sums, ptrdiff_t ld);
    int (*epilogue_forward)(const lrpfast_epilogue *epilogue, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
                            const ptrdiff_t *in_sample, ptrdiff_t n0, ptrdiff_t n, const void *sums, ptrdiff_t plane,
                            ptrdiff_t ld);
    int (*epilogue_backward)(const lrpfast_epilogue *epilogue, void *const *buffers, ptrdiff_t rows,
                             const ptrdiff_t *at, const ptrdiff_t *in_sample, ptrdiff_t n0, ptrdiff_t n,
                             const void *sums, ptrdiff_t plane, ptrdiff_t ld);
    int (*small_k)(int form, ptrdiff_t rows, ptrdiff_t K, const void *source, const void *source2, const void *packed,
                   const void *packed2, ptrdiff_t columns, const void *input, const double *p, void *output);
    void (*divide)(ptrdiff_t n, const void *relevance, const void *denominator, double value, int stabilizer, int mask,
                   const void *masking, void *output);
    void (*divide_by_sign)(ptrdiff_t n, const void *relevance, const void *positive_z, const void *negative_z,
                           const void *masking, double value, int stabilizer, void *output, void *signed_output);
    int (*finite)(ptrdiff_t n, const void *input);
    void (*largest)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, const void *const *inputs,
                    const void *tap_numbers, void *output, void *winners);
    void (*to_winners)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, int adds, const void *incoming,
                       const void *winners, const void *tap_numbers, void *const *outputs);
    void (*add)(ptrdiff_t n, const void *input, void *output);
    void (*relu)(ptrdiff_t n, const void *input, void *output);
    double (*absolute)(ptrdiff_t n, const void *input);
    /* Of float64's table alone: they compute in double, whatever their buffers hold. */
    ptrdiff_t (*recurrent_scratch)(const lrpfast_recurrent *operation);
    int (*recur)(const lrpfast_recurrent *operation, const lrpfast_recurrent_forward *buffers, ptrdiff_t rows,
                 void *scratch);
    int (*recur_back)(const lrpfast_recurrent *operation, const lrpfast_recurrent_backward *buffers, ptrdiff_t rows,
                      void *scratch);
    int (*function)(int which, double p, ptrdiff_t n, const void *input, void *output);
    void (*scaled)(ptrdiff_t n, const void *input, double scale, void *output);
    void (*softmax)(ptrdiff_t n, void *scores, void *rows, int again);
    void (*score_back)(ptrdiff_t n, const void *softmax, double total, double scale, void *s);
    void (*normalize)(ptrdiff_t n, const void *x, const void *gamma, const void *beta, double epsilon, int centers,
                      int length, void *out);
    void (*normalize_back)(ptrdiff_t n, const void *x, const void *s, const void *gamma, double epsilon, int centers,
                           int length, int detached, int times_x, void *out);
} lrpfast_kernels;

/* Instruction sets this processor can run, best last; each a static name. */
int lrpfast_isa_count(void);
const char *lrpfast_isa_name(int isa);
/* The kernels for one of them, in float32 or float64. */
const lrpfast_kernels *lrpfast_kernels_of(int isa, int float64);
/* Products of matrices in float32 that one of them does otherwise, by products of bfloat16: 6, 4 of values rounded to TF32,
 * or 3 of 16 bits; or NULL. */
const lrpfast_kernels *lrpfast_products_of(int isa, int products);

#endif
