/* Passes without a matrix product: channel by channel, divisions, pooling, sums, checks. */

/* NR rows, NV vectors of channels, of which the last may be shorter. */
static inline __attribute__((always_inline)) void NAME(channelwise_vectors)(
    const int NR, const int NV, const int part, const int weighted, const int scaled, ptrdiff_t first, ptrdiff_t step,
    ptrdiff_t j, ptrdiff_t n, ptrdiff_t count, const T *const *x, const T *const *weights, const T *factors,
    int accumulate, T *out, ptrdiff_t ld)
{
    const NAME(v) zero = {0};
    NAME(v) sums[4][4];
    UNROLL
    for (int r = 0; r < NR; r++)
        UNROLL
        for (int i = 0; i < NV; i++)
            sums[r][i] = zero;
    for (ptrdiff_t t = 0; t < count; t++) {
        const T *from = x[t] + first * step + j, *w = weighted ? weights[t] + j : 0;
        const NAME(v) factor = scaled ? factors[t] - zero : zero;
        NAME(v) weight[4];
        UNROLL
        for (int i = 0; i < NV; i++)
            weight[i] = !weighted ? factor
                        : NV > 1  ? (NAME(v)) * (const NAME(u) *)(w + i * VL)
                                  : NAME(load_vector)(w, n - j);
        UNROLL
        for (int r = 0; r < NR; r++, from += step)
            UNROLL
            for (int i = 0; i < NV; i++) {
                NAME(v) value =
                    NV > 1 ? (NAME(v)) * (const NAME(u) *)(from + i * VL) : NAME(load_vector)(from, n - j);
                if (part == LRPFAST_POSITIVE)
                    value = MAX(value, zero);
                if (part == LRPFAST_NEGATIVE)
                    value = MIN(value, zero);
                if (part == LRPFAST_ABSOLUTE)
                    value = MAX(value, -value);
                if (weighted && scaled)
                    value = value * factor;
                sums[r][i] = FMA(value, weight[i], sums[r][i]);
            }
    }
    UNROLL
    for (int r = 0; r < NR; r++)
        UNROLL
        for (int i = 0; i < NV; i++) { /* whole vectors: sums have room for them */
            NAME(u) *to = (NAME(u) *)(out + (first + r) * ld + j + i * VL);
            if (accumulate)
                sums[r][i] = *to + sums[r][i];
            *to = sums[r][i];
        }
}

static inline __attribute__((always_inline)) void NAME(channelwise_any)(
    const int part, const int weighted, const int scaled, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count,
    const T *const *x, const T *const *weights, const T *factors, int accumulate, T *out, ptrdiff_t ld)
{
#define VECTORS(NR, NV)                                                                                          \
    for (; j + ((NV) - 1) * VL < n && ((NV) == 1 || j + (NV) * VL <= n); j += (NV) * VL)                         \
    NAME(channelwise_vectors)(NR, NV, part, weighted, scaled, i, step, j, n, count, x, weights, factors, accumulate, \
                              out, ld)
    ptrdiff_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        ptrdiff_t j = 0;
        VECTORS(4, 2);
        VECTORS(4, 1);
    }
    for (; i < rows; i++) {
        ptrdiff_t j = 0;
        VECTORS(1, 4);
        VECTORS(1, 2);
        VECTORS(1, 1);
    }
#undef VECTORS
}

/* Row i: out (+)= Σ_t part(x_t + i · step) · factor_t ⊙ weights_t, for n channels; without weights, or factors, where
 * there are none. */
