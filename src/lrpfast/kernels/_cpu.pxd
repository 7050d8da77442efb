"""What the CPU backend's loops work with: the C kernels, and a program as C records."""

from libc.stdint cimport int32_t, int64_t

cdef extern from "recurrent.h":
    enum Cell "lrpfast_cell":
        SIMPLE "LRPFAST_SIMPLE"
        LSTM "LRPFAST_LSTM"
        GRU_AFTER "LRPFAST_GRU_AFTER"
        GRU_BEFORE "LRPFAST_GRU_BEFORE"
    enum ProductShare "lrpfast_share_of_product":
        SIGNAL "LRPFAST_SIGNAL"
        HALF "LRPFAST_HALF"
        PROP "LRPFAST_PROP"
        ABS "LRPFAST_ABS"
        DERIVATIVE "LRPFAST_DERIVATIVE"
    enum BiasShare "lrpfast_bias":
        ABSORB "LRPFAST_ABSORB"
        IGNORE "LRPFAST_IGNORE"
        DISTRIBUTE "LRPFAST_DISTRIBUTE"
        SHARE "LRPFAST_SHARE"
    enum:
        ACCOUNT "LRPFAST_ACCOUNT"
    ctypedef struct lrpfast_gate_function:
        int number
        double parameters[3]
    ctypedef struct lrpfast_recurrent:
        int cell, product, bias_share, single
        int backwards, sequences, time_order, zero_masked, return_state
        Py_ssize_t steps, features, units, padded, blocks
        double epsilon
        lrpfast_gate_function cell_function, gate_function, output_function
        double (*evaluate)(int, double, const double*) noexcept nogil
        double (*slope)(int, double, const double*) noexcept nogil
        int (*stopped)(double) noexcept nogil
        const double* bias
        const double* candidate_bias
        const double* initial_h
        const double* initial_c
        const void* packed
        const void* candidate
        const void* back
        const void* candidate_back
    ctypedef struct lrpfast_recurrent_forward:
        const void* x
        const void* mask
        const void* h
        const void* c
        void* out
        void* state
    ctypedef struct lrpfast_recurrent_backward:
        const void* x
        const void* mask
        const void* state
        const void* relevance
        void* out
        void* out_h
        void* out_c
        void* account

