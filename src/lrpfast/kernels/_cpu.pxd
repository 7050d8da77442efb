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
        Py_ssize_t lanes
        Py_ssize_t panel
        void (*block)(Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const float* const*, const float*, Py_ssize_t, float*,
                      Py_ssize_t, int) noexcept nogil
        void (*deep)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, float*,
                     Py_ssize_t) noexcept nogil
        void (*load)(Py_ssize_t, const float*, int, int, float*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, int, int, float*) noexcept nogil
        void (*gather)(Py_ssize_t, const int64_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t,
                       Py_ssize_t, int, int, float*, Py_ssize_t) noexcept nogil
        void (*lane)(Py_ssize_t, Py_ssize_t, int, const float* const*, const float* const*, const float*, int,
                     float*) noexcept nogil
        int (*outputs)(const lrpfast_finish*, void* const*, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                       Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*shares)(const lrpfast_finish*, void* const*, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                      Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*shallow)(int, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, const float*, const float*, Py_ssize_t,
                       const float*, float, float, float*, Py_ssize_t) noexcept nogil
        void (*divide)(Py_ssize_t, const float*, const float*, float, int, int, const float*, float*) noexcept nogil
        int (*finite)(Py_ssize_t, const float*) noexcept nogil
        void (*largest)(Py_ssize_t, const float*, float, float*, float*) noexcept nogil
        void (*won)(Py_ssize_t, const float*, const float*, float, float*) noexcept nogil
        void (*add)(Py_ssize_t, const float*, float*) noexcept nogil
        void (*relu)(Py_ssize_t, const float*, float*) noexcept nogil
        double (*absolute)(Py_ssize_t, const float*) noexcept nogil
    ctypedef struct lrpfast_f64:
        Py_ssize_t lanes
        Py_ssize_t panel
        void (*block)(Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const double* const*, const double*, Py_ssize_t,
                      double*, Py_ssize_t, int) noexcept nogil
        void (*deep)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, double*,
                     Py_ssize_t) noexcept nogil
        void (*load)(Py_ssize_t, const double*, int, int, double*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, int, int, double*) noexcept nogil
        void (*gather)(Py_ssize_t, const int64_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t,
                       Py_ssize_t, int, int, double*, Py_ssize_t) noexcept nogil
        void (*lane)(Py_ssize_t, Py_ssize_t, int, const double* const*, const double* const*, const double*, int,
                     double*) noexcept nogil
        int (*outputs)(const lrpfast_finish*, void* const*, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                       Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*shares)(const lrpfast_finish*, void* const*, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                      Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*shallow)(int, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, const double*, const double*, Py_ssize_t,
                       const double*, double, double, double*, Py_ssize_t) noexcept nogil
        void (*divide)(Py_ssize_t, const double*, const double*, double, int, int, const double*,
                       double*) noexcept nogil
        int (*finite)(Py_ssize_t, const double*) noexcept nogil
        void (*largest)(Py_ssize_t, const double*, double, double*, double*) noexcept nogil
        void (*won)(Py_ssize_t, const double*, const double*, double, double*) noexcept nogil
        void (*add)(Py_ssize_t, const double*, double*) noexcept nogil
        void (*relu)(Py_ssize_t, const double*, double*) noexcept nogil
        double (*absolute)(Py_ssize_t, const double*) noexcept nogil
    int lrpfast_isa_count() nogil
    const char* lrpfast_isa_name(int) nogil
    const lrpfast_f32* lrpfast_kernels_f32(int) nogil
    const lrpfast_f64* lrpfast_kernels_f64(int) nogil

cdef extern from "pool.h":
    ctypedef void (*lrpfast_task)(void*, Py_ssize_t, int) noexcept nogil
    void lrpfast_pool_run(lrpfast_task, void*, Py_ssize_t, int) nogil
    ctypedef struct lrpfast_watch:
        int stopped
    void lrpfast_watch_begin(lrpfast_watch*, int (*)() noexcept nogil) nogil
    void lrpfast_watch_end(lrpfast_watch*) nogil
    int lrpfast_stopped(double) nogil

cdef extern from "Python.h":
    size_t PyThread_get_thread_ident()
    int PyErr_CheckSignals()  # without "except": the error stays where it is until `run` returns

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
    LIGHT = 16          # multiplications that a value of a light operation may take the time of
    LARGE = 8192        # values of relevance of which GLANCE in EVERY are looked at first
    EVERY = 1024
    GLANCE = 64
    SOME = 1 << 15      # values after which a slow one looks whether it is to stop

cdef enum Kind:
    CONTRACT, REDISTRIBUTE, DIVIDE, ACTIVATE, UNMASK, SCALE, REMASK, START, COPY, ACCUMULATE, SLOPE, SOFTMAX_BACK,
    GATHER, SCATTER, STRIDED, POOL, UNPOOL, MULTIPLY, EXTREMUM, SELECT, NORMALIZE, NORMALIZE_BACK, LOCAL_NORMALIZE,
    DOT, DOT_BACK, LOOKUP, TOTAL

