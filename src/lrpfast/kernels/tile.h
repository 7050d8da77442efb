/* The register tile and the row epilogues, for one dtype and one instruction set.
 *
 * compute.c includes this file once for every pair, with
 *   T      the element type, float or double
 *   NAME   a macro that makes a name unique to the pair
 *   VBYTES the vector width in bytes
 *   FMA(a, b, c)  a * b + c on vectors, fused where the instruction set can
 *   WIDE   1 where there are 32 vector registers, 0 where there are 16
 *
 * Each output's sum runs over k in order, one fused multiply-add a step, whatever
 * the tile's shape: results do not depend on how rows are grouped.
 */

#define VL ((ptrdiff_t)(VBYTES / sizeof(T)))

typedef T NAME(v) __attribute__((vector_size(VBYTES)));                                     /* in registers */
typedef T NAME(u) __attribute__((vector_size(VBYTES), aligned(sizeof(T)), may_alias));      /* in memory */

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
#define ENTRY(MR, NV) {MR, NAME(tile_##MR##x##NV)}

typedef struct {
    int rows;
    void (*run)(ptrdiff_t, const ptrdiff_t *, const T *const *, const T *, T *, ptrdiff_t, int);
} NAME(entry);

#if WIDE
#define PANEL 4
TILE(8, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
TILE(8, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
TILE(8, 3) TILE(4, 3) TILE(2, 3) TILE(1, 3)
TILE(6, 4) TILE(4, 4) TILE(2, 4) TILE(1, 4)
static const NAME(entry) NAME(tiles)[4][4] = {
    {ENTRY(8, 1), ENTRY(4, 1), ENTRY(2, 1), ENTRY(1, 1)},
    {ENTRY(8, 2), ENTRY(4, 2), ENTRY(2, 2), ENTRY(1, 2)},
    {ENTRY(8, 3), ENTRY(4, 3), ENTRY(2, 3), ENTRY(1, 3)},
    {ENTRY(6, 4), ENTRY(4, 4), ENTRY(2, 4), ENTRY(1, 4)},
};
#else
#define PANEL 2
TILE(8, 1) TILE(4, 1) TILE(2, 1) TILE(1, 1)
TILE(6, 2) TILE(4, 2) TILE(2, 2) TILE(1, 2)
static const NAME(entry) NAME(tiles)[2][4] = {
    {ENTRY(8, 1), ENTRY(4, 1), ENTRY(2, 1), ENTRY(1, 1)},
    {ENTRY(6, 2), ENTRY(4, 2), ENTRY(2, 2), ENTRY(1, 2)},
};
#endif

/* C[rows, columns] (+)= A[rows, one block of k] · packed B; columns is a multiple of VL. */
static void NAME(block)(ptrdiff_t rows, ptrdiff_t segments, const ptrdiff_t *lengths, const T *const *A, const T *B,
                        ptrdiff_t columns, T *C, ptrdiff_t ldc, int accumulate)
{
    ptrdiff_t depth = 0;
    for (ptrdiff_t s = 0; s < segments; s++)
        depth += lengths[s];
    for (ptrdiff_t n = 0; n < columns; n += PANEL * VL) {
        ptrdiff_t width = columns - n < PANEL * VL ? columns - n : PANEL * VL;
        const NAME(entry) *entry = NAME(tiles)[width / VL - 1];
        for (ptrdiff_t i = 0; i < rows; i += entry->rows) {
            while (entry->rows > rows - i)
                entry++;
            entry->run(segments, lengths, A + i, B, C + i * ldc + n, ldc, accumulate);
        }
        B += depth * width;
    }
}

/* C[row] = A[row] · packed B for one vector of columns and many k, `depth` to a block:
 * eight blocks at once, added in order. The same sums as one block after another, but
 * no multiply-add waits for the one before; with few rows nothing else would fill the time. */
static void NAME(deep)(ptrdiff_t rows, ptrdiff_t K, ptrdiff_t depth, const T *A, ptrdiff_t lda, const T *B, T *C,
                       ptrdiff_t ldc)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        const T *a = A + i * lda;
        NAME(v) total = {0};
        for (ptrdiff_t k0 = 0; k0 < K;) {
            NAME(v) c[8] = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
            int count = 1;
            if (k0 + 8 * depth <= K) {
                count = 8;
                for (ptrdiff_t k = k0; k < k0 + depth; k++)
                    UNROLL
                    for (int j = 0; j < 8; j++)
                        c[j] = FMA(a[k + j * depth] - (NAME(v)){0}, *(const NAME(u) *)(B + (k + j * depth) * VL), c[j]);
            } else
                for (ptrdiff_t k = k0; k < k0 + depth && k < K; k++)
                    c[0] = FMA(a[k] - (NAME(v)){0}, *(const NAME(u) *)(B + k * VL), c[0]);
            for (int j = 0; j < count; j++)
                total = k0 + j ? total + c[j] : c[0];
            k0 += count * depth;
        }
        *(NAME(u) *)(C + i * ldc) = total;
    }
}

static inline __attribute__((always_inline)) NAME(v) NAME(some)(const T *x, ptrdiff_t n)
{
    NAME(v) value = {0};
    if (n >= VL)
        return *(const NAME(u) *)x;
    for (ptrdiff_t j = 0; j < n; j++)
        value[j] = x[j];
    return value;
}

static inline __attribute__((always_inline)) void NAME(put)(T *to, NAME(v) value, ptrdiff_t n)
{
    if (n >= VL)
        *(NAME(u) *)to = value;
    else
        for (ptrdiff_t j = 0; j < n; j++)
            to[j] = value[j];
}

#define WHERE(condition, yes, no) ((NAME(v))(((condition) & (__typeof__(condition))(yes)) | (~(condition) & (__typeof__(condition))(no))))

static inline __attribute__((always_inline)) int NAME(is_zero)(NAME(v) check)
{
    T total = 0;
    for (ptrdiff_t j = 0; j < VL; j++)
        total = total + check[j];
    return total == 0;
}

/* r / (z + stabilizer); kind 0: value · sign(z) with sign(0) = +1, kind 1: only where z == 0. */
static inline __attribute__((always_inline)) NAME(v) NAME(stable)(NAME(v) r, NAME(v) z, T value, int kind)
{
    const NAME(v) zero = {0};
    if (kind == 0)
        return r / (z + WHERE(z >= zero, value - zero, -value - zero));
    return r / (z + WHERE(z == zero, value - zero, zero));
}

static T NAME(tf32)(T value)
{
    float f = (float)value;
    unsigned int bits;
    __builtin_memcpy(&bits, &f, 4);
    bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu; /* to nearest, ties to even */
    __builtin_memcpy(&f, &bits, 4);
    return (T)f;
}

/* A row's part of x, rounded to TF32 if asked: part 0 is x, 1 is x+, 2 is x-. */
static void NAME(load)(ptrdiff_t n, const T *x, int part, int tf32, T *out)
{
    if (part == 0 && out != x)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j];
    else if (part == 1)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] > 0 ? x[j] : 0;
    else if (part == 2)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] < 0 ? x[j] : 0;
    if (tf32)
        for (ptrdiff_t j = 0; j < n; j++) out[j] = NAME(tf32)(out[j]);
}

typedef T NAME(four) __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));