cdef extern from "compute.h":
    enum:
        ROWS "LRPFAST_ROWS"
        DEPTH "LRPFAST_DEPTH"  # sums run over blocks of this many k, added in order; a panel stays in the L2 cache
        MAX_SUMS "LRPFAST_SUMS"
        SPARSE_DEPTH "LRPFAST_SPARSE_DEPTH"
        SPARSE_LIST "LRPFAST_SPARSE_LIST"
        SPARSE_TAPS "LRPFAST_SPARSE_TAPS"
    enum Part "lrpfast_part":
        X "LRPFAST_X"
        POSITIVE "LRPFAST_POSITIVE"
        NEGATIVE "LRPFAST_NEGATIVE"
        ONE "LRPFAST_ONE"
        X_MINUS_BOUND "LRPFAST_X_MINUS_BOUND"
        ABSOLUTE "LRPFAST_ABSOLUTE"
    enum Stabilizer "lrpfast_stabilizer":
        SIGN "LRPFAST_SIGN"
        ZERO "LRPFAST_ZERO"
        UNSIGNED "LRPFAST_UNSIGNED"
    enum Function "lrpfast_function":
        RELU "LRPFAST_RELU"
        LEAKY_RELU "LRPFAST_LEAKY_RELU"
        PRELU "LRPFAST_PRELU"
        ELU "LRPFAST_ELU"
        SELU "LRPFAST_SELU"
        GELU "LRPFAST_GELU"
        SILU "LRPFAST_SILU"
        TANH "LRPFAST_TANH"
        SIGMOID "LRPFAST_SIGMOID"
        HARD_SIGMOID "LRPFAST_HARD_SIGMOID"
        SOFTPLUS "LRPFAST_SOFTPLUS"
        SOFTSIGN "LRPFAST_SOFTSIGN"
        EXPONENTIAL "LRPFAST_EXPONENTIAL"
        MISH "LRPFAST_MISH"
        CLIP "LRPFAST_CLIP"
        CELU "LRPFAST_CELU"
        SHRINK "LRPFAST_SHRINK"
        LOG_SIGMOID "LRPFAST_LOG_SIGMOID"
        POWER "LRPFAST_POWER"
        HARD_SILU "LRPFAST_HARD_SILU"
        LOG "LRPFAST_LOG"
        SOFTMAX "LRPFAST_SOFTMAX"
        LOG_SOFTMAX "LRPFAST_LOG_SOFTMAX"
    enum:  # what small_k makes of its sums
        NO_SMALL_K "LRPFAST_NO_SMALL_K"
        SMALL_K_SUM "LRPFAST_SUM"
        SMALL_K_TIMES_X "LRPFAST_TIMES_X"
        SMALL_K_TWO_BOUNDS "LRPFAST_TWO_BOUNDS"
        SMALL_K_TWO_PARTS "LRPFAST_TWO_PARTS"
        SMALL_K_SPLIT_PARTS "LRPFAST_SPLIT_PARTS"
        SMALL_K_FOUR_PARTS "LRPFAST_FOUR_PARTS"
    enum:  # what many_k sums
        NO_MANY_K "LRPFAST_NO_MANY_K"
        MANY_X "LRPFAST_MANY_X"
        MANY_POSITIVE "LRPFAST_MANY_POSITIVE"
        MANY_NEGATIVE "LRPFAST_MANY_NEGATIVE"
        MANY_ABSOLUTE "LRPFAST_MANY_ABSOLUTE"
        MANY_BOTH "LRPFAST_MANY_BOTH"
        MANY_SIGNS "LRPFAST_MANY_SIGNS"
        MANY_SIZES "LRPFAST_MANY_SIZES"
    ctypedef struct lrpfast_output:
        const void* constant
        int per_row
        int relu
        double zero
        double coefficients[8]
    ctypedef struct lrpfast_share:
        const void* bound
        int accumulator, part, step
        double coefficient
    ctypedef struct lrpfast_epilogue:
        int sums, outputs, shares, tf32
        lrpfast_output output[8]
        lrpfast_share share[8]
        int divides, stabilizer, mask, z_per_row
        double stabilizer_value
    ctypedef struct lrpfast_kernels:  # of one dtype and instruction set; compute.h names the arguments
        Py_ssize_t lanes
        Py_ssize_t panel
        Py_ssize_t depth_step, packed_bytes
        void (*split)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const void**,
                      void*) noexcept nogil
        void (*block)(Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const void**, const void*, Py_ssize_t, void*,
                      Py_ssize_t, int) noexcept nogil
        void (*few_columns)(Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const void**, const void*, Py_ssize_t, void*,
                            Py_ssize_t, int) noexcept nogil
        void (*many_k)(int, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, const void*, void*, void*, int, void*,
                       int, Py_ssize_t) noexcept nogil
        void (*nonzeros)(Py_ssize_t, Py_ssize_t, const void**, void*, int32_t*, int32_t*) noexcept nogil
        void (*pack_sparse)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, Py_ssize_t, Py_ssize_t, int,
                            void*) noexcept nogil
        void (*sparse_rows)(Py_ssize_t, const void*, const int32_t*, const int32_t*, Py_ssize_t, const void*,
                            Py_ssize_t, void*, Py_ssize_t, int) noexcept nogil
        void (*sparse_taps)(Py_ssize_t, const void*, const int32_t*, const int32_t*, const int32_t*, Py_ssize_t,
                            const void*, Py_ssize_t, void*) noexcept nogil
        void (*load)(Py_ssize_t, const void*, int, int, void*) noexcept nogil
        void (*pack)(Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, Py_ssize_t, int, int, void*) noexcept nogil
        void (*gather)(Py_ssize_t, const int64_t*, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t,
                       Py_ssize_t, int, int, void*, Py_ssize_t) noexcept nogil
        void (*channelwise)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int, const void**, const void**,
                            const void*, int, void*, Py_ssize_t) noexcept nogil
        int (*epilogue_forward)(const lrpfast_epilogue*, void**, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                                Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*epilogue_backward)(const lrpfast_epilogue*, void**, Py_ssize_t, const Py_ssize_t*, const Py_ssize_t*,
                                 Py_ssize_t, Py_ssize_t, const void*, Py_ssize_t, Py_ssize_t) noexcept nogil
        int (*small_k)(int, Py_ssize_t, Py_ssize_t, const void*, const void*, const void*, const void*, Py_ssize_t,
                       const void*, const double*, void*) noexcept nogil
        void (*divide)(Py_ssize_t, const void*, const void*, double, int, int, const void*, void*) noexcept nogil
        void (*divide_by_sign)(Py_ssize_t, const void*, const void*, const void*, const void*, double, int, void*,
                               void*) noexcept nogil
        int (*finite)(Py_ssize_t, const void*) noexcept nogil
        void (*largest)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, const void**, const void*, void*,
                        void*) noexcept nogil
        void (*to_winners)(Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int, const void*, const void*, const void*,
                           void**) noexcept nogil
        void (*add)(Py_ssize_t, const void*, void*) noexcept nogil
        void (*relu)(Py_ssize_t, const void*, void*) noexcept nogil
        double (*absolute)(Py_ssize_t, const void*) noexcept nogil
        Py_ssize_t (*recurrent_scratch)(const lrpfast_recurrent*) noexcept nogil
        int (*recur)(const lrpfast_recurrent*, const lrpfast_recurrent_forward*, Py_ssize_t, void*) noexcept nogil
        int (*recur_back)(const lrpfast_recurrent*, const lrpfast_recurrent_backward*, Py_ssize_t,
                          void*) noexcept nogil
        int (*function)(int, double, Py_ssize_t, const void*, void*) noexcept nogil
        void (*scaled)(Py_ssize_t, const void*, double, void*) noexcept nogil
        void (*softmax)(Py_ssize_t, void*, void*, int) noexcept nogil
        void (*score_back)(Py_ssize_t, const void*, double, double, void*) noexcept nogil
        void (*normalize)(Py_ssize_t, const void*, const void*, const void*, double, int, int, void*) noexcept nogil
        void (*normalize_back)(Py_ssize_t, const void*, const void*, const void*, double, int, int, int, int,
                               void*) noexcept nogil
    int lrpfast_isa_count() nogil
    const char* lrpfast_isa_name(int) nogil
    const lrpfast_kernels* lrpfast_kernels_of(int, int) nogil
    const lrpfast_kernels* lrpfast_products_of(int, int) nogil

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

