/* The compute kernels of one dtype and instruction set, as a table of functions. */
#ifndef LRPFAST_COMPUTE_H
#define LRPFAST_COMPUTE_H

#include <stdint.h>

#define LRPFAST_KERNELS(T, TABLE)                                                          \
    typedef struct {                                                                       \
        long lanes; /* elements of one vector */                                           \
        long panel; /* vectors of one panel of packed weights */                           \
        void (*block)(long, long, const T *, long, const T *, long, T *, long, int);       \
        void (*deep)(long, long, long, const T *, long, const T *, T *, long);             \
        void (*load)(long, const T *, int, int, T *);                                      \
        void (*gather)(long, const int64_t *, long, long, long, const T *, long, long,     \
                       int, int, T *, long);                                               \
        void (*lane)(long, long, int, const T *const *, const T *const *, const T *, int, T *); \
        void (*combine)(long, int, const T *const *, const double *, const T *, int, T *); \
        void (*share)(long, int, T, int, const T *, const T *, const T *, int, int, T *);  \
        int (*shallow)(int, long, long, const T *, long, const T *, const T *, long,       \
                       const T *, T, T, T *, long);                                        \
        void (*divide)(long, const T *, const T *, T, int, int, const T *, T *);           \
        int (*finite)(long, const T *);                                                    \
        T (*tf32)(T);                                                                      \
    } TABLE;
LRPFAST_KERNELS(float, lrpfast_f32)
LRPFAST_KERNELS(double, lrpfast_f64)

/* Instruction sets this processor can run, best last; each a static name. */
int lrpfast_isa_count(void);
const char *lrpfast_isa_name(int isa);
const lrpfast_f32 *lrpfast_kernels_f32(int isa);
const lrpfast_f64 *lrpfast_kernels_f64(int isa);

#endif