/* A transpose, 16 of depth at a time: lines that are read stay in the cache till they are used up. */
static void NAME(turn)(ptrdiff_t depth, ptrdiff_t width, const T *w, ptrdiff_t row_step, ptrdiff_t column_step,
                       T *restrict out, ptrdiff_t ld)
{
    for (ptrdiff_t k0 = 0; k0 < depth; k0 += 16) {
        ptrdiff_t end = k0 + 16 < depth ? k0 + 16 : depth, j = 0;
        if (row_step == 1 && end == k0 + 16)
            for (; j + 4 <= width; j += 4) {
                const T *a = w + j * column_step, *b = a + column_step, *c = b + column_step, *d = c + column_step;
                __builtin_prefetch(a + k0 + 64);
                __builtin_prefetch(b + k0 + 64);
                __builtin_prefetch(c + k0 + 64);
                __builtin_prefetch(d + k0 + 64);
                UNROLL
                for (int k = 0; k < 16; k += 4) {
                    NAME(four) p = *(const NAME(four) *)(a + k0 + k), q = *(const NAME(four) *)(b + k0 + k);
                    NAME(four) r = *(const NAME(four) *)(c + k0 + k), s = *(const NAME(four) *)(d + k0 + k);
                    UNROLL
                    for (int l = 0; l < 4; l++)
                        *(NAME(four) *)(out + (k0 + k + l) * ld + j) = (NAME(four)){p[l], q[l], r[l], s[l]};
                }
            }
        for (; j < width; j++)
            for (ptrdiff_t k = k0; k < end; k++)
                out[k * ld + j] = w[k * row_step + j * column_step];
    }
}

/* w, element (k, n) at k * row_step + n * column_step, as panels for `block`, padded with zeros. Sign +1 takes w+,
 * −1 takes w−: clamping costs nothing here. */
static void NAME(pack)(ptrdiff_t depth, ptrdiff_t columns, const T *w, ptrdiff_t row_step, ptrdiff_t column_step,
                       int sign, int tf32, T *restrict out)
{
    for (ptrdiff_t n0 = 0; n0 < columns; n0 += PANEL * VL) {
        ptrdiff_t width = columns - n0 < PANEL * VL ? columns - n0 : PANEL * VL, padded = (width + VL - 1) / VL * VL;
        if (width < padded)
            for (ptrdiff_t k = 0; k < depth; k++)
                for (ptrdiff_t j = width; j < padded; j++)
                    out[k * padded + j] = 0;
        if (column_step == 1)
            for (ptrdiff_t k = 0; k < depth; k++)
                for (ptrdiff_t j = 0; j < width; j++)
                    out[k * padded + j] = w[k * row_step + n0 + j];
        else
            NAME(turn)(depth, width, w + n0 * column_step, row_step, column_step, out, padded);
        NAME(load)(depth * padded, out, sign > 0 ? 1 : sign < 0 ? 2 : 0, tf32, out);
        out += depth * padded;
    }
}

static inline __attribute__((always_inline)) void NAME(copy)(ptrdiff_t n, const T *from, T *to)
{
    if (n < VL) {
        for (ptrdiff_t j = 0; j < n; j++) to[j] = from[j];
        return;
    }
    for (ptrdiff_t j = 0; j + VL < n; j += VL)
        *(NAME(u) *)(to + j) = *(const NAME(u) *)(from + j);
    *(NAME(u) *)(to + n - VL) = *(const NAME(u) *)(from + n - VL); /* may overlap the one before */
}

/* Columns k0 to k0 + depth of the matrix that a convolution multiplies, for some rows: k counts
 * (tap, channel), `sources` holds the row of x of every (row, tap), or −1 outside. */
static void NAME(gather)(ptrdiff_t rows, const int64_t *sources, ptrdiff_t taps, ptrdiff_t channels, ptrdiff_t stride,
                         const T *x, ptrdiff_t k0, ptrdiff_t depth, int part, int tf32, T *out, ptrdiff_t ld)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        const int64_t *source = sources + i * taps + k0 / channels;
        T *row = out + i * ld;
        ptrdiff_t from = k0 % channels;
        for (ptrdiff_t k = 0; k < depth;) {
            ptrdiff_t n = channels - from;
            int64_t at = *source++;
            if (at >= 0 && stride == channels) /* neighbours in memory are one run */
                while (k + n < depth && *source == source[-1] + 1) {
                    n += channels;
                    source++;
                }
            n = n < depth - k ? n : depth - k;
            if (at >= 0)
                NAME(copy)(n, x + at * stride + from, row + k);
            else
                for (ptrdiff_t j = 0; j < n; j++) row[k + j] = 0;
            k += n;
            from = 0;
        }
        if (part == 1)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = row[j] > 0 ? row[j] : 0;
        if (part == 2)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = row[j] < 0 ? row[j] : 0;
        if (tf32)
            for (ptrdiff_t j = 0; j < depth; j++) row[j] = NAME(tf32)(row[j]);
    }
}

