# Recurrent layers: a record's buffers and samples, for the loops over steps in tile_recurrent.h.


cdef double evaluate_any(int function, double x, const double* p) noexcept nogil:
    """An elementwise activation function of one value, those that `evaluate` leaves out too."""
    if function == RELU:
        return rectify(x, p)
    if function == LEAKY_RELU:
        return leak(x, p[0])
    if function == CLIP:
        return p[0] if x < p[0] else p[1] if x > p[1] else x
    return evaluate(function, x, p)


cdef double slope_any(int function, double x, const double* p) noexcept nogil:
    """An elementwise activation function's derivative, ReLU's too."""
    return rectify_slope(x, p) if function == RELU else slope_of(function, x, p)


cdef int set_function(lrpfast_gate_function* f, source) except -1:
    """A function as kernels take it."""
    cdef int i
    number, parameters = function_code(source)
    f.number = number
    for i, value in enumerate(parameters):
        f.parameters[i] = value
    return 0


cdef inline void* sample_at(const Code* code, const Batch* batch, int buffer, Py_ssize_t sample) noexcept nogil:
    """Where a sample's values lie in a buffer; NULL where there is none."""
    if buffer < 0:
        return NULL
    return batch.base[buffer] + sample * code.size[buffer] * (8 if code.f64 else 4)


cdef inline void* aligned_scratch(const Code* code, real* sums) noexcept nogil:
    return <void*>((<size_t>(sums + code.sums) + 63) & ~<size_t>63)


cdef int recur(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef lrpfast_recurrent_forward b
    cdef Py_ssize_t first
    for first from 0 <= first < batch.samples by ROWS:
        b.x, b.mask = sample_at(code, batch, op.reads[0], first), sample_at(code, batch, op.reads[1], first)
        b.h, b.c = sample_at(code, batch, op.reads[2], first), sample_at(code, batch, op.reads[3], first)
        b.out, b.state = sample_at(code, batch, op.writes[0], first), sample_at(code, batch, op.writes[1], first)
        if op.kernels.recur(op.recurrence, &b, min(<Py_ssize_t>ROWS, batch.samples - first),
                            aligned_scratch(code, sums)):
            return STOPPED
    return FINE

register("recur", recur[float], recur[double], RECURRENT)


cdef int recur_back(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef lrpfast_recurrent_backward b
    cdef Py_ssize_t first
    for first from 0 <= first < batch.samples by ROWS:
        b.x, b.mask = sample_at(code, batch, op.reads[0], first), sample_at(code, batch, op.reads[1], first)
        b.state, b.relevance = sample_at(code, batch, op.reads[2], first), sample_at(code, batch, op.reads[3], first)
        b.out, b.out_h = sample_at(code, batch, op.writes[0], first), sample_at(code, batch, op.writes[1], first)
        b.out_c, b.account = sample_at(code, batch, op.writes[2], first), sample_at(code, batch, op.writes[3], first)
        if op.kernels.recur_back(op.recurrence, &b, min(<Py_ssize_t>ROWS, batch.samples - first),
                                 aligned_scratch(code, sums)):
            return STOPPED
    return FINE

register("recur_back", recur_back[float], recur_back[double], RECURRENT)


cdef int mask_steps(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t i, j
    cdef int counts
    for i in range(batch.samples * code.size[op.reads[0]] // op.columns):
        counts = 0
        for j in range(op.columns):
            counts |= x[j] != <real>op.p[0]
        if op.flag:
            for j in range(op.columns):
                out[j] = x[j] if counts else 0
            out += op.columns
        else:
            out[i] = counts
        x += op.columns
    return FINE

register("mask_steps", mask_steps[float], mask_steps[double], NO_SCRATCH)
