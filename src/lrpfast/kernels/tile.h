/* All kernels for one dtype and one instruction set.
 *
 * compute.c includes this file once for every pair, with
 *   T      the element type, float or double
 *   SINGLE 1 where it is float, 0 where it is double
 *   NAME   a macro that makes a name unique to the pair
 *   VBYTES the vector width in bytes
 *   FMA(a, b, c)  a * b + c on vectors, fused where the instruction set can
 *   MAX(a, b), MIN(a, b)  of vectors; b where one of the two is NaN
 *   WIDE   1 where there are 32 vector registers, 0 where there are 16
 *
 * Each output's sum runs over k in order, one fused multiply-add a step, whatever
 * the tile's shape: results do not depend on how rows are grouped. compute.h says what
 * each kernel takes: its arrays are T's, there and here as `void *`, so that one table
 * of functions serves both dtypes.
 */

#define VL ((ptrdiff_t)(VBYTES / sizeof(T)))

typedef T NAME(v) __attribute__((vector_size(VBYTES)));                                     /* in registers */
typedef T NAME(u) __attribute__((vector_size(VBYTES), aligned(sizeof(T)), may_alias));      /* in memory */

#include "tile_vector.h"
#include "tile_micro_kernel.h"
#include "tile_pack.h"
#include "tile_epilogue.h"
#include "tile_small_k.h"
#include "tile_many_k.h"
#include "tile_few_columns.h"
#include "tile_sparse.h"
#include "tile_elementwise.h"
#include "tile_functions.h"
#if !SINGLE
#include "tile_recurrent.h"
#include "tile_recurrent_gradient.h"
#include "tile_recurrent_back.h"
#endif

/* What tile_amx.h has no other form of. */
#define KERNELS_BUT_PRODUCTS                                                               \
    .many_k = NAME(many_k), .few_columns = NAME(few_columns), .nonzeros = NAME(nonzeros), .pack_sparse = NAME(pack_sparse),  \
    .sparse_rows = NAME(sparse_rows), .sparse_taps = NAME(sparse_taps), .load = NAME(load), .gather = NAME(gather), .channelwise = NAME(channelwise), \
    .epilogue_forward = NAME(epilogue_forward), .epilogue_backward = NAME(epilogue_backward), .small_k = NAME(small_k), \
    .divide = NAME(divide), .divide_by_sign = NAME(divide_by_sign), .finite = NAME(finite), \
    .largest = NAME(largest), .to_winners = NAME(to_winners), \
    .add = NAME(add), .relu = NAME(relu), .absolute = NAME(absolute), \
    .function = NAME(function), .scaled = NAME(scaled), .softmax = NAME(softmax), .score_back = NAME(score_back), \
    .normalize = NAME(normalize), .normalize_back = NAME(normalize_back)

static const lrpfast_kernels NAME(kernels) = {
    .lanes = VBYTES / sizeof(T),
    .panel = PANEL,
    .depth_step = 1,
    .packed_bytes = sizeof(T),
    .pack = NAME(pack),
    .block = NAME(block),
    KERNELS_BUT_PRODUCTS,
#if !SINGLE
    .recurrent_scratch = NAME(recurrent_scratch),
    .recur = NAME(recur),
    .recur_back = NAME(recur_back),
#endif
};

#undef VL
#undef WHERE
#undef FOR_VECTORS
#undef TILE
#undef TILE_KERNEL
#undef PANEL
