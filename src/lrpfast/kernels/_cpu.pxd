"""What the CPU backend's loops work with: the C kernels, and a program as C records."""

from libc.stdint cimport int64_t

cdef extern from "compute.h":
    enum:
        ROWS "LRPFAST_ROWS"
        MAX_SUMS "LRPFAST_SUMS"
    ctypedef struct lrpfast_output:
        const void* constant
        int per_row
        int relu
        double coefficients[8]
    ctypedef struct lrpfast_share:
        const void* bound
        int accumulator, part, step
        double coefficient
    ctypedef struct lrpfast_finish:
        int sums, outputs, shares, tf32
        lrpfast_output output[8]
        lrpfast_share share[8]
        int divides, kind, mask, z_per_row
        double stabilizer
    ctypedef struct lrpfast_f32:
        long lanes
        long panel
        void (*block)(long, long, const long*, const float* const*, const float*, long, float*, long,
                      int) noexcept nogil
        void (*deep)(long, long, long, const float*, long, const float*, float*, long) noexcept nogil
        void (*load)(long, const float*, int, int, float*) noexcept nogil
        void (*pack)(long, long, const float*, long, long, int, int, float*) noexcept nogil
        void (*gather)(long, const int64_t*, long, long, long, const float*, long, long, int, int,
                       float*, long) noexcept nogil
        void (*lane)(long, long, int, const float* const*, const float* const*, const float*, int,
                     float*) noexcept nogil
        int (*outputs)(const lrpfast_finish*, void* const*, long, const long*, const long*, long, long,
                       const float*, long, long) noexcept nogil
        int (*shares)(const lrpfast_finish*, void* const*, long, const long*, const long*, long, long,
                      const float*, long, long) noexcept nogil
        int (*shallow)(int, long, long, const float*, long, const float*, const float*, long,
                       const float*, float, float, float*, long) noexcept nogil
        void (*divide)(long, const float*, const float*, float, int, int, const float*, float*) noexcept nogil
        int (*finite)(long, const float*) noexcept nogil
        void (*largest)(long, const float*, float, float*, float*) noexcept nogil
        void (*won)(long, const float*, const float*, float, float*) noexcept nogil
        void (*add)(long, const float*, float*) noexcept nogil
        void (*relu)(long, const float*, float*) noexcept nogil
    ctypedef struct lrpfast_f64:
        long lanes
        long panel
        void (*block)(long, long, const long*, const double* const*, const double*, long, double*, long,
                      int) noexcept nogil
        void (*deep)(long, long, long, const double*, long, const double*, double*, long) noexcept nogil
        void (*load)(long, const double*, int, int, double*) noexcept nogil
        void (*pack)(long, long, const double*, long, long, int, int, double*) noexcept nogil
        void (*gather)(long, const int64_t*, long, long, long, const double*, long, long, int, int,
                       double*, long) noexcept nogil
        void (*lane)(long, long, int, const double* const*, const double* const*, const double*, int,
                     double*) noexcept nogil
        int (*outputs)(const lrpfast_finish*, void* const*, long, const long*, const long*, long, long,
                       const double*, long, long) noexcept nogil
        int (*shares)(const lrpfast_finish*, void* const*, long, const long*, const long*, long, long,
                      const double*, long, long) noexcept nogil
        int (*shallow)(int, long, long, const double*, long, const double*, const double*, long,
                       const double*, double, double, double*, long) noexcept nogil
        void (*divide)(long, const double*, const double*, double, int, int, const double*, double*) noexcept nogil
        int (*finite)(long, const double*) noexcept nogil
        void (*largest)(long, const double*, double, double*, double*) noexcept nogil
        void (*won)(long, const double*, const double*, double, double*) noexcept nogil
        void (*add)(long, const double*, double*) noexcept nogil
        void (*relu)(long, const double*, double*) noexcept nogil
    int lrpfast_isa_count() nogil
    const char* lrpfast_isa_name(int) nogil
    const lrpfast_f32* lrpfast_kernels_f32(int) nogil
    const lrpfast_f64* lrpfast_kernels_f64(int) nogil

cdef extern from "pool.h":
    ctypedef void (*lrpfast_task)(void*, long, int) noexcept nogil
    void lrpfast_pool_run(lrpfast_task, void*, long, int) nogil

ctypedef fused real:
    float
    double

# Sums run over blocks of this many k, added in order: part of what makes results
# reproducible, so it depends on nothing. A block's panel stays in the L2 cache.
cdef enum:
    DEPTH = 256
    FEW = 4         # rows that take the kernel for many k alone
    NARROW = 8      # rows of a pass over many inputs of few outputs
    COLUMNS = 512   # columns whose accumulators are held at a time
    RUN = 16        # channels from which on a tap's values are read where they lie, not gathered first
    SEGMENTS = 18   # taps that a block of k can touch then: DEPTH / RUN + 2
    MOST_ROWS = 168     # rows and columns of a piece whose weights are packed while in use:
    FEW_COLUMNS = 128   # many rows share the packing

