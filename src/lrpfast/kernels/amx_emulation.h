/* The tile instructions of AMX in plain C, bit for bit: so that tile_amx.h can be run and tested on any machine.
 *
 * One thread's registers are its own, as the processor's are. A denormal counts as zero, whether it is read or results;
 * a product's even and odd values of k are summed apart, then together, then added to the tile, to nearest even.
 */
#include <math.h>
#include <string.h>

static __thread struct {
    uint8_t rows[8];
    float tile[8][16][16]; /* also 16 rows of 32 bfloat16 */
} emulated;

static inline float emulated_flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }
static inline float emulated_widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return emulated_flush(x);
}
static inline uint16_t emulated_round(float x) /* VCVTNEPS2BF16 */
{
    uint32_t bits;
    x = emulated_flush(x);
    memcpy(&bits, &x, 4);
    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline void emulated_config(const uint8_t *config)
{
    memset(&emulated, 0, sizeof emulated);
    memcpy(emulated.rows, config + 48, 8);
}
static inline void emulated_load(int t, const void *from, ptrdiff_t stride)
{
    memset(emulated.tile[t], 0, sizeof emulated.tile[t]);
    for (int i = 0; i < emulated.rows[t]; i++)
        memcpy(emulated.tile[t][i], (const char *)from + i * stride, 64);
}
static inline void emulated_store(int t, void *to, ptrdiff_t stride)
{
    for (int i = 0; i < emulated.rows[t]; i++)
        memcpy((char *)to + i * stride, emulated.tile[t][i], 64);
}
static inline float emulated_fma(float a, float b, float c) { return emulated_flush(fmaf(a, b, c)); }
static inline void emulated_multiply(int c, int a, int b)
{
    for (int i = 0; i < emulated.rows[c]; i++) {
        const uint16_t *row = (const uint16_t *)emulated.tile[a][i];
        for (int j = 0; j < 16; j++) {
            float even = 0, odd = 0;
            for (int k = 0; k < 16; k++) {
                const uint16_t *pair = (const uint16_t *)emulated.tile[b][k] + 2 * j;
                even = emulated_fma(emulated_widen(row[2 * k]), emulated_widen(pair[0]), even);
                odd = emulated_fma(emulated_widen(row[2 * k + 1]), emulated_widen(pair[1]), odd);
            }
            float *sum = &emulated.tile[c][i][j];
            *sum = emulated_flush(emulated_flush(*sum) + emulated_flush(even + odd));
        }
    }
}

#define TILE_CONFIG(config) emulated_config(config)
#define TILE_RELEASE() memset(&emulated, 0, sizeof emulated)
#define TILE_ZERO(t) memset(emulated.tile[t], 0, sizeof emulated.tile[t])
#define TILE_LOAD(t, from, stride) emulated_load(t, from, stride)
#define TILE_STORE(t, to, stride) emulated_store(t, to, stride)
#define TILE_MULTIPLY(c, a, b) emulated_multiply(c, a, b)

/* 32 values as the sum of three in bfloat16. */
static inline void amx_split32(const float *x, uint16_t *high, uint16_t *middle, uint16_t *low)
{
    for (int i = 0; i < 32; i++) {
        high[i] = emulated_round(x[i]);
        float rest = x[i] - emulated_widen(high[i]);
        middle[i] = emulated_round(rest);
        low[i] = emulated_round(rest - emulated_widen(middle[i]));
    }
}
