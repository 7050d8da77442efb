/* The kernels on tile registers by themselves, for test_amx.py: the instructions emulated, or the processor's own. */
#define _GNU_SOURCE
#include "compute.h"

#include <math.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if !defined(LRPFAST_EMULATE_AMX)
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")
#endif

#define UNROLL _Pragma("GCC unroll 14")
#define T float
#define SINGLE 1
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, _f32)
#define VBYTES 16
#define WIDE 0
#define FMA(a, b, c) ((a) * (b) + (c))
#define MAX(a, b) WHERE((a) > (b), a, b)
#define MIN(a, b) WHERE((a) < (b), a, b)
#include "tile.h"
#define VL ((ptrdiff_t)(VBYTES / sizeof(T)))
#include "tile_amx.h"

int granted(void)
{
#if defined(LRPFAST_EMULATE_AMX)
    return 1;
#else
    return !syscall(SYS_arch_prctl, 0x1023, 18);
#endif
}

static const lrpfast_kernels *of(int products)
{
    return products == 6 ? &kernels_amx : products == 4 ? &kernels_amx_tf32 : &kernels_amx_bf16x2;
}

void products_pack(int products, ptrdiff_t depth, ptrdiff_t columns, const float *w, ptrdiff_t row_step,
                   ptrdiff_t column_step, int sign, void *packed)
{
    of(products)->pack(depth, columns, w, row_step, column_step, sign, 0, packed);
}
void products_split(int products, ptrdiff_t rows, ptrdiff_t first, ptrdiff_t count, ptrdiff_t segments,
                    const ptrdiff_t *lengths, const void *const *input, void *split)
{
    of(products)->split(rows, first, count, segments, lengths, input, split);
}
void products_block(int products, ptrdiff_t rows, ptrdiff_t depth, const void *split, const void *packed,
                    ptrdiff_t columns, float *sums, ptrdiff_t ld, int accumulate)
{
    of(products)->block(rows, 1, &depth, &split, packed, columns, sums, ld, accumulate);
}
