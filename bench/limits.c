/* The machine's limits: fused multiply-adds in registers, and streams through memory. See limits.py. */
#include <stddef.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef float floats __attribute__((vector_size(BYTES)));
typedef double doubles __attribute__((vector_size(BYTES)));

/* Chains that do not depend on each other: more than latency times units, and no more than there are registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24
#else
#define CHAINS 12
#endif

#define FMA_PEAK(name, type, scalar)                                                                  \
    double name(long n)                                                                               \
    {                                                                                                 \
        type a[CHAINS], x, y;                                                                         \
        for (size_t i = 0; i < BYTES / sizeof(scalar); i++) {                                         \
            x[i] = (scalar)(0.999 - 1e-12 * (double)n); /* not known to the compiler */               \
            y[i] = (scalar)1e-3;                                                                      \
        }                                                                                             \
        for (int c = 0; c < CHAINS; c++) a[c] = y * (scalar)c;                                        \
        for (long i = 0; i < n; i++) {                                                                \
            _Pragma("GCC unroll 24") for (int c = 0; c < CHAINS; c++) a[c] = a[c] * x + y;            \
        }                                                                                             \
        double sum = 0;                                                                               \
        for (int c = 0; c < CHAINS; c++)                                                              \
            for (size_t i = 0; i < BYTES / sizeof(scalar); i++) sum += (double)a[c][i];               \
        return sum;                                                                                   \
    }

FMA_PEAK(fma_float32, floats, float)
FMA_PEAK(fma_float64, doubles, double)

/* Floating-point operations in one pass of the loops above. */
long fma_flops(int itemsize) { return 2L * CHAINS * (BYTES / itemsize); }

/* Reads x and writes y, n floats each: what the first layer of a wide, shallow network has to do. */
void stream_store(const float *x, float *y, long n)
{
    for (long i = 0; i < n; i++) y[i] = x[i] * 0.5f + 1.0f;
}

/* The same with stores that do not read the lines that they fill. Ordinary stores where there are none. */
void stream_past(const float *x, float *y, long n)
{
#if defined(__SSE2__)
    long i = 0;
    for (; i < n && ((size_t)(y + i) & (BYTES - 1)); i++) y[i] = x[i] * 0.5f + 1.0f;
    for (; i + (long)(BYTES / sizeof(float)) <= n; i += BYTES / sizeof(float)) {
        floats v;
        __builtin_memcpy(&v, x + i, BYTES);
        v = v * 0.5f + 1.0f;
#if defined(__AVX512F__)
        _mm512_stream_ps(y + i, (__m512)v);
#elif defined(__AVX__)
        _mm256_stream_ps(y + i, (__m256)v);
#else
        _mm_stream_ps(y + i, (__m128)v);
#endif
    }
    _mm_sfence();
    for (; i < n; i++) y[i] = x[i] * 0.5f + 1.0f;
#else
    stream_store(x, y, n);
#endif
}

/* Reads only. */
double stream_read(const float *x, long n)
{
    floats s[8] = {0};
    long step = 8 * BYTES / (long)sizeof(float), i = 0;
    for (; i + step <= n; i += step)
        _Pragma("GCC unroll 8") for (int c = 0; c < 8; c++) {
            floats v;
            __builtin_memcpy(&v, x + i + c * (BYTES / sizeof(float)), BYTES);
            s[c] += v;
        }
    double sum = 0;
    for (int c = 0; c < 8; c++)
        for (size_t j = 0; j < BYTES / sizeof(float); j++) sum += (double)s[c][j];
    return sum;
}

/* Products of bfloat16 in the tile registers, all of whose sums are zero: floating-point operations done, 0 without them. */
#if defined(__AMX_BF16__) && defined(__linux__)
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_STATE 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

double tiles_bfloat16(long n)
{
    if (syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA)) return 0;
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    __asm__ volatile("" : : "r"(&config) : "memory"); /* GCC takes the instruction to read 8 bytes of it */
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (long i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * (double)n;
}
#else
double tiles_bfloat16(long n)
{
    (void)n;
    return 0;
}
#endif
