// What all kernels share: the structs that Python fills in (structs.py), buffers, parts, stabilizers, faults.
//
// Compiled for REAL float or double, once each. No headers: NVRTC alone must do. No contraction of a * b + c
// (--fmad=false): multiply-adds are fused where `fma_` says so, as in the CPU's kernels. The enums (Part, Function,
// ...) and the list of tiles stand in codes.py and tiles.py; modules.py writes them in front of this file.

typedef long long i64;
typedef unsigned long long u64;

struct Axis {
    int count, taps;
    const int* positions;
    const int* index;          // (count, taps), -1 outside
    const double* factor;      // (count, taps), or 0
};
struct Region {
    Axis axes[3];
    int rows, taps;
};
struct Geometry {
    int source[3], out[3];
    int source_rows, regions_count;
    const Region* regions;
};
struct Buffer {
    i64 at, size;              // elements of the workspace before it, and its own, per sample; at -1: input, -2: result
};

// What every kernel is given of a run: a chunk of samples in a workspace with room for `capacity` of them.
#define RUN_ARGUMENTS                                                                                            \
    REAL *work, const REAL *input, REAL *result, i64 capacity, i64 samples, i64 first, u64 *faults
#define RUN Run{work, input, result, capacity, samples, first, faults}
struct Run {
    REAL* work;
    const REAL* input;
    REAL* result;
    i64 capacity, samples, first;
    u64* faults;               // of each FaultCode but FINE, the first sample it is true of

    __device__ __forceinline__ REAL* at(const Buffer& b) const
    {
        return b.at >= 0 ? work + b.at * capacity : b.at == -1 ? const_cast<REAL*>(input) : result;
    }
    __device__ __forceinline__ void fault(int code, i64 sample) const
    {
        atomicMin(faults + code - 1, (u64)(first + sample));
    }
};

#define FOR_EACH(i, n)                                                                                           \
    for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)

__device__ __forceinline__ float fma_(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fma_(double a, double b, double c) { return fma(a, b, c); }

__device__ __forceinline__ bool finite_(REAL x) { return x * 0 == 0; }

// x, x+, x- or |x|
__device__ __forceinline__ REAL part_of(int part, REAL x)
{
    const REAL above = part == NEGATIVE ? (REAL)0 : x;
    const REAL below = part == POSITIVE ? (REAL)0 : part == ABSOLUTE ? -x : x;
    return x < 0 ? below : above; // selections, not branches: those cost the widest tiles spilled registers
}

__device__ __forceinline__ REAL positive(REAL w) { return w > 0 ? w : (REAL)0; }
__device__ __forceinline__ REAL negative(REAL w) { return w < 0 ? w : (REAL)0; }

// to 10 mantissa bits, nearest, ties to even
__device__ __forceinline__ REAL tf32(REAL value)
{
    unsigned bits = __float_as_uint((float)value);
    return (REAL)__uint_as_float((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

// z + stabilizer: of SIGN value * sign(z) with sign(0) = +1, of ZERO value where z == 0 only, of UNSIGNED value
__device__ __forceinline__ REAL stabilized(REAL z, REAL value, int stabilizer)
{
    if (stabilizer == SIGN)
        return z + (z >= 0 ? value : -value);
    if (stabilizer == UNSIGNED)
        return z + value;
    return z + (z == 0 ? value : (REAL)0);
}

__device__ __forceinline__ REAL divide_stabilized(REAL r, REAL z, REAL value, int stabilizer)
{
    return r / stabilized(z, value, stabilizer);
}

// V values from memory or to it, STEP apart, those before the n-th: in one go where they are whole and aligned.
struct __align__(16) Quad {
    REAL v[16 / sizeof(REAL)];
};

template <int V, int STEP = 1>
__device__ __forceinline__ void get(const REAL* p, int n, REAL (&v)[V])
{
    const int WIDTH = 16 / sizeof(REAL);
    if (STEP == 1 && V % WIDTH == 0 && n >= V && ((u64)p & 15) == 0) {
#pragma unroll
        for (int j = 0; j < V; j += WIDTH) {
            const Quad quad = *reinterpret_cast<const Quad*>(p + j);
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (j + i < V)
                    v[j + i] = quad.v[i];
        }
    } else {
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = j * STEP < n ? p[j * STEP] : (REAL)0;
    }
}

// The same 16 bytes as the compiler's own vector.
#ifdef DOUBLE
typedef double2 Vector;
#else
typedef float4 Vector;
#endif

// STREAMED: what is written is not read again soon, so that caches need not keep it.
template <int V, int STEP = 1, bool STREAMED = false>
__device__ __forceinline__ void put(REAL* p, int n, const REAL (&v)[V])
{
    const int WIDTH = 16 / sizeof(REAL);
    if (STEP == 1 && V % WIDTH == 0 && n >= V && ((u64)p & 15) == 0) {
#pragma unroll
        for (int j = 0; j < V; j += WIDTH) {
            Quad quad;
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                quad.v[i] = j + i < V ? v[j + i] : (REAL)0;
            if (STREAMED)
                __stcs(reinterpret_cast<Vector*>(p + j), *reinterpret_cast<const Vector*>(&quad));
            else
                *reinterpret_cast<Quad*>(p + j) = quad;
        }
    } else {
#pragma unroll
        for (int j = 0; j < V; j++)
            if (j * STEP < n)
                p[j * STEP] = v[j];
    }
}

// Row m of a region: where it lies on the axes, in which sample, and which of the sample's output rows it is.
struct RowCoords {
    i64 sample;
    int axis[3];
};

__device__ __forceinline__ RowCoords coords_of(const Region& region, i64 m)
{
    RowCoords p;
    p.sample = m / region.rows;
    int row = (int)(m - p.sample * region.rows);
    p.axis[2] = row % region.axes[2].count;
    row /= region.axes[2].count;
    p.axis[1] = row % region.axes[1].count;
    p.axis[0] = row / region.axes[1].count;
    return p;
}

// Where a tap is on the three axes.
struct Tap {
    unsigned x, y, z;

    __device__ __forceinline__ Tap(const Region& region, int tap)
    {
        const int rest = tap / region.axes[2].taps;
        z = tap - rest * region.axes[2].taps;
        x = rest / region.axes[1].taps;
        y = rest - x * region.axes[1].taps;
    }
    __device__ __forceinline__ explicit Tap(const uchar4& kept) : x(kept.x), y(kept.y), z(kept.z) {}
};

__device__ __forceinline__ i64 row_at(const Geometry& g, const Region& region, const RowCoords& p)
{
    return ((i64)region.axes[0].positions[p.axis[0]] * g.out[1] + region.axes[1].positions[p.axis[1]]) * g.out[2] +
           region.axes[2].positions[p.axis[2]];
}