static void NAME(channelwise)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, int part,
                              const void *const *inputs, const void *const *weight_rows, const void *tap_factors,
                              int accumulate, void *sums, ptrdiff_t ld)
{
    const T *const *x = (const T *const *)inputs, *const *weights = (const T *const *)weight_rows;
    const T *factors = tap_factors;
    T *out = sums;
#define CHANNELWISE(part)                                                                                    \
    if (weights && factors)                                                                                  \
        NAME(channelwise_any)(part, 1, 1, rows, step, n, count, x, weights, factors, accumulate, out, ld);   \
    else if (weights)                                                                                        \
        NAME(channelwise_any)(part, 1, 0, rows, step, n, count, x, weights, factors, accumulate, out, ld);   \
    else                                                                                                     \
        NAME(channelwise_any)(part, 0, 1, rows, step, n, count, x, weights, factors, accumulate, out, ld)
    if (part == LRPFAST_X) {
        CHANNELWISE(LRPFAST_X);
    } else if (part == LRPFAST_POSITIVE) {
        CHANNELWISE(LRPFAST_POSITIVE);
    } else if (part == LRPFAST_NEGATIVE) {
        CHANNELWISE(LRPFAST_NEGATIVE);
    } else {
        CHANNELWISE(LRPFAST_ABSOLUTE);
    }
#undef CHANNELWISE
}

/* out = R / (z + stabilizer); mask +1 or −1: zero unless mask_z has that sign. */
static void NAME(divide)(ptrdiff_t n, const void *relevance, const void *denominator, double value, int stabilizer,
                         int mask, const void *masking, void *output)
{
    const T *R = relevance, *z = denominator, *mask_z = masking;
    T *out = output;
    const NAME(v) zero = {0};
    for (ptrdiff_t j = 0; j < n; j += VL) {
        NAME(v) s = NAME(divide_stabilized)(NAME(load_vector)(R + j, n - j), NAME(load_vector)(z + j, n - j), (T)value,
                                            stabilizer);
        if (mask) {
            NAME(v) m = NAME(load_vector)(mask_z + j, n - j);
            s = mask > 0 ? WHERE(m > zero, s, zero) : WHERE(m < zero, s, zero);
        }
        NAME(store_vector)(out + j, s, n - j);
    }
}

/* out = R / (z + stabilizer), where z is one of two by the sign of mask_z, zero where that is 0; signed_out = out times
 * that sign. */
static void NAME(divide_by_sign)(ptrdiff_t n, const void *relevance, const void *positive_z, const void *negative_z,
                                 const void *masking, double value, int stabilizer, void *output, void *signed_output)
{
    const T *R = relevance, *above = positive_z, *below = negative_z, *mask_z = masking;
    T *out = output, *signed_out = signed_output;
    const NAME(v) zero = {0};
    for (ptrdiff_t j = 0; j < n; j += VL) {
        NAME(v) m = NAME(load_vector)(mask_z + j, n - j);
        NAME(v) z = WHERE(m > zero, NAME(load_vector)(above + j, n - j), NAME(load_vector)(below + j, n - j));
        NAME(v) s = NAME(divide_stabilized)(NAME(load_vector)(R + j, n - j), z, (T)value, stabilizer);
        NAME(v) lower = WHERE(m < zero, s, zero);
        s = WHERE(m > zero, s, zero);
        NAME(store_vector)(out + j, s + lower, n - j);
        NAME(store_vector)(signed_out + j, s - lower, n - j);
    }
}

/* Row by row the largest of a window's taps, and which tap it is: the first of equals. Without taps 0 and −1. */
static inline __attribute__((always_inline)) void NAME(largest_any)(
    const ptrdiff_t count, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, const T *const *x, const T *numbers, T *out,
    T *winner)
{
    const NAME(v) zero = {0};
    for (ptrdiff_t r = 0; r < rows; r++, out += n, winner += winner ? n : 0)
        for (ptrdiff_t j = 0; j < n; j += VL) {
            NAME(v) best = zero, which = zero - 1;
            for (ptrdiff_t t = 0; t < count; t++) {
                NAME(v) value = NAME(load_vector)(x[t] + r * step + j, n - j), number = numbers[t] - zero;
                which = t ? WHERE(value > best, number, which) : number;
                best = t ? WHERE(value > best, value, best) : value;
            }
            NAME(store_vector)(out + j, best, n - j);
            if (winner)
                NAME(store_vector)(winner + j, which, n - j);
        }
}