cdef enum:
    NARROW = 8      # rows of a pass over many inputs of few outputs
    MANY_K_COLUMNS = 16  # outputs up to which many inputs have a kernel of their own,
    MANY_K_ROWS = 24     # and rows of its pieces
    FEW = 4         # outputs up to which all other inputs have one,
    SHORTEST_FEW = 4    # where so many of them lie side by side
    MOST_RUN = 1024     # values of a line of a window, at most, that is read as a whole,
    MOST_COPIED = 1 << 18   # and of all lines that are copied at a time
    COLUMNS = 512   # columns whose accumulators are kept at a time
    RUN = 16        # channels from which on a tap's values are read where they lie, not gathered first
    SEGMENTS = 18   # taps that a block of k can touch then: DEPTH / RUN + 2
    MOST_ROWS = 288     # rows of a piece at most: whole tiles of 6, 8 and 32
    PASS_ROWS = 144     # and of one whose rows are read where they lie
    LAZY_ROWS = 168     # rows and columns of a piece whose weights are packed while in use:
    FEW_COLUMNS = 128   # many rows share the packing
    SPLIT_COLUMNS = 256  # columns of a piece, at least, whose rows are split: see `split`
    SPARSE_PANEL = 8      # vectors of a panel of weights for rows that are mostly zeros, where there are no taps,
    SPARSE_ROWS = 144     # such rows whose values are listed at a time, rows of a piece at most,
    SPARSE_PASS_ROWS = 2048
    SPARSE_COLUMNS = 64   # and columns of one, where there are taps
    SMALL_K_DEPTH = 16  # inputs up to which many outputs have a kernel of their own
    MOST_THREADS = 256
    LIGHT = 16          # multiplications that a value of a light operation may take the time of
    LARGE = 8192        # values of relevance of which GLANCE in EVERY are looked at first
    EVERY = 1024
    GLANCE = 64
    PART = 1 << 14      # values of a part of a sample that threads share, at least; of so many parts at most:
    MOST_PARTS = 64
    SOME = 1 << 15      # values after which a slow one looks whether it is to stop
    STOPPED = 64        # by a signal, as Ctrl-C: what a kernel returns beside the codes of FaultCode

