/* What the other parts share: vectors of fewer values than they have room for, selection, division, TF32. */

static inline __attribute__((always_inline)) NAME(v) NAME(load_vector)(const T *x, ptrdiff_t n)
{
    if (n >= VL)
        return *(const NAME(u) *)x;
#if VBYTES == 64 && SINGLE
    return (NAME(v))_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), x);
#elif VBYTES == 64
    return (NAME(v))_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), x);
#else
    NAME(v) value = {0};
    for (ptrdiff_t j = 0; j < n; j++)
        value[j] = x[j];
    return value;
#endif
}

static inline __attribute__((always_inline)) void NAME(store_vector)(T *to, NAME(v) value, ptrdiff_t n)
{
    if (n >= VL) {
        *(NAME(u) *)to = value;
        return;
    }
#if VBYTES == 64 && SINGLE
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)value);
#elif VBYTES == 64
    _mm512_mask_storeu_pd(to, (__mmask8)((1u << n) - 1), (__m512d)value);
#else
    for (ptrdiff_t j = 0; j < n; j++)
        to[j] = value[j];
#endif
}

#define WHERE(condition, yes, no)                                                          \
    ((NAME(v))(((condition) & (__typeof__(condition))(yes)) | (~(condition) & (__typeof__(condition))(no))))

static inline __attribute__((always_inline)) int NAME(is_zero)(NAME(v) check)
{
    T total = 0;
    for (ptrdiff_t j = 0; j < VL; j++)
        total = total + check[j];
    return total == 0;
}

/* r / (z + stabilizer): of LRPFAST_SIGN value · sign(z) with sign(0) = +1, of LRPFAST_ZERO value where z == 0 only, of
 * LRPFAST_UNSIGNED value. */
static inline __attribute__((always_inline)) NAME(v) NAME(divide_stabilized)(
    NAME(v) r, NAME(v) z, T value, int stabilizer)
{
    const NAME(v) zero = {0};
    if (stabilizer == LRPFAST_SIGN)
        return r / (z + WHERE(z >= zero, value - zero, -value - zero));
    if (stabilizer == LRPFAST_UNSIGNED)
        return r / (z + value);
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
