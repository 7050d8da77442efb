/* tile.h, once for every dtype and instruction set, chosen at run time. */
#include "compute.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(_MSC_VER) /* there Clang may leave out of it what is not for every processor; in this order */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <fmaintrin.h>
#include <avx512fintrin.h>
#endif
#if defined(_WIN32)
#include <cpuid.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Before a loop over a tile's rows or vectors: it must become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Matrix products on tile registers: where the compiler knows them and the system has a way to ask for them. */
#if defined(LRPFAST_EMULATE_AMX)
#define HAVE_AMX 1
#elif defined(__x86_64__) && defined(__linux__) && defined(__clang__)
#define HAVE_AMX (__clang_major__ >= 12)
#elif defined(__x86_64__) && defined(__linux__)
#define HAVE_AMX (__GNUC__ >= 11)
#else
#define HAVE_AMX 0
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

/* Baseline: 16-byte vectors. On 64-bit Arm this is NEON with its fused multiply-add. */
#define VBYTES 16
#define MAX(a, b) WHERE((a) > (b), a, b)
#define MIN(a, b) WHERE((a) < (b), a, b)
#define T float
#define SINGLE 1
#define NAME(x) JOIN(x, _f32_base)
#if defined(__aarch64__)
#define WIDE 1
#define FMA(a, b, c) ((v_f32_base)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define WIDE 0
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#include "tile.h"
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#define T double
#define SINGLE 0
#define NAME(x) JOIN(x, _f64_base)
#if defined(__aarch64__)
#define FMA(a, b, c) ((v_f64_base)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#include "tile.h"
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#undef MAX
#undef MIN
#undef WIDE
#undef VBYTES

#if defined(__x86_64__)

/* x86-64-v3: AVX2 and FMA. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
#define VBYTES 32
#define WIDE 0
#define T float
#define SINGLE 1
#define NAME(x) JOIN(x, _f32_v3)
#define FMA(a, b, c) ((v_f32_v3)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define MAX(a, b) ((v_f32_v3)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define MIN(a, b) ((v_f32_v3)_mm256_min_ps((__m256)(a), (__m256)(b)))
#include "tile.h"
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#undef MAX
#undef MIN
#define T double
#define SINGLE 0
#define NAME(x) JOIN(x, _f64_v3)
#define FMA(a, b, c) ((v_f64_v3)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define MAX(a, b) ((v_f64_v3)_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define MIN(a, b) ((v_f64_v3)_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#include "tile.h"
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#undef MAX
#undef MIN
#undef WIDE
#undef VBYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* x86-64-v4: AVX-512 at its full width. */
#define V4 "avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(V4))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define VBYTES 64
#define WIDE 1
#define T float
#define SINGLE 1
#define NAME(x) JOIN(x, _f32_v4)
#define FMA(a, b, c) ((v_f32_v4)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define MAX(a, b) ((v_f32_v4)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define MIN(a, b) ((v_f32_v4)_mm512_min_ps((__m512)(a), (__m512)(b)))
#include "tile.h"
#if HAVE_AMX
#if defined(__clang__) /* which does not add to a target that is there already */
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target(V4 ",avx512bf16,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,amx-tile,amx-bf16")
#endif
#define VL ((ptrdiff_t)(VBYTES / sizeof(T)))
#include "tile_amx.h"
#undef VL
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target(V4))), apply_to = function)
#else
#pragma GCC pop_options
#endif
#endif
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#undef MAX
#undef MIN
#define T double
#define SINGLE 0
#define NAME(x) JOIN(x, _f64_v4)
#define FMA(a, b, c) ((v_f64_v4)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define MAX(a, b) ((v_f64_v4)_mm512_max_pd((__m512d)(a), (__m512d)(b)))
#define MIN(a, b) ((v_f64_v4)_mm512_min_pd((__m512d)(a), (__m512d)(b)))
#include "tile.h"
#undef T
#undef SINGLE
#undef NAME
#undef FMA
#undef MAX
#undef MIN
#undef WIDE
#undef VBYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(_WIN32)
/* What __builtin_cpu_supports asks, which needs a library of the compiler's that is not linked there. */
int lrpfast_isa_count(void)
{
    unsigned int a, b, c, d, saved, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & (bit_OSXSAVE | bit_FMA))
        return 1;
    __asm__("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0)); /* the registers that the system saves */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~b & (bit_AVX2 | bit_BMI2) || ~saved & 0x06)
        return 1;
    if (~b & (bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) || ~saved & 0xe0)
        return 2;
    return 3;
}
#else

#if defined(LRPFAST_EMULATE_AMX)
static int amx_is_granted(void) { return 1; }
#elif HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Whether the processor multiplies bfloat16 in tiles and Linux gives this process their registers, which it does on
 * request only; a process forked later has them too. */
static int amx_is_granted(void)
{
    unsigned int a, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || ~a & 1 << 5) /* VCVTNEPS2BF16 */
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (1 << 22 | 1 << 24)) /* amx-bf16, amx-tile */
        return 0;
    return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */);
}
#else
static int amx_is_granted(void) { return 0; }
#endif

int lrpfast_isa_count(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 2;
    return amx_is_granted() ? 4 : 3;
}
#endif
const char *lrpfast_isa_name(int isa)
{
    static const char *const names[4] = {"baseline", "x86-64-v3", "x86-64-v4", "x86-64-amx"};
    return names[isa];
}
const lrpfast_kernels *lrpfast_kernels_of(int isa, int float64)
{
    static const lrpfast_kernels *const all[3][2] = {
        {&kernels_f32_base, &kernels_f64_base}, {&kernels_f32_v3, &kernels_f64_v3}, {&kernels_f32_v4, &kernels_f64_v4}};
    return all[isa < 3 ? isa : 2][float64];
}
const lrpfast_kernels *lrpfast_products_of(int isa, int products)
{
#if HAVE_AMX
    if (isa == 3)
        return products == 6 ? &kernels_amx : products == 4 ? &kernels_amx_tf32 : &kernels_amx_bf16x2;
#endif
    return (void)isa, (void)products, (const lrpfast_kernels *)0;
}

#else

int lrpfast_isa_count(void) { return 1; }
const char *lrpfast_isa_name(int isa) { return (void)isa, "baseline"; }
const lrpfast_kernels *lrpfast_kernels_of(int isa, int float64)
{
    return (void)isa, float64 ? &kernels_f64_base : &kernels_f32_base;
}
const lrpfast_kernels *lrpfast_products_of(int isa, int products)
{
    return (void)isa, (void)products, (const lrpfast_kernels *)0;
}

#endif
