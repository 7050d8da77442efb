// The input: any real type becomes REAL; what is not finite or out of range is noted.

struct Half {
    unsigned short bits;
    __device__ __forceinline__ operator double() const
    {
        const unsigned sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
        if (magnitude >= 0x7c00u) // infinite or NaN
            return (double)__uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
        // exact, subnormals included: 2^-24 times a whole number below 2^11, scaled
        const int exponent = magnitude >> 10;
        double value = exponent ? (magnitude & 0x3ffu) + 1024.0 : (double)magnitude;
        for (int i = 1; i < exponent; i++)
            value *= 2;
        value *= 5.9604644775390625e-8;
        return sign ? -value : value;
    }
};
struct Bfloat {
    unsigned short bits;
    __device__ __forceinline__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};

template <class From>
__device__ __forceinline__ void cast(const From* from, REAL* to, i64 n)
{
    FOR_EACH(i, n)
        to[i] = (REAL)from[i];
}

#define CAST(NAME, FROM)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) cast_##NAME(const void* from, REAL* to, i64 n)              \
    {                                                                                                            \
        cast((const FROM*)from, to, n);                                                                          \
    }
CAST(float16, Half)
CAST(bfloat16, Bfloat)
#ifdef DOUBLE
CAST(float32, float)
#else
CAST(float64, double)
#endif
CAST(int8, signed char)
CAST(uint8, unsigned char)
CAST(int16, short)
CAST(uint16, unsigned short)
CAST(int32, int)
CAST(uint32, unsigned)
CAST(int64, long long)
CAST(uint64, unsigned long long)

extern "C" __global__ void __launch_bounds__(256)
examine(i64 size, int allow_nan, int ranged, double low, double high, RUN_ARGUMENTS)
{
    const Run run = RUN;
    FOR_EACH(i, samples * size)
    {
        const REAL x = input[i];
        if (!finite_(x) && !(allow_nan && x != x))
            run.fault(INPUT_NOT_FINITE, i / size);
        else if (ranged && ((double)x < low || (double)x > high))
            run.fault(INPUT_OUT_OF_RANGE, i / size);
    }
}

// The starting relevance of a StartMode; `at` and `other` are the outputs chosen. The flag is 1 for max(y, 0), 2 for
// gradients, which start with 1 in place of y.
__device__ __forceinline__ REAL start_value(REAL y, i64 j, i64 at, i64 other, int flag, int mode, i64 low, i64 size)
{
    if (flag == 2)
        y = 1;
    REAL value = j == at ? y : j == other ? -y : (REAL)0;
    if (mode == ALL)
        value = j >= low && j < low + size ? y : (REAL)0;
    return flag == 1 && mode != PAIR && value < 0 ? (REAL)0 : value;
}

// That of the largest output, one warp a sample.
extern "C" __global__ void __launch_bounds__(256)
init_relevance_max(i64 from_at, i64 to_at, i64 width, int flag, i64 low, i64 size, RUN_ARGUMENTS)
{
    const Run run = RUN;
    const int lane = threadIdx.x % 32;
    const i64 warp = (blockIdx.x * (i64)blockDim.x + threadIdx.x) / 32, warps = (i64)gridDim.x * blockDim.x / 32;
    for (i64 s = warp; s < samples; s += warps) {
        const REAL* y = run.at({from_at, width}) + s * width;
        REAL* out = run.at({to_at, width}) + s * width;
        i64 at = low;
        REAL best = y[low]; // the first of the largest
        for (i64 j = low + lane; j < low + size; j += 32)
            if (y[j] > best) {
                best = y[j];
                at = j;
            }
        for (int d = 16; d; d /= 2) {
            const REAL b = __shfl_xor_sync(0xffffffffu, best, d);
            const i64 j = __shfl_xor_sync(0xffffffffu, at, d);
            if (b > best || (b == best && j < at)) {
                best = b;
                at = j;
            }
        }
        best = start_value(best, at, at, -1, flag, MAX, low, size);
        for (i64 j = lane; j < width; j += 32)
            out[j] = j == at ? best : (REAL)0;
    }
}

extern "C" __global__ void __launch_bounds__(256)
init_relevance(i64 from_at, i64 to_at, i64 width, int flag, int mode, const i64* targets, int step, int which,
               int count, i64 low, i64 size, const REAL* start, RUN_ARGUMENTS)
{
    const Run run = RUN;
    const REAL* y = run.at({from_at, width});
    REAL* out = run.at({to_at, width});
    FOR_EACH(i, samples * width)
    {
        const i64 s = i / width, j = i - s * width;
        const i64 at = mode == INDEX ? targets[(first + s) * step + which] : mode == PAIR ? targets[0] : -1;
        out[i] = mode == ARRAY ? start[((first + s) * count + which) * width + j]
                               : start_value(y[i], j, at, mode == PAIR ? targets[1] : -1, flag, mode, low, size);
    }
}

extern "C" __global__ void __launch_bounds__(256)
mask_relevance(i64 from_at, i64 to_at, i64 width, const unsigned char* masks, i64 first_of_mask, i64 size, RUN_ARGUMENTS)
{
    const Run run = RUN;
    const REAL* r = run.at({from_at, width});
    REAL* out = run.at({to_at, width});
    FOR_EACH(i, samples * width)
        out[i] = masks[first_of_mask + i % size] ? r[i] : (REAL)0; // the width is a multiple of the mask's size
}

extern "C" __global__ void no_faults(u64* faults)
{
    if (threadIdx.x < NOT_FINITE) // the last code; FINE has no place
        faults[threadIdx.x] = ~0ull;
}