static inline __attribute__((always_inline)) void NAME(lane_any)(
    const int part, const int weighted, ptrdiff_t n, ptrdiff_t count, const T *const *x, const T *const *weights,
    const T *factors, int accumulate, T *out)
{
    const NAME(v) zero = {0};
    for (ptrdiff_t j = 0; j < n; j += VL) {
        NAME(v) sum = zero;
        for (ptrdiff_t t = 0; t < count; t++) {
            NAME(v) value = NAME(some)(x[t] + j, n - j);
            if (part == 1)
                value = (NAME(v))((__typeof__(value > zero))value & (value > zero));
            if (part == 2)
                value = (NAME(v))((__typeof__(value > zero))value & (value < zero));
            NAME(v) factor = factors[t] - zero;
            if (weighted)
                sum = FMA(value * factor, NAME(some)(weights[t] + j, n - j), sum);
            else
                sum = FMA(value, factor, sum);
        }
        NAME(u) *to = (NAME(u) *)(out + j); /* whole vectors: sums have room for them */
        if (accumulate)
            sum = *to + sum;
        *to = sum;
    }
}

/* out (+)= Σ_t part(x_t) · factor_t ⊙ weights_t, for n channels; without weights where there are none. */
static void NAME(lane)(ptrdiff_t n, ptrdiff_t count, int part, const T *const *x, const T *const *weights,
                       const T *factors, int accumulate, T *out)
{
    if (part == 0 && weights)
        NAME(lane_any)(0, 1, n, count, x, weights, factors, accumulate, out);
    else if (part == 0)
        NAME(lane_any)(0, 0, n, count, x, weights, factors, accumulate, out);
    else if (part == 1 && weights)
        NAME(lane_any)(1, 1, n, count, x, weights, factors, accumulate, out);
    else if (part == 1)
        NAME(lane_any)(1, 0, n, count, x, weights, factors, accumulate, out);
    else if (weights)
        NAME(lane_any)(2, 1, n, count, x, weights, factors, accumulate, out);
    else
        NAME(lane_any)(2, 0, n, count, x, weights, factors, accumulate, out);
}

/* What finished sums become. Row i of a plane of sums goes to row at[i] of the buffers; what has its own
 * values for each row of a sample is at place[i]. The last vector overlaps the one before: no short loop. */
#define FOR_VECTORS(n)                                                                     \
    for (ptrdiff_t j = 0, left = (n); left > 0; j += VL, left -= VL)                       \
        if (left < VL && (n) >= VL && (j -= VL - left, left = VL, 0)) {                    \
        } else

static inline __attribute__((always_inline)) int NAME(outputs_any)(
    const int plain, const lrpfast_finish *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
    const ptrdiff_t *place, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    NAME(v) check = {0};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (int o = 0; o < f->outputs; o++) {
            const lrpfast_output *output = &f->output[o];
            const T *acc = sums + i * ld;
            T *out = (T *)buffers[o] + at[i] + n0;
            const T *constant = (const T *)output->constant;
            if (constant)
                constant += n0 + (output->per_row ? place[i] : 0);
            FOR_VECTORS(n) {
                NAME(v) value = {0};
                int first = 1;
                if (plain)
                    value = NAME(some)(acc + j, left);
                for (int a = 0; !plain && a < f->sums; a++) {
                    T c = (T)output->coefficients[a];
                    if (c == 0)
                        continue;
                    NAME(v) sum = NAME(some)(acc + a * plane + j, left);
                    if (c != 1)
                        sum = c * sum;
                    value = first ? sum : value + sum;
                    first = 0;
                }
                if (constant)
                    value = value + NAME(some)(constant + j, left);
                check = FMA(value, (NAME(v)){0}, check); /* before a ReLU can hide it */
                if (output->relu)
                    value = WHERE(value > (NAME(v)){0}, value, (NAME(v)){0});
                NAME(put)(out + j, value, left);
            }
        }
    return NAME(is_zero)(check);
}

