/* Functions of many values at a time: exp and what follows from it, and the passes of attention over a row of scores.
 *
 * All is computed in vectors of doubles, floats too: so that a float is the double's value, rounded once, and a double
 * is off by less than one unit in the last place. What would not be that accurate is left to the C library: `function`
 * says so. */

#define DL ((ptrdiff_t)(VBYTES / sizeof(double)))
#define ROUND 0x1.8p52 /* added and subtracted, it rounds to whole numbers; the sum's last bits are that number */

typedef double NAME(d) __attribute__((vector_size(VBYTES)));
typedef int64_t NAME(i) __attribute__((vector_size(VBYTES)));
typedef T NAME(few) __attribute__((vector_size(VBYTES / sizeof(double) * sizeof(T)), aligned(sizeof(T)), may_alias));

#define PICK(condition, yes, no) \
    ((NAME(d))(((condition) & (NAME(i))(yes)) | (~(condition) & (NAME(i))(no))))

static inline __attribute__((always_inline)) NAME(d) NAME(doubles)(const T *x, ptrdiff_t n)
{
    NAME(d) value = {0};
    if (n >= DL)
        return __builtin_convertvector(*(const NAME(few) *)x, NAME(d));
    for (ptrdiff_t j = 0; j < n; j++)
        value[j] = x[j];
    return value;
}

static inline __attribute__((always_inline)) void NAME(put_doubles)(T *to, NAME(d) value, ptrdiff_t n)
{
    if (n >= DL)
        *(NAME(few) *)to = __builtin_convertvector(value, NAME(few));
    else
        for (ptrdiff_t j = 0; j < n; j++)
            to[j] = (T)value[j];
}

/* e^x: 2^k e^r with |r| <= ln 2 / 2. A float's exponents fit in one factor 2^k; for doubles it is two, so that neither
 * overflows and results below the smallest normal number are right. */
static inline __attribute__((always_inline)) NAME(d) NAME(exponential)(NAME(d) x)
{
    static const double c[] = {1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
                               1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const NAME(d) none = {0}, least = none - (SINGLE ? 400.0 : 746.0), most = none + (SINGLE ? 400.0 : 710.0);
    const NAME(i) bias = (NAME(i)){0} + ((int64_t)1023 << 52);
    x = PICK(x < least, least, x);
    x = PICK(x > most, most, x);
    NAME(d) rounded = x * 1.4426950408889634 + ROUND, k = rounded - ROUND;
    NAME(d) r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10; /* the first product is exact */
    NAME(d) r2 = r * r, r4 = r2 * r2, low = (c[0] + c[1] * r) + (c[2] + c[3] * r) * r2;
    NAME(d) high = (c[4] + c[5] * r) + (c[6] + c[7] * r) * r2;
#if SINGLE
    NAME(d) value = 1.0 + (r + r2 * (low + high * r4));
    return value * (NAME(d))(((NAME(i))rounded << 52) + bias);
#else
    NAME(d) highest = (c[8] + c[9] * r) + (c[10] + c[11] * r) * r2;
    NAME(d) value = 1.0 + (r + r2 * (low + (high + highest * r4) * r4));
    NAME(d) first = k * 0.5 + ROUND, second = k - (first - ROUND) + ROUND;
    return value * (NAME(d))(((NAME(i))first << 52) + bias) * (NAME(d))(((NAME(i))second << 52) + bias);
#endif
}

static inline __attribute__((always_inline)) NAME(d) NAME(sigmoid)(NAME(d) x)
{
    const NAME(d) none = {0};
    NAME(d) t = NAME(exponential)(PICK(x < none, x, -x));
    return PICK(x < none, t, none + 1.0) / (1.0 + t);
}

#if SINGLE
/* tanh, to float's accuracy: near 0 by its series, so that no digits are lost. */
static inline __attribute__((always_inline)) NAME(d) NAME(tanh)(NAME(d) x)
{
    const NAME(d) none = {0};
    NAME(d) size = PICK(x < none, -x, x), t = NAME(exponential)(-2.0 * size);
    NAME(d) y = PICK(size < none + 1e-3, size - size * size * size / 3.0, (1.0 - t) / (1.0 + t));
    return PICK(x < none, -y, y);
}

/* erfc of 0 and above, to float's accuracy also where it is small: with t = 2 / (2 + x), the logarithm of erfc(x) e^(x²) / t
 * as a polynomial in 2 t - 1, which a Chebyshev fit gave; off by 3e-10 at most. */
static inline __attribute__((always_inline)) NAME(d) NAME(erfc)(NAME(d) x)
{
    static const double c[] = {-0.6717940841603562,     0.6726432205460053,     0.04734332036736684,
                               -0.046895482160985505,   -0.009872980459208333,  0.008823558177800263,
                               0.0017613393643986777,   -0.0023392777249640535, -0.00015613427284826562,
                               0.0006579538496725354,   -7.119731302460537e-05, -0.00015463379256528813,
                               4.179589660690374e-05,   2.0723071542798654e-05, -8.121255152377563e-06};
    NAME(d) t = 2.0 / (2.0 + x), y = 2.0 * t - 1.0, y2 = y * y, y4 = y2 * y2;
    NAME(d) a = (c[0] + c[1] * y) + (c[2] + c[3] * y) * y2, b = (c[4] + c[5] * y) + (c[6] + c[7] * y) * y2;
    NAME(d) d = (c[8] + c[9] * y) + (c[10] + c[11] * y) * y2, e = (c[12] + c[13] * y) + c[14] * y2;
    return t * NAME(exponential)((a + b * y4) + (d + e * y4) * (y4 * y4) - x * x);
}

static inline __attribute__((always_inline)) NAME(d) NAME(gelu)(NAME(d) x)
{
    const NAME(d) none = {0};
    NAME(d) tail = NAME(erfc)(PICK(x < none, -x, x) * 0.70710678118654752);
    return 0.5 * x * PICK(x < none, tail, 2.0 - tail);
}
#endif

#define EACH(value)                                                    \
    for (ptrdiff_t j = 0; j < n; j += DL) {                            \
        NAME(d) v = NAME(doubles)(x + j, n - j);                       \
        NAME(put_doubles)(out + j, value, n - j);                      \
    }                                                                  \
    return 1

/* out = f(x), where f is one of these; 0 where it is none. */
static int NAME(function)(int which, double p, ptrdiff_t n, const void *input, void *output)
{
    const T *x = input;
    T *out = output;
    if (which == LRPFAST_EXPONENTIAL) {
        EACH(NAME(exponential)(v));
    }
    if (which == LRPFAST_SIGMOID) {
        EACH(NAME(sigmoid)(v));
    }
    if (which == LRPFAST_SILU) {
        EACH(v * NAME(sigmoid)(v));
    }
    if (which == LRPFAST_GELU && p != 0) { /* by tanh, of which 1 + tanh(u) is 2 sigmoid(2 u) */
        EACH(v * NAME(sigmoid)(1.5957691216057308 * (v + 0.044715 * v * v * v)));
    }
#if SINGLE
    if (which == LRPFAST_GELU) {
        EACH(NAME(gelu)(v));
    }
    if (which == LRPFAST_TANH) {
        EACH(NAME(tanh)(v));
    }
#endif
    return 0;
}

/* The softmax of scores in place. Those of -inf are not seen: they become 0, and all do where none is. `rows` gets the
 * largest score and the sum; `again`: it holds them, and the same bits come out. The order of the sum depends on n and
 * the instruction set only. */
static void NAME(softmax)(ptrdiff_t n, void *scores, void *rows, int again)
{
    T *x = scores, *known = rows;
    T top = again ? known[0] : x[0];
    NAME(d) sums = {0};
    double total = 0;
    if (!again) {
        NAME(v) most = (NAME(v)){0} + x[0];
        ptrdiff_t j = 0;
        for (; j + VL <= n; j += VL) {
            NAME(v) value = *(const NAME(u) *)(x + j);
            most = WHERE(value > most, value, most);
        }
        for (ptrdiff_t k = 0; k < VL; k++) top = most[k] > top ? most[k] : top;
        for (; j < n; j++) top = x[j] > top ? x[j] : top;
        if (top == -(T)__builtin_inf())
            top = 0;
    }
    const NAME(d) none = {0};
    for (ptrdiff_t j = 0; j < n; j += DL) {
        NAME(d) e = NAME(exponential)(NAME(doubles)(x + j, n - j) - (double)top);
        if (!again) {
            if (n - j < DL)
                for (ptrdiff_t k = n - j; k < DL; k++) e[k] = 0;
            sums = sums + e;
        }
        NAME(put_doubles)(x + j, e, n - j);
    }
    if (again)
        total = known[1];
    else
        for (ptrdiff_t k = 0; k < DL; k++) total = total + sums[k];
    if (known && !again) {
        known[0] = top;
        known[1] = (T)total;
    }
    total = (T)total > 0 ? (double)(T)total : 1; /* 0 / 1 where nothing is seen */
    for (ptrdiff_t j = 0; j < n; j += DL)
        NAME(put_doubles)(x + j, NAME(doubles)(x + j, n - j) / (none + total), n - j);
}

/* s of a query's products z with the keys under AttnLRP where denominators are as they are: they cancel, and
 * s = scale · weight · (s / 2 − total), but 0 where a denominator is 0. */
static void NAME(score_back)(ptrdiff_t n, const void *products, const void *softmax, double total_, double scale_,
                             void *s_)
{
    const T *z = products, *a = softmax;
    const T total = (T)total_, scale = (T)scale_;
    T *s = s_;
    for (ptrdiff_t j = 0; j < n; j++) {
        T value = scale * (a[j] * ((T)0.5 * s[j] - total));
        s[j] = z[j] != 0 ? value : 0;
    }
}

/* x = scale · z, what the softmax takes of a product. */
static void NAME(scaled)(ptrdiff_t n, const void *input, double scale_, void *output)
{
    const T *z = input;
    const T scale = (T)scale_;
    T *x = output;
    for (ptrdiff_t j = 0; j < n; j++)
        x[j] = scale * z[j];
}

#undef DL
#undef PICK
#undef EACH
#undef ROUND
