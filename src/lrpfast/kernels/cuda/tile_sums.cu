// The sums of tile.cu: in a thread's registers, or in the fragments of tensor cores.

// Sums in registers, multiply-adds on ordinary cores. A thread's rows and columns are groups of four, BM / 2 and
// BT / 2 apart where it has eight, so that a warp's loads from shared memory meet no bank twice.
template <int BM, int BT, int BK, int TM, int TN>
struct Plain {
    enum { TENSOR = 0, ACROSS = BT / TN };
    typedef Tile<BM, BT, BK, 0> Operands;
    REAL sums[TM][TN];

    __device__ __forceinline__ static int row(int i)
    {
        const int y = threadIdx.x / ACROSS;
        return TM == 8 ? i / 4 * (BM / 2) + y * 4 + i % 4 : y * TM + i;
    }
    __device__ __forceinline__ static int column(int j)
    {
        const int x = threadIdx.x % ACROSS;
        return TN == 8 ? j / 4 * (BT / 2) + x * 4 + j % 4 : x * TN + j;
    }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
                sums[i][j] = 0;
    }

    __device__ __forceinline__ void add(const Operands& t)
    {
#pragma unroll
        for (int k = 0; k < BK; k++) {
            REAL a[TM], b[TN];
#pragma unroll
            for (int i = 0; i < TM; i += 4)
                take<4, TM>(t.a + k * Operands::LDA + row(i), a, i);
#pragma unroll
            for (int j = 0; j < TN; j += TN < 4 ? TN : 4)
                take<TN < 4 ? TN : 4, TN>(t.b + k * Operands::LDB + column(j), b, j);
#pragma unroll
            for (int j = 0; j < TN; j++)
#pragma unroll
                for (int i = 0; i < TM; i++)
                    sums[i][j] = fma_(a[i], b[j], sums[i][j]);
        }
    }

    template <int W, int N>
    __device__ __forceinline__ static void take(const REAL* p, REAL (&v)[N], int at)
    {
#pragma unroll
        for (int i = 0; i < W; i += QUAD) {
            if (W % QUAD == 0) {
                const Quad quad = *reinterpret_cast<const Quad*>(p + i);
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    v[at + i + j < N ? at + i + j : 0] = quad.v[j];
            } else
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    if (i + j < W)
                        v[at + i + j < N ? at + i + j : 0] = p[i + j];
        }
    }

    // the sums of rows first to first + ROWS, to shared memory: those of BN columns each
    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int r = row(i) - first;
            if (r >= 0 && r < ROWS)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    to[(column(j) / BN * ROWS + r) * (BN + 4) + column(j) % BN] = sums[i][j];
        }
    }
};

#ifdef TENSOR_CORES
#ifdef LRP_CPU_SHIM
#define MMA_TF32(d, a, b) shim::mma_m16n8k8(d, a, b, __LINE__)
// The fragment of rows from `first` and depth from `k` on, of which a thread has four values.
__device__ __forceinline__ void fragment_a(unsigned (&a)[4], const float* from, int first, int pitch, int k)
{
    const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
    for (int e = 0; e < 4; e++)
        a[e] = __float_as_uint(from[(first + g + e % 2 * 8) * pitch + k + q + e / 2 * 4]);
}
#else
// One instruction hands out the fragment's four quarters: lane by lane it is told where their rows of 16 bytes begin.
__device__ __forceinline__ void fragment_a(unsigned (&a)[4], const float* from, int first, int pitch, int k)
{
    const int lane = threadIdx.x % 32;
    const unsigned address = (unsigned)__cvta_generic_to_shared(from + (first + lane % 16) * pitch + k + lane / 16 * 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address)
                 : "memory");
}
#define MMA_TF32(d, a, b)                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

#ifdef SPLIT_OPERANDS
#define STEPS_AT_ONCE 1 // more would take more registers than there are
// x = high + low, two TF32 numbers; what is left is below 2^-23 of x.
__device__ __forceinline__ unsigned to_tf32(float x)
{
#ifdef LRP_CPU_SHIM
    return shim::to_tf32(x);
#else
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
#endif
}
template <int N>
__device__ __forceinline__ void split(unsigned (&high)[N], unsigned (&low)[N])
{
#pragma unroll
    for (int e = 0; e < N; e++) {
        const float x = __uint_as_float(high[e]);
        high[e] = to_tf32(x);
        low[e] = to_tf32(x - __uint_as_float(high[e]));
    }
}
#else
#define STEPS_AT_ONCE (BK / 8)
#endif

// Sums in fragments of m16n8k8; eight warps, WM of them down. Operands are on TF32's grid: weights from the start, rows
// since this kernel's threads have rounded them. Or they are float32 and split in registers (3xTF32): of the four
// products of parts the smallest is left out, and the largest is added last. Tensor cores truncate what they add, which
// would add up along K, so they add eight products, and ordinary cores add those to the sums.
template <int BM, int BT, int BK, int WM>
struct Fragments {
    enum { TENSOR = 1, WN = 8 / WM, MT = BM / WM / 16, NT = BT / WN / 8 };
    typedef Tile<BM, BT, BK, 1> Operands;
    float sums[MT][NT][4];

    __device__ __forceinline__ static int first() { return threadIdx.x / 32 / WN * (BM / WM); }
    __device__ __forceinline__ static int row() { return first() + threadIdx.x % 32 / 4; }
    __device__ __forceinline__ static int column() { return threadIdx.x / 32 % WN * (BT / WN); }

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] = 0;
    }

    __device__ __forceinline__ void add(const Operands& t)
    {
        enum { LDA = Operands::LDA, LDB = Operands::LDB };
        const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
#pragma unroll STEPS_AT_ONCE
        for (int k = 0; k < BK; k += 8) {
            unsigned b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    b[j][h] = __float_as_uint(t.b[(k + q + h * 4) * LDB + column() + j * 8 + g]);
#ifdef SPLIT_OPERANDS
            unsigned low_b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++)
                split(b[j], low_b[j]);
#endif
#pragma unroll
            for (int i = 0; i < MT; i++) {
                unsigned a[4];
                fragment_a(a, t.a, first() + i * 16, LDA, k);
#ifdef SPLIT_OPERANDS
                unsigned low_a[4];
                split(a, low_a);
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    float eight[4] = {0, 0, 0, 0};
                    MMA_TF32(eight, low_a, b[j]);
                    MMA_TF32(eight, a, low_b[j]);
                    MMA_TF32(eight, a, b[j]);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        sums[i][j][e] += eight[e];
                }
#else
#pragma unroll
                for (int j = 0; j < NT; j++)
                    MMA_TF32(sums[i][j], a, b[j]);
#endif
            }
        }
    }

    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = row() + i * 16 + h * 8 - first;
                if (r >= 0 && r < ROWS)
#pragma unroll
                    for (int j = 0; j < NT; j++)
#pragma unroll
                        for (int v = 0; v < 2; v++) {
                            const int c = column() + j * 8 + threadIdx.x % 4 * 2 + v;
                            to[(c / BN * ROWS + r) * (BN + 4) + c % BN] = sums[i][j][h * 2 + v];
                        }
            }
    }
};
#endif