static int NAME(outputs)(const lrpfast_finish *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
                         const ptrdiff_t *place, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane,
                         ptrdiff_t ld)
{
    int plain = f->sums == 1;
    for (int o = 0; o < f->outputs; o++)
        plain &= f->output[o].coefficients[0] == 1;
    if (plain) /* nearly always */
        return NAME(outputs_any)(1, f, buffers, rows, at, place, n0, n, sums, plane, ld);
    return NAME(outputs_any)(0, f, buffers, rows, at, place, n0, n, sums, plane, ld);
}

/* out = Σ_shares c · part(x) ⊙ sum, then perhaps out / (z + stabilizer); buffers are x, out, z and mask_z.
 * Parts 0 to 2 as in load, 3 is 1, 4 is x − bound; a bound is one number (step 0) or one per element (step 1). Under
 * TF32 the difference is taken after multiplying, as the reference does. */
static inline __attribute__((always_inline)) int NAME(shares_any)(
    const int plain, const int divides, const lrpfast_finish *f, void *const *buffers, ptrdiff_t rows,
    const ptrdiff_t *at, const ptrdiff_t *place, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane,
    ptrdiff_t ld)
{
    NAME(v) check = {0};
    const NAME(v) zero = {0};
    for (ptrdiff_t i = 0; i < rows; i++) {
        const T *acc = sums + i * ld;
        const T *from = (const T *)buffers[0] + at[i] + n0;
        T *to = (T *)buffers[1] + at[i] + n0;
        const T *z = (const T *)buffers[2] + (f->z_per_row ? place[i] : at[i]) + n0;
        const T *mask_z = (const T *)buffers[3] + at[i] + n0;
        FOR_VECTORS(n) {
            NAME(v) x = NAME(some)(from + j, left), total = zero;
            if (plain)
                total = x * NAME(some)(acc + f->share[0].accumulator * plane + j, left);
            for (int h = 0; !plain && h < f->shares; h++) {
                const lrpfast_share *share = &f->share[h];
                NAME(v) value = NAME(some)(acc + share->accumulator * plane + j, left);
                T c = (T)share->coefficient;
                if (share->part == 0)
                    value = x * value;
                else if (share->part == 1)
                    value = WHERE(x > zero, x, zero) * value;
                else if (share->part == 2)
                    value = WHERE(x < zero, x, zero) * value;
                else if (share->part == 4) {
                    const T *bounds = (const T *)share->bound;
                    NAME(v) bound = share->step ? NAME(some)(bounds + place[i] + n0 + j, left) : bounds[0] - zero;
                    value = f->tf32 ? x * value - bound * value : (x - bound) * value;
                }
                if (c != 1)
                    value = c * value;
                total = h ? total + value : value;
            }
            if (divides)
                total = NAME(stable)(total, NAME(some)(z + j, left), (T)f->stabilizer, f->kind);
            if (!plain && f->mask) {
                NAME(v) m = NAME(some)(mask_z + j, left);
                total = f->mask > 0 ? WHERE(m > zero, total, zero) : WHERE(m < zero, total, zero);
            }
            check = FMA(total, zero, check);
            NAME(put)(to + j, total, left);
        }
    }
    return NAME(is_zero)(check);
}

static int NAME(shares)(const lrpfast_finish *f, void *const *buffers, ptrdiff_t rows, const ptrdiff_t *at,
                        const ptrdiff_t *place, ptrdiff_t n0, ptrdiff_t n, const T *sums, ptrdiff_t plane, ptrdiff_t ld)
{
    const lrpfast_share *share = &f->share[0];
    if (f->shares == 1 && share->part == 0 && share->coefficient == 1 && !f->mask) { /* nearly always */
        if (f->divides)
            return NAME(shares_any)(1, 1, f, buffers, rows, at, place, n0, n, sums, plane, ld);
        return NAME(shares_any)(1, 0, f, buffers, rows, at, place, n0, n, sums, plane, ld);
    }
    return NAME(shares_any)(0, f->divides, f, buffers, rows, at, place, n0, n, sums, plane, ld);
}

/* A whole redistribution with few k and many columns, where memory is the limit: sums
 * stay in registers, x is read and out written once, and both are fetched ahead.
 * shares 1: out = sum; 2: out = x ⊙ sum; 3: out = (x − low) ⊙ sum + (x − high) ⊙ second,
 * term for term as `block` and `share` compute them. Returns whether out is finite. */
#define AHEAD (2048 / (ptrdiff_t)sizeof(T))

static inline __attribute__((always_inline)) void NAME(shallow_tile)(
    const int MR, const int NV, const int shares, ptrdiff_t K, const T *restrict A, ptrdiff_t lda,
    const T *restrict B, const T *restrict B2, ptrdiff_t step, ptrdiff_t columns,
    const T *restrict x, T low, T high, T *restrict out, ptrdiff_t ld, NAME(v) *check)
{
    NAME(v) c[6][2], d[6][2];
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++)
            c[i][j] = d[i][j] = (NAME(v)){0};
    for (ptrdiff_t k = 0; k < K; k++) {
        NAME(v) b[2], b2[2];
        UNROLL
        for (int j = 0; j < NV; j++) {
            b[j] = *(const NAME(u) *)(B + k * step + j * VL);
            if (shares == 3)
                b2[j] = *(const NAME(u) *)(B2 + k * step + j * VL);
        }
        UNROLL
        for (int i = 0; i < MR; i++) {
            NAME(v) a = A[i * lda + k] - (NAME(v)){0};
            UNROLL
            for (int j = 0; j < NV; j++) {
                c[i][j] = FMA(a, b[j], c[i][j]);
                if (shares == 3)
                    d[i][j] = FMA(a, b2[j], d[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++)
        UNROLL
        for (int j = 0; j < NV; j++) {
            const T *from = x + i * ld + j * VL;
            T *to = out + i * ld + j * VL;
            __builtin_prefetch(from + AHEAD, 0, 2);
            __builtin_prefetch(to + AHEAD, 1, 2);
            ptrdiff_t left = columns - j * VL;
            NAME(u) value = {0};
            if (shares > 1 && left >= VL)
                value = *(const NAME(u) *)from;
            else if (shares > 1)
                for (ptrdiff_t n = 0; n < left; n++)
                    value[n] = from[n];
            NAME(v) result = c[i][j];
            if (shares == 2)
                result = value * c[i][j];
            if (shares == 3)
                result = (value - low) * c[i][j] + (value - high) * d[i][j];
            *check = FMA(result, (NAME(v)){0}, *check);
            if (left >= VL)
                *(NAME(u) *)to = result;
            else
                for (ptrdiff_t n = 0; n < left; n++)
                    to[n] = result[n];
        }
}

#if WIDE
#define TALL 6
#else
#define TALL 2
#endif

static inline __attribute__((always_inline)) int NAME(shallow_any)(
    const int shares, ptrdiff_t rows, ptrdiff_t K, const T *A, ptrdiff_t lda, const T *B, const T *B2,
    ptrdiff_t columns, const T *x, T low, T high, T *out, ptrdiff_t ld)
{
    NAME(v) check = {0};
    for (ptrdiff_t n = 0; n < columns; n += PANEL * VL) {
        ptrdiff_t width = columns - n < PANEL * VL ? (columns - n + VL - 1) / VL * VL : PANEL * VL;
        for (ptrdiff_t j = 0; j < width; j += 2 * VL) {
            ptrdiff_t i = 0, at = n + j, left = columns - at;
            int pair = width - j >= 2 * VL;
            for (; i + TALL <= rows && pair; i += TALL)
                NAME(shallow_tile)(TALL, 2, shares, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
            for (; i < rows && pair; i++)
                NAME(shallow_tile)(1, 2, shares, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
            for (; i < rows; i++)
                NAME(shallow_tile)(1, 1, shares, K, A + i * lda, lda, B + j, B2 + j, width, left,
                                   x + i * ld + at, low, high, out + i * ld + at, ld, &check);
        }
        B += K * width;
        B2 += K * width;
    }
    T total = 0;
    for (ptrdiff_t k = 0; k < VL; k++)
        total = total + check[k];
    return total == 0;
}

static int NAME(shallow)(int shares, ptrdiff_t rows, ptrdiff_t K, const T *A, ptrdiff_t lda, const T *B, const T *B2,
                         ptrdiff_t columns, const T *x, T low, T high, T *out, ptrdiff_t ld)
{
    if (shares == 1)
        return NAME(shallow_any)(1, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
    if (shares == 2)
        return NAME(shallow_any)(2, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
    return NAME(shallow_any)(3, rows, K, A, lda, B, B2, columns, x, low, high, out, ld);
}
#undef TALL
#undef AHEAD

/* out = R / (z + stabilizer); mask +1 or −1: zero unless mask_z has that sign. */
static void NAME(divide)(ptrdiff_t n, const T *R, const T *z, T value, int kind, int mask, const T *mask_z, T *out)
{
    const NAME(v) zero = {0};
    for (ptrdiff_t j = 0; j < n; j += VL) {
        NAME(v) s = NAME(stable)(NAME(some)(R + j, n - j), NAME(some)(z + j, n - j), value, kind);
        if (mask) {
            NAME(v) m = NAME(some)(mask_z + j, n - j);
            s = mask > 0 ? WHERE(m > zero, s, zero) : WHERE(m < zero, s, zero);
        }
        NAME(put)(out + j, s, n - j);
    }
}

/* Light passes, one row of channels at a time. */

/* The largest so far of a window's taps, and which tap it was: the first of equals. */
static void NAME(largest)(ptrdiff_t n, const T *x, T tap, T *restrict out, T *restrict winner)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        int better = x[j] > out[j];
        winner[j] = better ? tap : winner[j];
        out[j] = better ? x[j] : out[j];
    }
}

/* out += relevance where the winner is this tap. */
static void NAME(won)(ptrdiff_t n, const T *relevance, const T *winner, T tap, T *restrict out)
{
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = out[j] + (winner[j] == tap ? relevance[j] : 0);
}

static void NAME(add)(ptrdiff_t n, const T *x, T *out)
{
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = out[j] + x[j];
}

static void NAME(relu)(ptrdiff_t n, const T *x, T *out)
{
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = x[j] > 0 ? x[j] : 0;
}

/* Whether every value is finite: x · 0 is 0 for a finite x and NaN for any other. */
static int NAME(finite)(ptrdiff_t n, const T *x)
{
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
static double NAME(absolute)(ptrdiff_t n, const T *x)
{
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

static const NAME(kernels_t) NAME(kernels) = {
    sizeof(T) == 4 ? VBYTES / 4 : VBYTES / 8, PANEL,
    NAME(block), NAME(deep), NAME(load), NAME(pack), NAME(gather), NAME(lane), NAME(outputs), NAME(shares),
    NAME(shallow), NAME(divide), NAME(finite), NAME(largest), NAME(won), NAME(add), NAME(relu), NAME(absolute),
};

#undef VL
#undef WHERE
#undef FOR_VECTORS
#undef TILE
#undef ENTRY
#undef PANEL