cdef enum StartMode:
    MAX
    INDEX
    PAIR
    ARRAY
    ALL

cdef enum FaultCode:
    FINE
    INPUT_NOT_FINITE
    INPUT_OUT_OF_RANGE
    NOT_FINITE

cdef enum Scratch:  # what a kernel keeps in a thread's scratch memory besides accumulators
    NO_SCRATCH
    EACH_VALUE      # nothing; and each value is computed by itself, so that threads may share a sample
    WINDOW_TAPS     # where each tap of a window lies, and its number
    PACKED_MATRIX   # a packed operand, and perhaps the other one transposed
    RECURRENT       # the states of some samples
    ATTENTION       # what attention_scratch counts


cdef struct Axis:
    Py_ssize_t count, taps
    const int64_t* positions
    const int64_t* index        # (count, taps)
    const double* factor        # (count, taps), or NULL
    int direction               # of the last one: see `lines_of`; 0 if it has none
    Py_ssize_t low, step

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
    int same_input              # terms from here on that contract the same input
    int many_k, second          # what many_k sums, and its second accumulator; 0 where a term before this one has it
    void** weights              # packed, by region; a single one where there is no geometry
    int lazy                    # whether the weights are the model's own, to be packed a block at a time while in use:
    Py_ssize_t row_step, column_step
    int sign                    # +1 or -1: only weights of that sign
    int one_weight              # of a diagonal operation: one weight for all channels

cdef struct Code
cdef struct Operation
cdef struct Batch
ctypedef int (*kernel_f32)(const Code*, const Operation*, const Batch*, float*) noexcept nogil
ctypedef int (*kernel_f64)(const Code*, const Operation*, const Batch*, double*) noexcept nogil

cdef struct Operation:
    kernel_f32 run_f32          # of these two the one of the program's dtype
    kernel_f64 run_f64
    int scratch
    int stage_end               # of a stage that begins with it: the operation after its last one,
    Py_ssize_t stage_samples    # and for how many samples it runs at a time; 0 where none begins
    int reads[8]                # buffers, in the order of the operation's row; -1 for none
    int writes[5]
    int* sources                # buffers of an operation that takes any number
    int sources_count
    int checked                 # a buffer that must be finite afterwards, or -1
    # contractions
    int contracts               # whether it is one
    int backward                # whether it is a redistribution
    Py_ssize_t rows, depth            # depth 0 where it differs by region
    Py_ssize_t groups, width          # all groups' columns
    const lrpfast_kernels* kernels    # a narrow operation takes half the vector width
    Py_ssize_t pass_rows, pass_columns    # of one piece of work: its accumulators fit in the cache
    Py_ssize_t ld, plane              # from a row of accumulators to the next, from an accumulator to the next
    int tf32
    int diagonal
    const Geometry* geometry    # where output rows lie: the first term's; also a pool's
    int terms_count, sums
    Term* terms
    lrpfast_epilogue epilogue   # what becomes of the sums, and of which buffers:
    int epilogue_buffers[8]
    const void* z_constant
    int check                   # whether to check a redistribution's output on its way
    int inspect                 # whether to check the input's values as they are first loaded
    int many_k                  # whether many_k does it: many k and few columns
    Py_ssize_t few              # values of a run, where few_columns does it: few columns; else 0
    Py_ssize_t block            # k of a block of taps
    int lines                   # the direction of the taps in lines, where windows are read by lines; else 0
    Py_ssize_t copied           # values of these that are copied, at most
    int flat                    # whether rows of a piece lie side by side, in the output and in the sums
    int sparse                  # taps, where the kernels for rows of zeros do it; else 0
    const int64_t* inverse[3]   # of its geometry, by axis: the output position that (source, tap) adds to, or -1
    int small_k                 # which form of small_k does it: few k and many columns
    # light operations: what its row's `arguments` are called; columns are a contraction's too, of one group
    int function, stabilizer, flag, detached, length
    double p[4]
    void* values
    void* more_values
    const int64_t* index
    lrpfast_recurrent* recurrence
    Py_ssize_t parts            # of a sample that do not depend on each other, which threads may share
    Py_ssize_t columns, count, run, source_offset, source_step, out_offset, out_step
    Py_ssize_t m, n, k

cdef struct Code:
    int f64
    int tf32
    const lrpfast_kernels* kernels
    int buffers
    Py_ssize_t* size                  # elements per sample
    Py_ssize_t* offset                # in a workspace, elements per sample; -1 for an outside array
    int forward_count, backward_count
    int segments_count          # of the backward pass, and where each begins among all operations; the last one's end
    int* segments
    Operation* operations       # forward, then backward
    int output, result
    int allow_nan, ranged
    int inspects                # the first operation tells whether the input is finite, so nothing else need
    double low, high
    int* inner                        # whether a buffer is used in one stage alone
    Py_ssize_t width                  # workspace elements per sample,
    Py_ssize_t inner_width            # and of buffers that are used in one stage alone,
    Py_ssize_t stage_samples          # for as many samples as a stage takes at most
    Py_ssize_t sums                   # workspace elements of accumulators
    Py_ssize_t tables                 # and, after them, of source rows or a packed matrix
    Py_ssize_t scratch                # both, and a block of loaded input and one of packed weights

cdef struct Growth:  # what a thread counts of it: see growth.py
    Py_ssize_t amplified, vanished, zero, nothing, negative, largest_at, smallest_at, zero_at
    double largest, smallest

cdef struct Job:
    const Code* code
    Py_ssize_t samples, micro_batch     # of all, and of one at most;
    Py_ssize_t count            # and how many micro-batches there are, where each thread takes its own
    Py_ssize_t stage_samples    # for which there is room in buffers that are used in one stage alone
    char** outside              # base address of every outside array, by buffer; NULL else
    char* workspace
    Py_ssize_t workspace_bytes
    int mode
    const int64_t* targets
    Py_ssize_t target_step
    int targets_count
    const char* start
    const int64_t* passes       # segment, first value and number of values of its mask; NULL: all segments, no masks
    const int64_t* passes_first     # where each target's begin
    const unsigned char* masks
    Py_ssize_t window_first, window_size  # of each sample's output, where the start is chosen from
    int* fault                  # per slot: the fault of the lowest sample seen
    Py_ssize_t* fault_at
    int judged, exact           # whether explanations are judged by their growth, and large ones as a whole
    double* starts              # of each sample, what the current target's begins with: Σ|R| and ΣR
    Growth* growth              # per slot

cdef struct Batch:              # some samples on their way through a program
    const Job* job
    char** base                 # where each buffer lies
    Py_ssize_t first, samples
    int target                  # which of the targets it is explained for
    const unsigned char* mask   # of this pass's relevance, repeated after so many values:
    Py_ssize_t mask_size
    Py_ssize_t part             # the only one of its operation's parts to compute, or -1

cdef struct Span:               # some of a buffer's values, from the first of a batch's on
    Py_ssize_t first, count

cdef struct Team:               # one operation on one micro-batch, shared by threads
    const Operation* op
    Batch batch
    Py_ssize_t columns                # of a piece


cdef inline Span part_of(const Operation* op, const Batch* batch, Py_ssize_t whole, Py_ssize_t multiple) noexcept nogil:
    """What a batch's part is of so many values or rows; all but the last part are multiples of some number."""
    cdef Span span
    cdef Py_ssize_t units = whole // multiple, end = whole
    span.first = 0
    if batch.part >= 0:
        span.first = units * batch.part // op.parts * multiple
        if batch.part + 1 < op.parts:
            end = units * (batch.part + 1) // op.parts * multiple
    span.count = end - span.first
    return span


cdef inline Py_ssize_t ceil_to(Py_ssize_t n, Py_ssize_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple
