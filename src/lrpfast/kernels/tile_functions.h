/* Functions of many values at a time: exp and what follows from it, and the passes of attention over a row of scores.
 *
 * All is computed in vectors of doubles, floats too: so that a float is the double's value, rounded once, and a double
 * is off by about one unit in the last place. What has no vectors here is left to the C library: `function` says so. */

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

/* a · b + c on vectors of doubles, in one rounding where FUSED; `larger`: b where either is not a number. */
#if VBYTES == 64
#define FUSED 1
#define DFMA(a, b, c) ((NAME(d))_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define LARGER(a, b) ((NAME(d))_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#elif VBYTES == 32
#define FUSED 1
#define DFMA(a, b, c) ((NAME(d))_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define LARGER(a, b) ((NAME(d))_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#elif defined(__aarch64__)
#define FUSED 1
#define DFMA(a, b, c) ((NAME(d))vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#define LARGER(a, b) PICK((a) > (b), a, b)
#else
#define FUSED 0
#define DFMA(a, b, c) ((a) * (b) + (c))
#define LARGER(a, b) PICK((a) > (b), a, b)
#endif

/* e^x over `last`: 2^k e^r with |r| <= ln 2 / 2. A float's exponents fit in one factor 2^k, and `last` is 1; for doubles it is
 * two, of which `last` is one, so that neither overflows. What is multiplied by it at the end is rounded once, also below the
 * smallest normal number, and 0 where e^x times any number is. */
static inline __attribute__((always_inline)) NAME(d) NAME(exponential_over)(NAME(d) x, NAME(d) *last)
{
    static const double c[] = {1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
                               1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const NAME(d) none = {0}, least = none - (SINGLE ? 400.0 : 1400.0), most = none + (SINGLE ? 400.0 : 710.0);
    const NAME(i) bias = (NAME(i)){0} + ((int64_t)1023 << 52);
    x = LARGER(least, x);
    x = PICK(x > most, most, x);
    NAME(d) rounded = DFMA(x, none + 1.4426950408889634, none + ROUND), k = rounded - ROUND;
    NAME(d) r = DFMA(k, none - 6.93147180369123816490e-01, x); /* exact */
    r = DFMA(k, none - 1.90821492927058770002e-10, r);
    NAME(d) r2 = r * r, r4 = r2 * r2, low = DFMA(DFMA(none + c[3], r, none + c[2]), r2, DFMA(none + c[1], r, none + c[0]));
    NAME(d) high = DFMA(DFMA(none + c[7], r, none + c[6]), r2, DFMA(none + c[5], r, none + c[4]));
#if SINGLE
    NAME(d) value = 1.0 + DFMA(r2, DFMA(high, r4, low), r);
    *last = none + 1.0;
    return value * (NAME(d))(((NAME(i))rounded << 52) + bias);
#else
    NAME(d) highest = DFMA(DFMA(none + c[11], r, none + c[10]), r2, DFMA(none + c[9], r, none + c[8]));
    NAME(d) value = 1.0 + DFMA(r2, DFMA(DFMA(highest, r4, high), r4, low), r);
    NAME(d) first = DFMA(k, none + 0.5, none + ROUND), second = k - (first - ROUND) + ROUND;
    *last = (NAME(d))(((NAME(i))second << 52) + bias);
    return value * (NAME(d))(((NAME(i))first << 52) + bias);
#endif
}

static inline __attribute__((always_inline)) NAME(d) NAME(exponential)(NAME(d) x)
{
    NAME(d) last, value = NAME(exponential_over)(x, &last);
    return SINGLE ? value : value * last;
}

static inline __attribute__((always_inline)) NAME(d) NAME(sigmoid)(NAME(d) x)
{
    const NAME(d) none = {0};
    NAME(d) t = NAME(exponential)(PICK(x < none, x, -x));
    return PICK(x < none, t, none + 1.0) / (1.0 + t);
}

/* x times the sigmoid of v + rest, with a rest below v's last place. */
static inline __attribute__((always_inline)) NAME(d) NAME(times_sigmoid)(NAME(d) x, NAME(d) v, NAME(d) rest)
{
    const NAME(d) none = {0};
    NAME(d) last, e = NAME(exponential_over)(PICK(v < none, v, -v), &last);
    e = DFMA(e, PICK(v < none, rest, -rest), e);
    NAME(d) below = 1.0 + e * last;
    return PICK(v < none, x * e / below * last, x / below);
}

#if SINGLE
/* tanh, to float's accuracy: near 0 by its series, so that no digits are lost. */
static inline __attribute__((always_inline)) NAME(d) NAME(tangent)(NAME(d) x)
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
    const NAME(d) none = {0};
    NAME(d) t = 2.0 / (2.0 + x), y = 2.0 * t - 1.0, y2 = y * y, y4 = y2 * y2;
    NAME(d) a = DFMA(DFMA(none + c[3], y, none + c[2]), y2, DFMA(none + c[1], y, none + c[0]));
    NAME(d) b = DFMA(DFMA(none + c[7], y, none + c[6]), y2, DFMA(none + c[5], y, none + c[4]));
    NAME(d) d = DFMA(DFMA(none + c[11], y, none + c[10]), y2, DFMA(none + c[9], y, none + c[8]));
    NAME(d) e = DFMA(none + c[14], y2, DFMA(none + c[13], y, none + c[12]));
    return t * NAME(exponential)(DFMA(DFMA(e, y4, d), y4 * y4, DFMA(b, y4, a)) - x * x);
}

static inline __attribute__((always_inline)) NAME(d) NAME(gelu)(NAME(d) x)
{
    const NAME(d) none = {0};
    NAME(d) tail = NAME(erfc)(PICK(x < none, -x, x) * 0.70710678118654752);
    return 0.5 * x * PICK(x < none, tail, 2.0 - tail);
}

/* 1 + tanh(u) is 2 sigmoid(2 u). */
static inline __attribute__((always_inline)) NAME(d) NAME(gelu_by_tanh)(NAME(d) x)
{
    return x * NAME(sigmoid)(1.5957691216057308 * (x + 0.044715 * x * x * x));
}
#else

/* a · b exactly, as the sum of two doubles; without fused multiply-adds by Dekker's splitting, for numbers below 2^996. */
static inline __attribute__((always_inline)) NAME(d) NAME(product_and_rest)(NAME(d) a, NAME(d) b, NAME(d) *rest)
{
    NAME(d) p = a * b;
#if FUSED
    *rest = DFMA(a, b, -p);
#else
    NAME(d) c = 134217729.0 * a, d = 134217729.0 * b, a1 = c - (c - a), b1 = d - (d - b), a2 = a - a1, b2 = b - b1;
    *rest = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2;
#endif
    return p;
}

/* tanh: near 0 x + x³ P(x²) / Q(x²) (Cody and Waite), else 1 − 2 / (e^2x + 1), where what rounding takes of the exponential,
 * the sum and the quotient is kept, so that only the last difference is rounded. */
static inline __attribute__((always_inline)) NAME(d) NAME(tangent)(NAME(d) x)
{
    static const double c[] = {1.0 / 2,         1.0 / 6,          1.0 / 24,           1.0 / 120,
                               1.0 / 720,       1.0 / 5040,       1.0 / 40320,        1.0 / 362880,
                               1.0 / 3628800,   1.0 / 39916800,   1.0 / 479001600,    1.0 / 6227020800};
    const NAME(d) none = {0};
    const NAME(i) bias = (NAME(i)){0} + ((int64_t)1023 << 52);
    NAME(d) size = PICK(x < none, -x, x), z = size * size;
    NAME(d) over = DFMA(DFMA(none - 9.64399179425052238628e-1, z, none - 9.92877231001918586564e1), z,
                        none - 1.61468768441708447952e3);
    NAME(d) under = DFMA(DFMA(z + 1.12811678491632931402e2, z, none + 2.23548839060100448583e3), z,
                         none + 4.84406305325125486048e3);
    NAME(d) near = DFMA(size * z, over / under, size);
    NAME(d) a = 2.0 * PICK(size > none + 22.0, none + 22.0, size);
    NAME(d) rounded = DFMA(a, none + 1.4426950408889634, none + ROUND), k = rounded - ROUND;
    NAME(d) r = DFMA(k, none - 6.93147180369123816490e-01, a), q = none + c[11];
    r = DFMA(k, none - 1.90821492927058770002e-10, r);
    UNROLL
    for (int i = 10; i >= 0; i--)
        q = DFMA(q, r, none + c[i]);
    q = DFMA(r * r, q, r);
    NAME(d) scale = (NAME(d))(((NAME(i))rounded << 52) + bias);
    NAME(d) high = 1.0 + q, low = (q - (high - 1.0)) * scale; /* e^2x = high scale + low */
    high = high * scale;
    NAME(d) sum = high + 1.0, product;
    low = low + ((high - sum) + 1.0);
    NAME(d) y = 2.0 / sum, back = NAME(product_and_rest)(y, sum, &product);
    NAME(d) rest = (((2.0 - back) - product) - y * low) / sum, most = 1.0 - y;
    NAME(d) far = most + (((1.0 - most) - y) - rest);
    far = PICK(size < none + 0.625, near, far);
    far = PICK(size != size, size, far);
    return PICK(x < none, -far, far);
}

/* 1 + tanh(u) is 2 sigmoid(2 u). Far below 0 an error of 2 u becomes a relative one, so 2 u is a sum of two doubles. */
static inline __attribute__((always_inline)) NAME(d) NAME(gelu_by_tanh)(NAME(d) x)
{
    const NAME(d) none = {0}, end = none + 40.0;
    NAME(d) t = PICK(x < -end, -end, x), rest, product, off;
    t = PICK(t > end, end, t);
    NAME(d) square = NAME(product_and_rest)(t, t, &rest);
    NAME(d) part = NAME(product_and_rest)(none + 0.044715, square, &product), sum = 1.0 + part, added = sum - 1.0;
    NAME(d) low = (1.0 - (sum - added)) + (part - added) + (product + (0.044715 * rest + 2.1960211427085595e-18 * square));
    NAME(d) lead = NAME(product_and_rest)(none + 1.5957691216057308, t, &off);
    off = off - 9.96930880911092e-17 * t;
    NAME(d) v = NAME(product_and_rest)(lead, sum, &rest);
    return NAME(times_sigmoid)(x, v, rest + (lead * low + off * sum));
}

/* e^(x + rest) over `last` as a sum of two doubles, for x from -1000 to 0 and a rest below its last place. */
static inline __attribute__((always_inline)) NAME(d)
    NAME(two_exponentials)(NAME(d) x, NAME(d) rest, NAME(d) *low, NAME(d) *last)
{
    static const double c[] = {1.0 / 2,     1.0 / 6,      1.0 / 24,      1.0 / 120,      1.0 / 720,       1.0 / 5040,
                               1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    const NAME(d) none = {0};
    const NAME(i) bias = (NAME(i)){0} + ((int64_t)1023 << 52);
    NAME(d) rounded = DFMA(x, none + 1.4426950408889634, none + ROUND), k = rounded - ROUND, q = none + c[11];
    NAME(d) r = DFMA(k, none - 6.93147180369123816490e-01, x); /* exact */
    r = r + DFMA(k, none - 1.90821492927058770002e-10, rest);
    UNROLL
    for (int i = 10; i >= 0; i--)
        q = DFMA(q, r, none + c[i]);
    q = DFMA(r * r, q, r);
    NAME(d) high = 1.0 + q, first = DFMA(k, none + 0.5, none + ROUND), second = k - (first - ROUND) + ROUND;
    NAME(d) scale = (NAME(d))(((NAME(i))first << 52) + bias);
    *last = (NAME(d))(((NAME(i))second << 52) + bias);
    *low = (q - (high - 1.0)) * scale;
    return high * scale;
}

/* x Φ(x). Near 0, Φ(x) is 1/2 + x P(x²). Else, with t = |x| and w = 5 / (5 + t), Φ(−t) e^(t²/2) / w is a polynomial in
 * 2 w − 1. Chebyshev fits gave both, off by 7e-18 at most. What rounding takes of t², of w, of the polynomial's last steps and
 * of the exponential is kept, so that the result is off by little more than its own rounding. */
static inline __attribute__((always_inline)) NAME(d) NAME(gelu)(NAME(d) x)
{
    static const double c[] = {
        0.15383860995001258, 0.13307650057801138, 0.0990611231939961, 0.06270663133425627,
        0.03300407323403903, 0.013823727741414323, 0.004159013360646807, 0.0005986753517956957,
        -0.00015957388554950594, -0.00010897979367471258, -1.1875117666755534e-05, 9.952465584915902e-06,
        3.336170543985079e-06, -7.958723027658431e-07, -5.537757567344183e-07, 6.670854282462108e-08,
        8.669532857027513e-08, -7.714289713451517e-09, -1.3483378103647207e-08, 1.3881694748089734e-09,
        1.8550164483074685e-09, -2.5427518520556465e-10, -1.5708917166495314e-10, 2.6624214860214042e-11};
    static const double inner[] = {0.3989422804014327,    -0.06649038006690544,   0.009973557010035196,  -0.0011873282154664356,
                                   0.00011543468745547385, -9.444655200744233e-06, 6.659650987656955e-07, -4.1216076450076986e-08,
                                   2.257497112118396e-09,  -9.94287180156524e-11};
    const NAME(d) none = {0};
    NAME(d) size = PICK(x < none, -x, x), t = PICK(size > none + 40.0, none + 40.0, size), rest, product;
    NAME(d) square = NAME(product_and_rest)(t, t, &rest), near = none + inner[9];
    UNROLL
    for (int i = 8; i >= 0; i--)
        near = DFMA(near, square, none + inner[i]);
    near = DFMA(x, near, none + 0.5);
    NAME(d) d = 5.0 + t, w = 5.0 / d, y = 2.0 * w - 1.0, g = none + c[23], low = none;
    UNROLL
    for (int i = 22; i >= 3; i--)
        g = DFMA(g, y, none + c[i]);
    UNROLL
    for (int i = 2; i >= 0; i--) { /* g + low = c + y (g + low) */
        NAME(d) part = NAME(product_and_rest)(g, y, &product), sum = c[i] + part;
        low = DFMA(low, y, ((c[i] - sum) + part) + product);
        g = sum;
    }
    NAME(d) f = NAME(product_and_rest)(g, w, &product);
    NAME(d) off = (DFMA(-w, d, none + 5.0) - w * (t - (d - 5.0))) * d * 0.2; /* w is that of t + off */
    low = DFMA(low, w, product) - off * DFMA(t, f, none - inner[0]);         /* f' = t f - 1 / sqrt(2 pi) */
    NAME(d) last, e_low, e = NAME(two_exponentials)(-0.5 * square, -0.5 * rest, &e_low, &last);
    NAME(d) tail = t * (f * e + DFMA(f, e_low, low * e)) * last; /* 0 beyond 40 */
    NAME(d) far = PICK(x < none, -tail, x - tail), value = PICK(size < none + 0.75, x * near, far);
    return PICK(x != x, x, value);
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
        EACH(SINGLE ? v * NAME(sigmoid)(v) : NAME(times_sigmoid)(v, v, (NAME(d)){0}));
    }
    if (which == LRPFAST_GELU && p != 0) {
        EACH(NAME(gelu_by_tanh)(v));
    }
    if (which == LRPFAST_GELU) {
        EACH(NAME(gelu)(v));
    }
    if (which == LRPFAST_TANH) {
        EACH(NAME(tangent)(v));
    }
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
#if SINGLE /* a double's quotient is rounded once more in any case */
    total = 1 / total;
#endif
    for (ptrdiff_t j = 0; j < n; j += DL)
#if SINGLE
        NAME(put_doubles)(x + j, NAME(doubles)(x + j, n - j) * (none + total), n - j);
#else
        NAME(put_doubles)(x + j, NAME(doubles)(x + j, n - j) / (none + total), n - j);
#endif
}

/* s of a query's products with the keys under AttnLRP where denominators are as they are: they cancel, and
 * s = scale · weight · (s / 2 − total). */
static void NAME(score_back)(ptrdiff_t n, const void *softmax, double total_, double scale_, void *s_)
{
    const T *a = softmax;
    const T total = (T)total_, scale = (T)scale_;
    T *s = s_;
    for (ptrdiff_t j = 0; j < n; j++)
        s[j] = scale * (a[j] * ((T)0.5 * s[j] - total));
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

/* The sum of a row of doubles that `value` makes of each; lanes are added in order. */
#define ROW_SUM(total, value)                                          \
    do {                                                               \
        NAME(d) sums_ = {0};                                           \
        for (ptrdiff_t j = 0; j < n; j += DL) {                        \
            NAME(d) v_ = (value);                                      \
            if (n - j < DL)                                            \
                for (ptrdiff_t k = n - j; k < DL; k++) v_[k] = 0;      \
            sums_ = sums_ + v_;                                        \
        }                                                              \
        total = 0;                                                     \
        for (ptrdiff_t k = 0; k < DL; k++) total += sums_[k];          \
    } while (0)

/* A vector over sigma: floats by the inverse, for their quotient is rounded once more in any case. */
#if SINGLE
#define OVER(v, sigma) ((v) * (1.0 / (sigma)))
#else
#define OVER(v, sigma) ((v) / (none + (sigma)))
#endif

/* What a normalization subtracts from a row and divides it by; `centers`: by the mean; `length`: by √Σx², not the mean of it. */
static void NAME(statistics)(ptrdiff_t n, const T *x, double epsilon, int centers, int length, double *mean_, double *sigma)
{
    double total;
    *mean_ = 0;
    if (centers) {
        ROW_SUM(total, NAME(doubles)(x + j, n - j));
        *mean_ = total / (double)n;
    }
    const NAME(d) none = {0}, mean = none + *mean_;
    ROW_SUM(total, (NAME(doubles)(x + j, n - j) - mean) * (NAME(doubles)(x + j, n - j) - mean));
    *sigma = __builtin_sqrt((length ? total : total / (double)n) + epsilon);
}

/* A row, normalized, times gamma, plus beta, either of which may be NULL. */
static void NAME(normalize)(ptrdiff_t n, const void *input, const void *gamma, const void *beta, double epsilon, int centers,
                            int length, void *output)
{
    const T *x = input, *g = gamma, *b = beta;
    T *out = output;
    double mean_, sigma_;
    NAME(statistics)(n, x, epsilon, centers, length, &mean_, &sigma_);
    const NAME(d) none = {0}, mean = none + mean_;
    for (ptrdiff_t j = 0; j < n; j += DL) {
        NAME(d) v = OVER(NAME(doubles)(x + j, n - j) - mean, sigma_);
        if (g) v = v * NAME(doubles)(g + j, n - j);
        if (b) v = v + NAME(doubles)(b + j, n - j);
        NAME(put_doubles)(out + j, v, n - j);
    }
}

/* The gradient of a normalization along s, x times it if asked; `detached`: of one with constant statistics of scale. */
static void NAME(normalize_back)(ptrdiff_t n, const void *input, const void *s_, const void *gamma, double epsilon,
                                 int centers, int length, int detached, int times_x, void *output)
{
    const T *x = input, *s = s_, *g = gamma;
    T *out = output;
    double mean_, sigma_, total = 0, along = 0;
    NAME(statistics)(n, x, epsilon, centers, length, &mean_, &sigma_);
    const NAME(d) none = {0}, mean = none + mean_;
#define S_TIMES_GAMMA (g ? NAME(doubles)(s + j, n - j) * NAME(doubles)(g + j, n - j) : NAME(doubles)(s + j, n - j))
    if (centers) {
        ROW_SUM(total, S_TIMES_GAMMA);
        total /= (double)n;
    }
    if (!detached) {
        ROW_SUM(along, S_TIMES_GAMMA * OVER(NAME(doubles)(x + j, n - j) - mean, sigma_));
        along = length ? along : along / (double)n;
    }
    for (ptrdiff_t j = 0; j < n; j += DL) {
        NAME(d) v = NAME(doubles)(x + j, n - j), t = S_TIMES_GAMMA - total;
        if (!detached) t = t - OVER(v - mean, sigma_) * along;
        t = OVER(t, sigma_);
        NAME(put_doubles)(out + j, times_x ? v * t : t, n - j);
    }
#undef S_TIMES_GAMMA
}

#undef ROW_SUM
#undef OVER
#undef FUSED
#undef DFMA
#undef LARGER
#undef DL
#undef PICK
#undef EACH
#undef ROUND