cdef enum Kind:
    CONTRACT, REDISTRIBUTE, DIVIDE, ACTIVATE, UNMASK, SCALE, REMASK, START, COPY, ACCUMULATE, SLOPE, SOFTMAX_BACK,
    GATHER, SCATTER, STRIDED, POOL, UNPOOL, MULTIPLY, EXTREMUM, SELECT, NORMALIZE, NORMALIZE_BACK, LOCAL_NORMALIZE,
    DOT, DOT_BACK, LOOKUP, TOTAL

cdef enum Mode:  # how the starting relevance is chosen
    START_MAX, START_INDEX, START_PAIR, START_ARRAY, START_ALL

cdef enum Fault:
    FINE, INPUT_NOT_FINITE, INPUT_OUT_OF_RANGE, NOT_FINITE


cdef struct Axis:
    long count, taps
    const int64_t* positions
    const int64_t* index        # (count, taps)
    const double* factor        # (count, taps), or NULL

cdef struct Region:
    Axis axes[3]
    long rows, taps

cdef struct Geometry:
    long source[3]
    long out[3]
    long source_rows
    int regions_count
    Region* regions

cdef struct Term:
    int source
    int part
    int accumulator
    const Geometry* geometry
    long channels               # of the source that a group contracts
    int together                # terms from here on that contract the same input
    void** weights              # packed, by region; a single one where there is no geometry
    int lazy                    # whether the weights are as given, to be packed a block at a time while in use:
    long row_step, column_step
    int sign                    # +1 or -1: only weights of that sign
    int alike                   # of a diagonal operation: one weight for all channels

cdef struct Divide:
    int relevance
    int z             # a buffer, or -1 for z_constant
    void* z_constant
    int out
    double value
    int kind
    int mask
    int mask_z

cdef struct Operation:
    int kind
    int reads[3]                # buffers, in the order of cpu.BUFFERS; -1 for none
    int writes[2]
    int* sources                # buffers of an operation that takes any number
    int sources_count
    int checked                 # a buffer that must be finite afterwards, or -1
    # contractions
    long rows, depth, columns   # columns of one group; also of an operation on the last axis
    long groups, width          # all groups' columns
    const lrpfast_f32* f32      # kernels of a contraction: a narrow one takes half the vector width
    const lrpfast_f64* f64_kernels
    long lanes, panel
    long pass_rows, pass_columns    # of one piece of work: its accumulators fit in the cache
    long ld, plane              # from a row of accumulators to the next, from an accumulator to the next
    long finish_plane           # the same of the sums that are finished
    int spread
    int tf32
    int diagonal
    const Geometry* geometry    # where output rows lie: the first term's
    int terms_count, sums
    Term* terms
    lrpfast_finish finish       # what becomes of the sums, and of which buffers:
    int finish_buffers[8]
    const void* z_constant
    Divide divide               # of an operation that does nothing else
    int check                   # whether to check a redistribution's output on its way
    int inspect                 # whether to check the input's values as they are first loaded
    int deep                    # whether the kernel for many k and one vector of columns can do it
    int shallow                 # which shares of the kernel for few k and many columns, or 0
    # light operations
    int function
    int flag                    # rectify, centered, transposed, or a winner's place or sign
    int detached, length
    double p[4]                 # parameters in order
    void* values
    void* more_values
    const int64_t* index
    long m, n, k                # of products of matrices
    long run_count, run_length, source_offset, source_step, out_offset, out_step

cdef struct Code:
    int f64
    int tf32
    const lrpfast_f32* f32
    const lrpfast_f64* f64_kernels
    int buffers
    long* size                  # elements per sample
    long* offset                # in a workspace, elements per sample; -1 for an outside array
    int forward_count, backward_count
    Operation* operations       # forward, then backward
    int output, result
    int allow_nan, ranged
    int inspects                # the first operation tells whether the input is finite, so nothing else need
    double low, high
    long width                  # workspace elements per sample
    long sums                   # workspace elements of accumulators
    long tables                 # and, after them, of source rows or a packed matrix
    long scratch                # both, and a block of loaded input and one of packed weights

cdef struct Job:
    const Code* code
    long samples, micro
    char** outside              # base address of every outside array, by buffer; NULL else
    char* workspace
    long workspace_bytes
    int mode
    const int64_t* targets
    long target_step
    int targets_count
    const char* start
    long window_first, window_size  # of each sample's output, where the start is chosen from
    int* fault                  # per slot: the fault of the lowest sample seen
    long* fault_at

cdef struct Team:               # one operation on one micro-batch, shared by threads
    const Job* job
    const Operation* op
    char** base
    long first, samples
    int which
    long columns                # of a piece


# One thin line per kernel, so that the loops below are written once for both dtypes.

cdef inline void k_block(const Operation* k, long m, long segments, const long* lengths, const real* const* a,
                         const real* b, long n, real* c, int acc) noexcept nogil:
    if real is float:
        k.f32.block(m, segments, lengths, a, b, n, c, k.ld, acc)
    else:
        k.f64_kernels.block(m, segments, lengths, a, b, n, c, k.ld, acc)

cdef inline void k_deep(const Operation* k, long m, const real* a, const real* b, real* c) noexcept nogil:
    if real is float:
        k.f32.deep(m, k.depth, DEPTH, a, k.depth, b, c, k.ld)
    else:
        k.f64_kernels.deep(m, k.depth, DEPTH, a, k.depth, b, c, k.ld)

cdef inline void k_load(const Code* k, long n, const real* x, int part, int tf32, real* out) noexcept nogil:
    if real is float:
        k.f32.load(n, x, part, tf32, out)
    else:
        k.f64_kernels.load(n, x, part, tf32, out)

cdef inline void k_pack(const Operation* k, long depth, long columns, const real* w, long row_step, long column_step,
                        int sign, real* out) noexcept nogil:
    if real is float:
        k.f32.pack(depth, columns, w, row_step, column_step, sign, k.tf32, out)
    else:
        k.f64_kernels.pack(depth, columns, w, row_step, column_step, sign, k.tf32, out)

cdef inline void k_gather(const Code* k, long rows, const int64_t* sources, long taps, long channels, long stride,
                          const real* x, long k0, long depth, int part, int tf32, real* out) noexcept nogil:
    if real is float:
        k.f32.gather(rows, sources, taps, channels, stride, x, k0, depth, part, tf32, out, DEPTH)
    else:
        k.f64_kernels.gather(rows, sources, taps, channels, stride, x, k0, depth, part, tf32, out, DEPTH)

cdef inline void k_lane(const Code* k, long n, long count, int part, const real* const* x, const real* const* weights,
                        const real* factors, int acc, real* out) noexcept nogil:
    if real is float:
        k.f32.lane(n, count, part, x, weights, factors, acc, out)
    else:
        k.f64_kernels.lane(n, count, part, x, weights, factors, acc, out)

cdef inline int k_outputs(const Code* k, const Operation* op, void* const* buffers, long rows, const long* at,
                          const long* place, long n0, long n, const real* sums) noexcept nogil:
    if real is float:
        return k.f32.outputs(&op.finish, buffers, rows, at, place, n0, n, sums, op.plane, op.ld)
    else:
        return k.f64_kernels.outputs(&op.finish, buffers, rows, at, place, n0, n, sums, op.plane, op.ld)

cdef inline int k_shares(const Code* k, const Operation* op, void* const* buffers, long rows, const long* at,
                         const long* place, long n0, long n, const real* sums) noexcept nogil:
    if real is float:
        return k.f32.shares(&op.finish, buffers, rows, at, place, n0, n, sums, op.finish_plane, op.ld)
    else:
        return k.f64_kernels.shares(&op.finish, buffers, rows, at, place, n0, n, sums, op.finish_plane, op.ld)

cdef inline int k_shallow(const Code* k, int shares, long m, long d, const real* a, long lda, const real* b,
                          const real* b2, long n, const real* x, real low, real high, real* out,
                          long ld) noexcept nogil:
    if real is float:
        return k.f32.shallow(shares, m, d, a, lda, b, b2, n, x, low, high, out, ld)
    else:
        return k.f64_kernels.shallow(shares, m, d, a, lda, b, b2, n, x, low, high, out, ld)

cdef inline void k_divide(const Code* k, long n, const real* r, const real* z, const Divide* d,
                          const real* mask_z, real* out) noexcept nogil:
    if real is float:
        k.f32.divide(n, r, z, <float>d.value, d.kind, d.mask, mask_z, out)
    else:
        k.f64_kernels.divide(n, r, z, d.value, d.kind, d.mask, mask_z, out)

cdef inline int k_finite(const Code* k, long n, const real* x) noexcept nogil:
    if real is float:
        return k.f32.finite(n, x)
    else:
        return k.f64_kernels.finite(n, x)

cdef inline void k_largest(const Code* k, long n, const real* x, long tap, real* out, real* winner) noexcept nogil:
    if real is float:
        k.f32.largest(n, x, <float>tap, out, winner)
    else:
        k.f64_kernels.largest(n, x, <double>tap, out, winner)

cdef inline void k_won(const Code* k, long n, const real* relevance, const real* winner, long tap,
                       real* out) noexcept nogil:
    if real is float:
        k.f32.won(n, relevance, winner, <float>tap, out)
    else:
        k.f64_kernels.won(n, relevance, winner, <double>tap, out)

cdef inline void k_add(const Code* k, long n, const real* x, real* out) noexcept nogil:
    if real is float:
        k.f32.add(n, x, out)
    else:
        k.f64_kernels.add(n, x, out)

cdef inline void k_relu(const Code* k, long n, const real* x, real* out) noexcept nogil:
    if real is float:
        k.f32.relu(n, x, out)
    else:
        k.f64_kernels.relu(n, x, out)


cdef inline long ceil_to(long n, long multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple
