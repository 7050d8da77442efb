// The sums of tile.cu: in a thread's registers, or in the fragments of tensor cores.

// Sums in registers, multiply-adds on ordinary cores. A thread's rows and columns are groups of four, spread evenly
// over the tile where it has several groups, so that a warp's loads from shared memory meet no bank twice.
//
// TRIAL_TILES: a warp's threads lie 4 x 8, in place of 2 x 16, and of two neighbours the rows are others and the columns
// the same, of threads two apart the reverse. So half as many banks are asked for the columns, and each pair's 16 bytes
// are one request.
#ifdef TRIAL_TILES
#define K_AT_ONCE (BM > 128 ? BK : 2) // more would take more registers than there are
#else
#define K_AT_ONCE BK
#endif
template <int BM, int BT, int BK, int TM, int TN>
struct Plain {
    enum { TENSOR = 0, WHOLE = 0, IN_REGISTERS = 0, ACROSS = BT / TN, PIECE = TN < 4 ? TN : 4 };
    typedef Tile<BM, BT, BK, 0> Operands;
    REAL sums[TM][TN];

    __device__ __forceinline__ static int row(int i)
    {
#ifdef TRIAL_TILES
        const int y = threadIdx.x / 32 / (ACROSS / 8) * 4 + threadIdx.x % 32 / 16 * 2 + threadIdx.x % 2;
#else
        const int y = threadIdx.x / ACROSS;
#endif
        return TM >= 8 ? i / 4 * (4 * BM / TM) + y * 4 + i % 4 : y * TM + i;
    }
    __device__ __forceinline__ static int column(int j)
    {
#ifdef TRIAL_TILES
        const int x = threadIdx.x / 32 % (ACROSS / 8) * 8 + threadIdx.x % 16 / 2;
#else
        const int x = threadIdx.x % ACROSS;
#endif
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
#pragma unroll K_AT_ONCE
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

    template <int W, int N>
    __device__ __forceinline__ static void set(REAL* p, const REAL (&v)[N], int at)
    {
#pragma unroll
        for (int i = 0; i < W; i += QUAD) {
            if (W % QUAD == 0) {
                Quad quad;
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    quad.v[j] = v[at + i + j < N ? at + i + j : 0];
                *reinterpret_cast<Quad*>(p + i) = quad;
            } else
#pragma unroll
                for (int j = 0; j < QUAD; j++)
                    if (i + j < W)
                        p[i + j] = v[at + i + j < N ? at + i + j : 0];
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
                for (int j = 0; j < TN; j += PIECE) {
                    // of eight columns the second four are half a tile away, so in the second of two sums
                    const int c = TN == 8 && BT > BN ? column(j) - j / 4 * BN : column(j);
                    const int sum = TN == 8 ? (BT > BN ? j / 4 : 0) : c / BN;
                    REAL* at = to + (sum * ROWS + r) * (BN + 4) + (TN == 8 ? c : c % BN);
                    set<PIECE, TN>(at, sums[i], j);
                }
        }
    }
};

#ifdef TENSOR_CORES
#ifdef LRP_CPU_SHIM
#define LDMATRIX(a, from) shim::ldmatrix_x4(a, from, __LINE__)
#define MMA_TF32(d, a, b) shim::mma_m16n8k8(d, a, b, __LINE__)
#else
#define LDMATRIX(a, from)                                                                                        \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"                               \
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])                                                \
                 : "r"((unsigned)__cvta_generic_to_shared(from))                                                 \
                 : "memory")
#define MMA_TF32(d, a, b)                                                                                        \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#endif

// The fragment of rows from `first` and depth from `k` on. One instruction hands out its four quarters: lane by lane it
// is told where their rows of 16 bytes begin.
__device__ __forceinline__ void fragment_a(unsigned (&a)[4], const float* from, int first, int pitch, int k)
{
    const int lane = threadIdx.x % 32;
    LDMATRIX(a, from + (first + lane % 16) * pitch + k + lane / 16 * 4);
}

// A fragment's values to TF32, as tf32() rounds.
__device__ __forceinline__ void round_fragment(unsigned (&a)[4])
{
#pragma unroll
    for (int e = 0; e < 4; e++)
#if !defined(LRP_CPU_SHIM) && __CUDA_ARCH__ >= 900
        asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(a[e]) : "f"(__uint_as_float(a[e])));
#else
        a[e] = __float_as_uint(tf32(__uint_as_float(a[e])));
#endif
}

#ifdef SPLIT_OPERANDS
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
#endif

// Sums in fragments of m16n8k8; eight warps, WM of them down. Operands are on TF32's grid: weights from the start, rows
// since this kernel's threads have rounded them, in shared memory or (TRIAL_TILES) in registers. Or they are float32 and
// split in registers (3xTF32): of the four products of parts the smallest is left out, and the largest is added last.
// Tensor cores truncate what they add, which would add up along K, so they add eight products, and ordinary cores add
// those to the sums.
template <int BM, int BT, int BK, int WM>
struct Fragments {
#ifdef TRIAL_TILES
    enum { WHOLE = 1 }; // all rows can be copied by 16 bytes
#else
    enum { WHOLE = 0 };
#endif
#if defined(TRIAL_TILES) && !defined(SPLIT_OPERANDS)
    enum { IN_REGISTERS = 1 };
#else
    enum { IN_REGISTERS = 0 };
#endif
    enum { TENSOR = 1, WN = 8 / WM, MT = BM / WM / 16, NT = BT / WN / 8 };
    typedef Tile<BM, BT, BK, 1> Operands;
    float sums[MT][NT][4];

    __device__ __forceinline__ static int first() { return threadIdx.x / 32 / WN * (BM / WM); }
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

    __device__ __forceinline__ static void take_b(unsigned (&b)[2], const Operands& t, int k, int j)
    {
        const int q = threadIdx.x % 4, g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int h = 0; h < 2; h++)
            b[h] = __float_as_uint(t.b[(k + q + h * 4) * Operands::LDB + column() + j * 8 + g]);
    }

#ifdef SPLIT_OPERANDS
    __device__ __forceinline__ void add(const Operands& t)
    {
#pragma unroll 1 // more steps at once would take more registers than there are
        for (int k = 0; k < BK; k += 8) {
            unsigned b[NT][2], low_b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++) {
                take_b(b[j], t, k, j);
                split(b[j], low_b[j]);
            }
#pragma unroll
            for (int i = 0; i < MT; i++) {
                unsigned a[4], low_a[4];
                fragment_a(a, t.a, first() + i * 16, Operands::LDA, k);
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
            }
        }
    }
#else
    __device__ __forceinline__ void add(const Operands& t)
    {
#pragma unroll
        for (int k = 0; k < BK; k += 8) {
            unsigned b[NT][2];
#pragma unroll
            for (int j = 0; j < NT; j++)
                take_b(b[j], t, k, j);
#pragma unroll
            for (int i = 0; i < MT; i++) {
                unsigned a[4];
                fragment_a(a, t.a, first() + i * 16, Operands::LDA, k);
                if (IN_REGISTERS)
                    round_fragment(a);
#pragma unroll
                for (int j = 0; j < NT; j++)
                    MMA_TF32(sums[i][j], a, b[j]);
            }
        }
    }
#endif

    template <int BN>
    __device__ __forceinline__ void stage(int first, REAL* to) const
    {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = Fragments::first() + threadIdx.x % 32 / 4 + i * 16 + h * 8 - first;
                if (r < 0 || r >= ROWS)
                    continue;
                // a warp's columns are of one sum, or begin with one
                float* at = to + (column() / BN * ROWS + r) * (BN + 4) + column() % BN + threadIdx.x % 4 * 2;
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    const int c = NT * 8 > BN ? j * 8 / BN * ROWS * (BN + 4) + j * 8 % BN : j * 8;
                    *reinterpret_cast<float2*>(at + c) = make_float2(sums[i][j][h * 2], sums[i][j][h * 2 + 1]);
                }
            }
    }
};
#endif
