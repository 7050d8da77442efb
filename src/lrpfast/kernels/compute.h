/* The compute kernels of one dtype and instruction set, as a table of functions. */
#ifndef LRPFAST_COMPUTE_H
#define LRPFAST_COMPUTE_H

#include <stddef.h>
#include <stdint.h>

#define LRPFAST_ROWS 48 /* rows of one tile pass: whole tiles of 6 and of 8 */
#define LRPFAST_SUMS 8  /* accumulators, outputs and shares of one contraction */

/* What becomes of a contraction's sums; see `outputs` and `shares` in tile.h, which take the buffers beside it. */
typedef struct {
    const void *constant;
    int per_row; /* whether the constant has its own values for each row of a sample */
    int relu;
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
    int divides, kind, mask, z_per_row;
    double stabilizer;
} lrpfast_finish;

#define LRPFAST_KERNELS(T, TABLE)                                                                                     \
    typedef struct {                                                                                                  \
        ptrdiff_t lanes; /* elements of one vector */                                                                 \
        ptrdiff_t panel; /* vectors of one panel of packed weights */                                                 \
        void (*block)(ptrdiff_t, ptrdiff_t, const ptrdiff_t *, const T *const *, const T *, ptrdiff_t, T *,           \
                      ptrdiff_t, int);                                                                                \
        void (*deep)(ptrdiff_t, ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, const T *, T *, ptrdiff_t);               \
        void (*load)(ptrdiff_t, const T *, int, int, T *);                                                            \
        void (*pack)(ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, ptrdiff_t, int, int, T *);                           \
        void (*gather)(ptrdiff_t, const int64_t *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t,             \
                       ptrdiff_t, int, int, T *, ptrdiff_t);                                                          \
        void (*lane)(ptrdiff_t, ptrdiff_t, int, const T *const *, const T *const *, const T *, int, T *);             \
        int (*outputs)(const lrpfast_finish *, void *const *, ptrdiff_t, const ptrdiff_t *, const ptrdiff_t *,        \
                       ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, ptrdiff_t);                                        \
        int (*shares)(const lrpfast_finish *, void *const *, ptrdiff_t, const ptrdiff_t *, const ptrdiff_t *,         \
                      ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, ptrdiff_t);                                         \
        int (*shallow)(int, ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, const T *, const T *, ptrdiff_t, const T *,   \
                       T, T, T *, ptrdiff_t);                                                                         \
        void (*divide)(ptrdiff_t, const T *, const T *, T, int, int, const T *, T *);                                 \
        int (*finite)(ptrdiff_t, const T *);                                                                          \
        void (*largest)(ptrdiff_t, const T *, T, T *, T *);                                                           \
        void (*won)(ptrdiff_t, const T *, const T *, T, T *);                                                         \
        void (*add)(ptrdiff_t, const T *, T *);                                                                       \
        void (*relu)(ptrdiff_t, const T *, T *);                                                                      \
        double (*absolute)(ptrdiff_t, const T *);                                                                     \
    } TABLE;
LRPFAST_KERNELS(float, lrpfast_f32)
LRPFAST_KERNELS(double, lrpfast_f64)

/* Instruction sets this processor can run, best last; each a static name. */
int lrpfast_isa_count(void);
const char *lrpfast_isa_name(int isa);
const lrpfast_f32 *lrpfast_kernels_f32(int isa);
const lrpfast_f64 *lrpfast_kernels_f64(int isa);

#endif