cdef enum Mode:  # how the starting relevance is chosen
    START_MAX, START_INDEX, START_PAIR, START_ARRAY, START_ALL

cdef enum Fault:
    FINE, INPUT_NOT_FINITE, INPUT_OUT_OF_RANGE, NOT_FINITE, STOPPED  # the last: by a signal, as Ctrl-C


cdef struct Axis:
    Py_ssize_t count, taps
    const int64_t* positions
    const int64_t* index        # (count, taps)
    const double* factor        # (count, taps), or NULL

cdef struct Region:
    Axis axes[3]
    Py_ssize_t rows, taps

cdef struct Geometry:
    Py_ssize_t source[3]
    Py_ssize_t out[3]
    Py_ssize_t source_rows
    int regions_count
    Region* regions

cdef struct Term:
    int source
    int part
    int accumulator
    const Geometry* geometry
    Py_ssize_t channels               # of the source that a group contracts
    int together                # terms from here on that contract the same input
    void** weights              # packed, by region; a single one where there is no geometry
    int lazy                    # whether the weights are as given, to be packed a block at a time while in use:
    Py_ssize_t row_step, column_step
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
    Py_ssize_t rows, depth, columns   # columns of one group; also of an operation on the last axis
    Py_ssize_t groups, width          # all groups' columns
    const lrpfast_f32* f32      # kernels of a contraction: a narrow one takes half the vector width
    const lrpfast_f64* f64_kernels
    Py_ssize_t lanes, panel
    Py_ssize_t pass_rows, pass_columns    # of one piece of work: its accumulators fit in the cache
    Py_ssize_t ld, plane              # from a row of accumulators to the next, from an accumulator to the next
    Py_ssize_t finish_plane           # the same of the sums that are finished
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
    Py_ssize_t m, n, k                # of products of matrices
    Py_ssize_t run_count, run_length, source_offset, source_step, out_offset, out_step

cdef struct Code:
    int f64
    int tf32
    const lrpfast_f32* f32
    const lrpfast_f64* f64_kernels
    int buffers
    Py_ssize_t* size                  # elements per sample
    Py_ssize_t* offset                # in a workspace, elements per sample; -1 for an outside array
    int forward_count, backward_count
    Operation* operations       # forward, then backward
    int output, result
    int allow_nan, ranged
    int inspects                # the first operation tells whether the input is finite, so nothing else need
    double low, high
    Py_ssize_t width                  # workspace elements per sample
    Py_ssize_t sums                   # workspace elements of accumulators
    Py_ssize_t tables                 # and, after them, of source rows or a packed matrix
    Py_ssize_t scratch                # both, and a block of loaded input and one of packed weights

cdef struct Growth:  # what a thread counts of it: see growth.py
    Py_ssize_t amplified, vanished, zero, nothing, negative, largest_at, smallest_at, zero_at
    double largest, smallest

cdef struct Job:
    const Code* code
    Py_ssize_t samples, micro
    char** outside              # base address of every outside array, by buffer; NULL else
    char* workspace
    Py_ssize_t workspace_bytes
    int mode
    const int64_t* targets
    Py_ssize_t target_step
    int targets_count
    const char* start
    Py_ssize_t window_first, window_size  # of each sample's output, where the start is chosen from
    int* fault                  # per slot: the fault of the lowest sample seen
    Py_ssize_t* fault_at
    int judged, exact           # whether explanations are judged by their growth, and large ones as a whole
    double* starts              # of each sample, what the one at hand begins with: Σ|R| and ΣR
    Growth* growth              # per slot

cdef struct Team:               # one operation on one micro-batch, shared by threads
    const Job* job
    const Operation* op
    char** base
    Py_ssize_t first, samples
    int which
    Py_ssize_t columns                # of a piece


# One thin line per kernel, so that the loops below are written once for both dtypes.

cdef inline void k_block(const Operation* k, Py_ssize_t m, Py_ssize_t segments, const Py_ssize_t* lengths,
                         const real* const* a, const real* b, Py_ssize_t n, real* c, int acc) noexcept nogil:
    if real is float:
        k.f32.block(m, segments, lengths, a, b, n, c, k.ld, acc)
    else:
        k.f64_kernels.block(m, segments, lengths, a, b, n, c, k.ld, acc)

cdef inline void k_deep(const Operation* k, Py_ssize_t m, const real* a, const real* b, real* c) noexcept nogil:
    if real is float:
        k.f32.deep(m, k.depth, DEPTH, a, k.depth, b, c, k.ld)
    else:
        k.f64_kernels.deep(m, k.depth, DEPTH, a, k.depth, b, c, k.ld)

cdef inline void k_load(const Code* k, Py_ssize_t n, const real* x, int part, int tf32, real* out) noexcept nogil:
    if real is float:
        k.f32.load(n, x, part, tf32, out)
    else:
        k.f64_kernels.load(n, x, part, tf32, out)

cdef inline void k_pack(const Operation* k, Py_ssize_t depth, Py_ssize_t columns, const real* w, Py_ssize_t row_step,
                        Py_ssize_t column_step, int sign, real* out) noexcept nogil:
    if real is float:
        k.f32.pack(depth, columns, w, row_step, column_step, sign, k.tf32, out)
    else:
        k.f64_kernels.pack(depth, columns, w, row_step, column_step, sign, k.tf32, out)

cdef inline void k_gather(const Code* k, Py_ssize_t rows, const int64_t* sources, Py_ssize_t taps, Py_ssize_t channels,
                          Py_ssize_t stride, const real* x, Py_ssize_t k0, Py_ssize_t depth, int part, int tf32,
                          real* out) noexcept nogil:
    if real is float:
        k.f32.gather(rows, sources, taps, channels, stride, x, k0, depth, part, tf32, out, DEPTH)
    else:
        k.f64_kernels.gather(rows, sources, taps, channels, stride, x, k0, depth, part, tf32, out, DEPTH)

cdef inline void k_lane(const Code* k, Py_ssize_t n, Py_ssize_t count, int part, const real* const* x,
                        const real* const* weights, const real* factors, int acc, real* out) noexcept nogil:
    if real is float:
        k.f32.lane(n, count, part, x, weights, factors, acc, out)
    else:
        k.f64_kernels.lane(n, count, part, x, weights, factors, acc, out)

cdef inline int k_outputs(const Code* k, const Operation* op, void* const* buffers, Py_ssize_t rows,
                          const Py_ssize_t* at, const Py_ssize_t* place, Py_ssize_t n0, Py_ssize_t n,
                          const real* sums) noexcept nogil:
    if real is float:
        return k.f32.outputs(&op.finish, buffers, rows, at, place, n0, n, sums, op.plane, op.ld)
    else:
        return k.f64_kernels.outputs(&op.finish, buffers, rows, at, place, n0, n, sums, op.plane, op.ld)

cdef inline int k_shares(const Code* k, const Operation* op, void* const* buffers, Py_ssize_t rows,
                         const Py_ssize_t* at, const Py_ssize_t* place, Py_ssize_t n0, Py_ssize_t n,
                         const real* sums) noexcept nogil:
    if real is float:
        return k.f32.shares(&op.finish, buffers, rows, at, place, n0, n, sums, op.finish_plane, op.ld)
    else:
        return k.f64_kernels.shares(&op.finish, buffers, rows, at, place, n0, n, sums, op.finish_plane, op.ld)

cdef inline int k_shallow(const Code* k, int shares, Py_ssize_t m, Py_ssize_t d, const real* a, Py_ssize_t lda,
                          const real* b, const real* b2, Py_ssize_t n, const real* x, real low, real high, real* out,
                          Py_ssize_t ld) noexcept nogil:
    if real is float:
        return k.f32.shallow(shares, m, d, a, lda, b, b2, n, x, low, high, out, ld)
    else:
        return k.f64_kernels.shallow(shares, m, d, a, lda, b, b2, n, x, low, high, out, ld)

cdef inline void k_divide(const Code* k, Py_ssize_t n, const real* r, const real* z, const Divide* d,
                          const real* mask_z, real* out) noexcept nogil:
    if real is float:
        k.f32.divide(n, r, z, <float>d.value, d.kind, d.mask, mask_z, out)
    else:
        k.f64_kernels.divide(n, r, z, d.value, d.kind, d.mask, mask_z, out)

cdef inline int k_finite(const Code* k, Py_ssize_t n, const real* x) noexcept nogil:
    if real is float:
        return k.f32.finite(n, x)
    else:
        return k.f64_kernels.finite(n, x)

cdef inline void k_largest(const Code* k, Py_ssize_t n, const real* x, Py_ssize_t tap, real* out,
                           real* winner) noexcept nogil:
    if real is float:
        k.f32.largest(n, x, <float>tap, out, winner)
    else:
        k.f64_kernels.largest(n, x, <double>tap, out, winner)

cdef inline void k_won(const Code* k, Py_ssize_t n, const real* relevance, const real* winner, Py_ssize_t tap,
                       real* out) noexcept nogil:
    if real is float:
        k.f32.won(n, relevance, winner, <float>tap, out)
    else:
        k.f64_kernels.won(n, relevance, winner, <double>tap, out)

cdef inline void k_add(const Code* k, Py_ssize_t n, const real* x, real* out) noexcept nogil:
    if real is float:
        k.f32.add(n, x, out)
    else:
        k.f64_kernels.add(n, x, out)

cdef inline void k_relu(const Code* k, Py_ssize_t n, const real* x, real* out) noexcept nogil:
    if real is float:
        k.f32.relu(n, x, out)
    else:
        k.f64_kernels.relu(n, x, out)


cdef inline double k_absolute(const Code* k, Py_ssize_t n, const real* x) noexcept nogil:
    if real is float:
        return k.f32.absolute(n, x)
    else:
        return k.f64_kernels.absolute(n, x)


cdef inline Py_ssize_t ceil_to(Py_ssize_t n, Py_ssize_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple
