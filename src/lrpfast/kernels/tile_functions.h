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

/* e^x: 2^k e^r with |r| <= ln 2 / 2, 2^k as two factors, so that neither overflows and small results are right. */
static inline __attribute__((always_inline)) NAME(d) NAME(exponential)(NAME(d) x)
{
    static const double c[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                               1.0 / 40320,      1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,
                               1.0 / 6,          1.0 / 2};
    const NAME(d) none = {0};
    const NAME(i) bias = (NAME(i)){0} + ((int64_t)1023 << 52);
    x = PICK(x < none - 746.0, none - 746.0, x);
    x = PICK(x > none + 710.0, none + 710.0, x);
    NAME(d) k = (x * 1.4426950408889634 + ROUND) - ROUND;
    NAME(d) r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10; /* the first product is exact */
    NAME(d) sum = none + c[0];
    UNROLL
    for (int i = 1; i < 12; i++)
        sum = sum * r + c[i];
    sum = 1.0 + (r + r * r * sum);
    NAME(d) first = k * 0.5 + ROUND, second = k - (first - ROUND) + ROUND;
    sum = sum * (NAME(d))(((NAME(i))first << 52) + bias);
    return sum * (NAME(d))(((NAME(i))second << 52) + bias);
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

/* erfc of 0 and above, to float's accuracy also where it is small: a Chebyshev series in 2 / (2 + x) for the logarithm
 * of erfc(x) (2 + x) / 2 e^(x²); see erfc_series in tests/test_functions.py, which makes the coefficients. */
static inline __attribute__((always_inline)) NAME(d) NAME(erfc)(NAME(d) x)
{
    static const double c[] = {-1.3026537197817094,    6.4196979235649026e-1,  1.9476473204185836e-2,
                               -9.561514786808631e-3,  -9.46595344482036e-4,   3.66839497852761e-4,
                               4.2523324806907e-5,     -2.0278578112534e-5,    -1.624290004647e-6,
                               1.303655835580e-6,      1.5626441722e-8,        -8.5238095915e-8,
                               6.529054439e-9,         5.059343495e-9,         -9.91364156e-10,
                               -2.27365122e-10,        9.6467911e-11,          2.394038e-12};
    NAME(d) t = 2.0 / (2.0 + x), twice = 4.0 * t - 2.0, d = {0}, dd = {0};
    UNROLL
    for (int i = 17; i > 0; i--) {
        NAME(d) next = twice * d - dd + c[i];
        dd = d;
        d = next;
    }
    return t * NAME(exponential)(-x * x + 0.5 * (c[0] + twice * d) - dd);
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
    total = total > 0 ? (double)(T)total : 1;
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