/* Row i: of n channels, those at x_t + i · step, whose taps have these numbers; `winners` may be NULL. */
static void NAME(largest)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, const void *const *inputs,
                          const void *tap_numbers, void *output, void *winners)
{
    const T *const *x = (const T *const *)inputs, *numbers = tap_numbers;
    if (count == 4) /* nearly always */
        NAME(largest_any)(4, rows, step, n, x, numbers, output, winners);
    else
        NAME(largest_any)(count, rows, step, n, x, numbers, output, winners);
}

static inline __attribute__((always_inline)) void NAME(to_winners_any)(
    const ptrdiff_t count, const int adds, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, const T *relevance,
    const T *winner, const T *numbers, T *const *out)
{
    const NAME(v) zero = {0};
    for (ptrdiff_t r = 0; r < rows; r++, relevance += n, winner += n)
        for (ptrdiff_t j = 0; j < n; j += VL) {
            NAME(v) R = NAME(load_vector)(relevance + j, n - j), which = NAME(load_vector)(winner + j, n - j);
            for (ptrdiff_t t = 0; t < count; t++) {
                T *to = out[t] + r * step + j;
                NAME(v) before = adds ? NAME(load_vector)(to, n - j) : zero;
                NAME(store_vector)(to, before + WHERE(which == numbers[t] - zero, R, zero), n - j);
            }
        }
}

/* Row i's relevance goes to out_t + i · step, n channels, where the winner has the number of tap t, and 0 where it has
 * not; or is added to what is there. */
static void NAME(to_winners)(ptrdiff_t rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, int adds,
                             const void *incoming, const void *winners, const void *tap_numbers, void *const *outputs)
{
    T *const *out = (T *const *)outputs;
    if (count == 4 && !adds) /* nearly always */
        NAME(to_winners_any)(4, 0, rows, step, n, incoming, winners, tap_numbers, out);
    else
        NAME(to_winners_any)(count, adds, rows, step, n, incoming, winners, tap_numbers, out);
}

static void NAME(add)(ptrdiff_t n, const void *input, void *output)
{
    const T *x = input;
    T *out = output;
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = out[j] + x[j];
}

static void NAME(relu)(ptrdiff_t n, const void *input, void *output)
{
    const T *x = input;
    T *out = output;
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = x[j] > 0 ? x[j] : 0;
}

/* Whether every value is finite: x · 0 is 0 for a finite x and NaN for any other. */
static int NAME(finite)(ptrdiff_t n, const void *input)
{
    const T *x = input;
    NAME(v) sums[4] = {{0}, {0}, {0}, {0}}; /* four chains, for speed */
    ptrdiff_t j = 0;
    for (; j + 4 * VL <= n; j += 4 * VL)
        UNROLL
        for (int c = 0; c < 4; c++)
            sums[c] = sums[c] + *(const NAME(u) *)(x + j + c * VL) * (T)0;
    NAME(v) sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    T total = 0;
    for (ptrdiff_t k = 0; k < VL; k++) total = total + sum[k];
    for (; j < n; j++) total = total + x[j] * (T)0;
    return total == 0;
}

/* Σ|x|, NaN left out: in blocks, so that no sum in T is long. */
static double NAME(absolute)(ptrdiff_t n, const void *input)
{
    const T *x = input;
    const NAME(v) zero = {0};
    double total = 0;
    ptrdiff_t j = 0;
    while (j + 4 * VL <= n) {
        NAME(v) sums[4] = {{0}, {0}, {0}, {0}};
        ptrdiff_t stop = n - j < 4096 ? n : j + 4096;
        for (; j + 4 * VL <= stop; j += 4 * VL)
            UNROLL
            for (int c = 0; c < 4; c++) {
                NAME(v) value = *(const NAME(u) *)(x + j + c * VL);
                sums[c] = sums[c] + WHERE(value > zero, value, WHERE(value < zero, -value, zero));
            }
        NAME(v) sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        for (ptrdiff_t k = 0; k < VL; k++) total = total + sum[k];
    }
    for (; j < n; j++) total = total + (x[j] > 0 ? x[j] : x[j] < 0 ? -x[j] : 0);
    return total;
}
