# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The CPU backend's loops: packing, micro-batches, threads, and the operations of a program.

`Executable` holds a `program.Program` as C records. A run splits the batch into
micro-batches; a thread takes one at a time through the whole program in its own
workspace, so that activations stay in cache and memory does not grow with the
batch. The arithmetic is in tile.h, the records are in _cpu.pxd.
"""

from libc.math cimport erfc, exp, expm1, fabs, isinf, isnan, log1p, tanh, NAN
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy as np
cimport numpy as cnp

from .program import INPUT_PARTS, SHARE_PARTS

cnp.import_array()

KIND = {"Contract": CONTRACT, "Redistribute": REDISTRIBUTE, "Divide": DIVIDE, "Activate": ACTIVATE,
        "Unmask": UNMASK, "Scale": SCALE, "Remask": REMASK, "Begin": START, "Copy": COPY}
MODE = {"max": START_MAX, "index": START_INDEX, "pair": START_PAIR, "array": START_ARRAY, "all": START_ALL}
FAULT = {INPUT_NOT_FINITE: "input_not_finite", INPUT_OUT_OF_RANGE: "input_out_of_range", NOT_FINITE: "not_finite"}
FUNCTION = {name: code for code, name in enumerate(
    ("relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "hard_sigmoid",
     "softplus", "softsign", "exponential", "mish", "softmax"))}


cdef void pack(const Code* code, const Operation* op, const real* w, long depth, long columns, real* out) noexcept nogil:
    """w, shape (depth, columns), as blocks of DEPTH rows, then panels, padded with zeros."""
    cdef long step = op.lanes * op.panel
    cdef long k0, kc, n0, width, padded, k, j
    for k0 from 0 <= k0 < depth by DEPTH:
        kc = min(<long>DEPTH, depth - k0)
        for n0 from 0 <= n0 < columns by step:
            width = min(step, columns - n0)
            padded = ceil_to(width, op.lanes)
            for k in range(kc):
                k_load(code, width, w + (k0 + k) * columns + n0, 0, out)
                for j in range(width, padded):
                    out[j] = 0
                out += padded


cdef int accumulate(const Code* code, const Operation* op, char** base, long m0, long rows, long n0, long nc,
                    real* sums, real* loaded) noexcept nogil:
    """Every accumulator of a contraction for some rows and columns: sums[a] has shape (ROWS, COLUMNS).

    Returns 0 if the input was to be inspected on its way and is not finite, else 1.
    """
    cdef long padded = ceil_to(op.columns, op.lanes)
    cdef long width = min(ceil_to(nc, op.lanes), padded - n0)
    cdef long k0, kc, i, lda
    cdef int t, begun = 0, fine = 1
    cdef const Term* term
    cdef const real* x
    cdef const real* a
    if op.deep and rows <= FEW:
        for i in range(rows if op.inspect else 0):
            fine &= k_finite(code, op.depth, <const real*>base[0] + (m0 + i) * op.depth)
        for t in range(op.terms_count):
            term = &op.terms[t]
            k_deep(op, rows, op.depth, <const real*>base[term.source] + m0 * op.depth, <const real*>term.weights,
                   sums + term.accumulator * ROWS * COLUMNS)
        return fine
    for k0 from 0 <= k0 < op.depth by DEPTH:
        kc = min(<long>DEPTH, op.depth - k0)
        if op.inspect and n0 == 0:
            for i in range(rows):
                fine &= k_finite(code, kc, <const real*>base[0] + (m0 + i) * op.depth + k0)
        for t in range(op.terms_count):
            term = &op.terms[t]
            x = <const real*>base[term.source] + m0 * op.depth + k0
            a, lda = x, op.depth
            if term.part or code.tf32:
                for i in range(rows):
                    k_load(code, kc, x + i * op.depth, term.part, loaded + i * DEPTH)
                a, lda = loaded, DEPTH
            k_block(op, rows, kc, a, lda, <const real*>term.weights + k0 * padded + kc * n0, width,
                    sums + term.accumulator * ROWS * COLUMNS, COLUMNS, (begun >> term.accumulator) & 1)
            begun |= 1 << term.accumulator
    return fine


cdef int contract(const Code* code, const Operation* op, char** base, long samples, real* sums, real* loaded) noexcept nogil:
    """Forward: outputs from shared sums. Returns a fault, or FINE."""
    cdef long total = samples * op.rows, m0, rows, n0, nc, i
    cdef int o, a, fine = 1
    cdef const Output* output
    cdef const real* sums_of_row[MAX_SUMS]
    cdef const real* constant
    cdef real* out
    for m0 from 0 <= m0 < total by op.pass_rows:
        rows = min(op.pass_rows, total - m0)
        for n0 from 0 <= n0 < op.columns by COLUMNS:
            nc = min(<long>COLUMNS, op.columns - n0)
            if not accumulate(code, op, base, m0, rows, n0, nc, sums, loaded):
                return INPUT_NOT_FINITE
            for i in range(rows):
                for a in range(op.sums):
                    # before a ReLU can hide it
                    sums_of_row[a] = sums + (a * ROWS + i) * COLUMNS
                    fine &= k_finite(code, nc, sums_of_row[a])
                for o in range(op.outputs_count):
                    output = &op.outputs[o]
                    out = <real*>base[output.buffer] + (m0 + i) * op.columns + n0
                    constant = <const real*>output.constant
                    if constant != NULL:
                        constant += n0 + ((m0 + i) % op.rows * op.columns if output.per_row else 0)
                    k_combine(code, nc, op.sums, sums_of_row, output.coefficients, constant, output.relu, out)
                    fine &= k_finite(code, nc, out)
    return FINE if fine else NOT_FINITE


cdef int redistribute(const Code* code, const Operation* op, char** base, long samples, real* sums, real* loaded) noexcept nogil:
    """Backward: shares of sums, then perhaps a division. Returns a fault of a checked output, or FINE."""
    cdef long total = samples * op.rows, m0, rows, n0, nc, i, at
    cdef int h, fine = 1
    cdef const Share* share
    cdef const Divide* divide = &op.divide
    cdef const real* bound
    cdef const Share* second
    cdef real* out
    if op.shallow:
        share, second = &op.shares[0], &op.shares[op.shares_count - 1]
        fine = k_shallow(code, op.shallow, total, op.depth, <const real*>base[op.terms[0].source], op.depth,
                         <const real*>op.terms[0].weights, <const real*>op.terms[op.terms_count - 1].weights, op.columns,
                         <const real*>base[op.source], (<const real*>share.bound)[0] if op.shallow == 3 else 0,
                         (<const real*>second.bound)[0] if op.shallow == 3 else 0, <real*>base[op.out], op.columns)
        return FINE if fine or not op.check else NOT_FINITE
    for m0 from 0 <= m0 < total by op.pass_rows:
        rows = min(op.pass_rows, total - m0)
        for n0 from 0 <= n0 < op.columns by COLUMNS:
            nc = min(<long>COLUMNS, op.columns - n0)
            accumulate(code, op, base, m0, rows, n0, nc, sums, loaded)
            for i in range(rows):
                at = (m0 + i) * op.columns + n0
                out = <real*>base[op.out] + at
                for h in range(op.shares_count):
                    share = &op.shares[h]
                    bound = <const real*>share.bound
                    if share.step:
                        bound += (m0 + i) % op.rows * op.columns + n0
                    k_share(code, nc, h == 0, share.coefficient, share.part,
                            sums + (share.accumulator * ROWS + i) * COLUMNS,
                            <const real*>base[op.source] + at, bound, share.step, out)
                if op.divides:
                    if divide.z >= 0:
                        k_divide(code, nc, out, <const real*>base[divide.z] + at, divide, <const real*>NULL, out)
                    else:
                        k_divide(code, nc, out,
                                 <const real*>divide.z_constant + (m0 + i) % op.rows * op.columns + n0,
                                 divide, <const real*>NULL, out)
                if op.check:
                    fine &= k_finite(code, nc, out)
    return FINE if fine else NOT_FINITE


cdef double evaluate(int function, double x, const double* p) noexcept nogil:
    """An elementwise activation function of one value; p holds its parameters."""
    cdef double t
    if function == 0:                                   # relu: max_value, negative_slope, threshold
        t = x if x > p[2] else p[1] * (x - p[2])
        return p[0] if t > p[0] else t
    if function == 1 or function == 2:                  # leaky_relu, prelu
        return x if x > 0 else p[0] * x
    if function == 3:                                   # elu
        return x if x > 0 else p[0] * expm1(x)
    if function == 4:                                   # selu (Klambauer et al. 2017)
        return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))
    if function == 5:                                   # gelu, exact or by tanh
        if p[0]:                                        # 1 + tanh(u) as 2 · sigmoid(2 u), and 1 + erf as
            return x * evaluate(8, 1.5957691216057308 * (x + 0.044715 * x * x * x), p)
        return 0.5 * x * erfc(x * -0.7071067811865476)  # erfc: no digits lost far below zero
    if function == 6:                                   # silu
        return x * evaluate(8, x, p)
    if function == 7:
        return tanh(x)
    if function == 8:                                   # sigmoid
        t = exp(-fabs(x))
        return 1 / (1 + t) if x >= 0 else t / (1 + t)
    if function == 9:                                   # hard_sigmoid: slope
        t = p[0] * x + 0.5
        return 0 if t < 0 else 1 if t > 1 else t
    if function == 10:                                  # softplus
        return (x if x > 0 else 0) + log1p(exp(-fabs(x)))
    if function == 11:                                  # softsign
        return x / (1 + fabs(x))
    if function == 12:
        return exp(x)
    return x * tanh((x if x > 0 else 0) + log1p(exp(-fabs(x))))  # mish


cdef void softmax(const real* x, long n, real* out) noexcept nogil:
    cdef long j
    cdef double top = x[0], total = 0
    for j in range(1, n):
        top = max(top, <double>x[j])
    for j in range(n):
        total += exp(x[j] - top)
    for j in range(n):
        out[j] = <real>(exp(x[j] - top) / total)


cdef int activate(const Code* code, const Operation* op, char** base, long samples, real* unused) noexcept nogil:
    cdef long size = code.size[op.source], n = samples * size, j
    cdef const real* x = <const real*>base[op.source]
    cdef const real* slopes = <const real*>op.values
    cdef real* out = <real*>base[op.out]
    cdef double slope
    if op.function == 14:
        for j from 0 <= j < n by op.columns:
            softmax(x + j, op.columns, out + j)
    elif op.function == 2:
        for j in range(n):
            slope = slopes[j % size]
            out[j] = <real>evaluate(2, x[j], &slope)
    else:
        for j in range(n):
            out[j] = <real>evaluate(op.function, x[j], op.p)
    return FINE if k_finite(code, n, out) else NOT_FINITE


cdef void unmask(const Code* code, const Operation* op, char** base, long samples, real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.source]
    cdef real* clean = <real*>base[op.out]
    cdef real* present = <real*>base[op.present]
    cdef long j
    for j in range(samples * code.size[op.source]):
        present[j] = 0 if isnan(<double>x[j]) else 1
        clean[j] = 0 if isnan(<double>x[j]) else x[j]


cdef void scale(const Code* code, const Operation* op, char** base, long samples, real* unused) noexcept nogil:
    cdef long size = code.size[op.source], j
    cdef const real* x = <const real*>base[op.source]
    cdef const real* values = <const real*>op.values
    cdef real* out = <real*>base[op.out]
    for j in range(samples * size):
        out[j] = x[j] * values[j % size]


cdef void remask(const Code* code, const Operation* op, char** base, long samples, real* unused) noexcept nogil:
    cdef const real* present = <const real*>base[op.present]
    cdef real* out = <real*>base[op.out]
    cdef long j
    for j in range(samples * code.size[op.out]):
        if present[j] == 0:
            out[j] = <real>NAN


cdef void begin(const Job* job, const Operation* op, char** base, long first, long samples, int which, real* unused) noexcept nogil:
    """The starting relevance of some samples for the which-th target."""
    cdef const Code* code = job.code
    cdef long size = code.size[op.source], i, j, at
    cdef const real* y
    cdef real* out
    for i in range(samples):
        y = <const real*>base[op.source] + i * size
        out = <real*>base[op.out] + i * size
        if job.mode == START_ARRAY:
            memcpy(out, <const real*>job.start + (first + i) * size, size * sizeof(real))
            continue
        if job.mode == START_ALL:
            for j in range(size):
                out[j] = 0 if op.check and y[j] < 0 else y[j]
            continue
        memset(out, 0, size * sizeof(real))
        if job.mode == START_PAIR:
            out[job.targets[0]] = y[job.targets[0]]
            out[job.targets[1]] = -y[job.targets[1]]
            continue
        at = 0
        if job.mode == START_MAX:
            for j in range(1, size):
                if y[j] > y[at]:
                    at = j
        else:
            at = job.targets[(first + i) * job.target_step + which]
        out[at] = 0 if op.check and y[at] < 0 else y[at]


cdef int step(const Job* job, const Operation* op, char** base, long first, long samples, int which,
              real* sums, real* loaded) noexcept nogil:
    """One operation on one micro-batch; returns a fault, or FINE."""
    cdef const Code* code = job.code
    cdef const Divide* d = &op.divide
    cdef long size, i
    if op.kind == CONTRACT:
        return contract(code, op, base, samples, sums, loaded)
    if op.kind == REDISTRIBUTE:
        return redistribute(code, op, base, samples, sums, loaded)
    if op.kind == DIVIDE:
        size = code.size[d.relevance]
        for i in range(samples):
            k_divide(code, size, <const real*>base[d.relevance] + i * size,
                     <const real*>base[d.z] + i * size if d.z >= 0 else <const real*>d.z_constant, d,
                     <const real*>base[d.mask_z] + i * size if d.mask else NULL,
                     <real*>base[d.out] + i * size)
    elif op.kind == ACTIVATE:
        return activate(code, op, base, samples, sums)
    elif op.kind == UNMASK:
        unmask(code, op, base, samples, sums)
    elif op.kind == SCALE:
        scale(code, op, base, samples, sums)
    elif op.kind == REMASK:
        remask(code, op, base, samples, sums)
    elif op.kind == START:
        begin(job, op, base, first, samples, which, sums)
    elif op.kind == COPY:
        memcpy(base[op.out], base[op.source], samples * code.size[op.source] * sizeof(real))
        if op.check and not k_finite(code, samples * code.size[op.out], <const real*>base[op.out]):
            return NOT_FINITE
    return FINE


cdef int examine(const Code* code, const real* x, long n) noexcept nogil:
    """The first fault of the input, or FINE."""
    cdef long j
    if code.allow_nan:
        for j in range(n):
            if isinf(<double>x[j]):
                return INPUT_NOT_FINITE
    elif not code.inspects and not k_finite(code, n, x):
        return INPUT_NOT_FINITE
    if code.ranged:
        for j in range(n):
            if x[j] < code.low or x[j] > code.high:
                return INPUT_OUT_OF_RANGE
    return FINE


cdef void micro_batch(Job* job, long index, int slot, real* unused) noexcept nogil:
    cdef const Code* code = job.code
    cdef long first = index * job.micro
    cdef long samples = min(job.micro, job.samples - first)
    cdef char* workspace = job.workspace + slot * job.workspace_bytes
    cdef real* sums = <real*>workspace
    cdef real* loaded = sums + code.scratch - ROWS * DEPTH
    cdef real* buffers = loaded + ROWS * DEPTH
    cdef char** base = <char**>(workspace + job.workspace_bytes) - code.buffers
    cdef int b, t, which, fault
    for b in range(code.buffers):
        if job.outside[b] != NULL:
            base[b] = job.outside[b] + first * code.size[b] * sizeof(real)
        else:
            base[b] = <char*>(buffers + code.offset[b] * job.micro)
    fault = examine(code, <const real*>base[0], samples * code.size[0])
    if not fault:
        for t in range(code.forward_count):
            fault = step(job, &code.operations[t], base, first, samples, 0, sums, loaded)
            if fault:
                break
    if not fault:
        for which in range(job.targets_count):
            if which:
                base[code.result] += job.samples * code.size[code.result] * sizeof(real)
            if fault:
                break
            for t in range(code.forward_count, code.forward_count + code.backward_count):
                fault = step(job, &code.operations[t], base, first, samples, which, sums, loaded)
                if fault:
                    break
    if fault and (not job.fault[slot] or first < job.fault_at[slot]):
        job.fault[slot] = fault
        job.fault_at[slot] = first


cdef void task_f32(void* job, long index, int slot) noexcept nogil:
    micro_batch(<Job*>job, index, slot, <float*>NULL)

cdef void task_f64(void* job, long index, int slot) noexcept nogil:
    micro_batch(<Job*>job, index, slot, <double*>NULL)


cdef class Workspace:
    """Memory for the threads of one run."""
    cdef char* memory
    cdef char* aligned
    cdef readonly long nbytes

    def __cinit__(self, long nbytes):
        self.memory = <char*>malloc(nbytes + 64)
        if self.memory == NULL:
            raise MemoryError(f"no memory for a workspace of {nbytes:,} bytes; lower memory= or threads=")
        self.aligned = <char*>((<size_t>self.memory + 63) & ~<size_t>63)
        self.nbytes = nbytes

    def __dealloc__(self):
        free(self.memory)


cdef class Executable:
    """A compiled program; `run` may be called from several threads at once."""
    cdef Code code
    cdef list held        # arrays that the records point into
    cdef list spare       # workspaces between runs
    cdef long itemsize
    cdef int isa

    def __cinit__(self):
        memset(&self.code, 0, sizeof(Code))

    def __init__(self, program, int isa, offsets, long width):
        cdef Code* code = &self.code
        cdef int i
        self.held, self.spare, self.isa = [], [], isa
        code.f64 = program.dtype == "float64"
        code.tf32 = program.tf32
        self.itemsize = 8 if code.f64 else 4
        code.f32 = lrpfast_kernels_f32(isa)
        code.f64_kernels = lrpfast_kernels_f64(isa)
        code.buffers = len(program.sizes)
        code.size = <long*>self.zeros(code.buffers * sizeof(long))
        code.offset = <long*>self.zeros(code.buffers * sizeof(long))
        for i in range(code.buffers):
            code.size[i] = program.sizes[i]
            code.offset[i] = offsets[i]
        code.width = width
        code.output = program.output
        code.result = -1 if program.result is None else program.result
        code.allow_nan = program.allow_nan
        code.ranged = program.input_range is not None
        if code.ranged:
            code.low, code.high = program.input_range
        code.forward_count, code.backward_count = len(program.forward), len(program.backward)
        operations = (*program.forward, *program.backward)
        code.operations = <Operation*>self.zeros(max(1, len(operations)) * sizeof(Operation))
        for i, operation in enumerate(operations):
            self.translate(operation, &code.operations[i])
            code.scratch = max(code.scratch, code.operations[i].sums * ROWS * COLUMNS)
        code.scratch += ROWS * DEPTH
        # One pass over memory less, where the input goes straight into a contraction: x · w is not
        # finite for any w when x is not, so the sums tell. Not so for parts of x, nor after rounding.
        if not code.allow_nan and not code.ranged and program.forward and code.operations[0].kind == CONTRACT:
            code.inspects = 1
            code.operations[0].inspect = code.tf32 or all(term.part != "x" for term in program.forward[0].terms)

    cpdef long workspace_bytes(self, long micro):
        """Bytes that one thread needs for micro-batches of that size."""
        return (self.code.scratch + self.code.width * micro) * self.itemsize

    cdef void* zeros(self, long nbytes) except NULL:
        """Zeroed memory that lives as long as this object."""
        array = np.zeros(max(nbytes, 1) + 64, np.uint8)
        self.held.append(array)
        return <void*>((<size_t>cnp.PyArray_DATA(array) + 63) & ~<size_t>63)

    cdef void* vector(self, value) except? NULL:
        """An array in the program's dtype, flat; NULL for None."""
        if value is None:
            return NULL
        array = np.ascontiguousarray(value, dtype=np.float64 if self.code.f64 else np.float32).reshape(-1)
        self.held.append(array)
        return cnp.PyArray_DATA(array)

    cdef void* packed(self, weights, Operation* op) except NULL:
        array = np.ascontiguousarray(weights, dtype=np.float64 if self.code.f64 else np.float32)
        cdef long depth = array.shape[0], columns = array.shape[1]
        cdef void* out = self.zeros(depth * ceil_to(columns, op.lanes) * self.itemsize)
        if self.code.f64:
            pack(&self.code, op, <const double*>cnp.PyArray_DATA(array), depth, columns, <double*>out)
        else:
            pack(&self.code, op, <const float*>cnp.PyArray_DATA(array), depth, columns, <float*>out)
        return out

    cdef void choose_kernels(self, Operation* op) noexcept:
        """This run's kernels, or those of half the vector width where columns fill no more: the same sums."""
        cdef int isa = self.isa
        cdef long full = lrpfast_kernels_f64(isa).lanes if self.code.f64 else lrpfast_kernels_f32(isa).lanes
        if isa == 2 and op.columns * 2 <= full:
            isa = 1
        op.f32, op.f64_kernels = lrpfast_kernels_f32(isa), lrpfast_kernels_f64(isa)
        op.lanes = op.f64_kernels.lanes if self.code.f64 else op.f32.lanes
        op.panel = op.f64_kernels.panel if self.code.f64 else op.f32.panel
        # Bound by memory: few rows at once, since the hardware fetches ahead on so many sequences only.
        op.pass_rows = NARROW if op.columns <= op.lanes and op.depth > DEPTH else ROWS

    cdef int choose_shallow(self, source, Operation* op) except -1:
        """Whether the kernel for few k and many columns can do a whole redistribution, and with which shares."""
        if op.depth > 16 or op.columns <= COLUMNS or self.code.tf32 or source.divide is not None:
            return 0
        if any(s.coefficient != 1 or s.accumulator != i for i, s in enumerate(source.shares)):
            return 0
        if any(t.accumulator != i for i, t in enumerate(source.terms)):
            return 0
        if len(source.terms) != len(source.shares) or len({t.source for t in source.terms}) > 1:
            return 0
        parts = [s.part for s in source.shares]
        if parts in (["1"], ["x"]):
            return 1 if parts == ["1"] else 2
        scalar = all(s.bound is not None and np.size(s.bound) == 1 for s in source.shares)
        return 3 if parts == ["x-low", "x-high"] and scalar else 0

    cdef int translate_divide(self, source, Divide* d) except -1:
        d.relevance, d.out = source.relevance, source.out
        if isinstance(source.z, int):
            d.z = source.z
        else:
            d.z, d.z_constant = -1, self.vector(source.z)
        d.value, d.kind = source.stabilizer, source.kind == "zero"
        d.mask, d.mask_z = source.mask, -1 if source.mask_z is None else source.mask_z
        return 0

    cdef int translate(self, source, Operation* op) except -1:
        cdef int i, a
        name = type(source).__name__
        op.kind = KIND[name]
        if name in ("Contract", "Redistribute"):
            op.rows = source.rows
            op.depth, op.columns = source.terms[0].weights.shape
            self.choose_kernels(op)
            op.terms_count = len(source.terms)
            op.terms = <Term*>self.zeros(op.terms_count * sizeof(Term))
            for i, term in enumerate(source.terms):
                op.terms[i].source, op.terms[i].accumulator = term.source, term.accumulator
                op.terms[i].part = INPUT_PARTS.index(term.part)
                op.terms[i].weights = self.packed(term.weights, op)
                op.sums = max(op.sums, term.accumulator + 1)
            # blocks of several terms in one sum would be added in another order
            op.deep = (op.columns <= op.lanes and op.depth > DEPTH and not self.code.tf32
                       and op.sums == op.terms_count and all(term.part == "x" for term in source.terms))
            if op.sums > MAX_SUMS:
                raise ValueError(f"a contraction has {op.sums} sums, at most {MAX_SUMS} are possible")
        if name == "Contract":
            op.outputs_count = len(source.outputs)
            op.outputs = <Output*>self.zeros(op.outputs_count * sizeof(Output))
            for i, output in enumerate(source.outputs):
                op.outputs[i].buffer, op.outputs[i].relu = output.buffer, output.relu
                op.outputs[i].constant = self.vector(output.constant)
                op.outputs[i].per_row = output.constant is not None and np.size(output.constant) > op.columns
                for a, c in enumerate(output.coefficients):
                    op.outputs[i].coefficients[a] = c
        elif name == "Redistribute":
            op.source, op.out = source.x, source.out
            op.check = source.out == self.code.result
            op.shares_count = len(source.shares)
            op.shares = <Share*>self.zeros(op.shares_count * sizeof(Share))
            for i, share in enumerate(source.shares):
                op.shares[i].accumulator, op.shares[i].coefficient = share.accumulator, share.coefficient
                op.shares[i].part = min(SHARE_PARTS.index(share.part), 4)  # both bounds alike
                op.shares[i].bound = self.vector(share.bound)
                op.shares[i].step = share.bound is not None and np.size(share.bound) > 1
            op.shallow = self.choose_shallow(source, op)
            if source.divide is not None:
                op.divides = 1
                self.translate_divide(source.divide, &op.divide)
        elif name == "Divide":
            self.translate_divide(source, &op.divide)
        elif name == "Activate":
            op.source, op.out, op.columns = source.source, source.out, source.columns
            op.function = FUNCTION[source.function]
            p = dict(source.parameters)
            if source.function == "prelu":
                op.values = self.vector(p["negative_slope"])
            elif source.function == "relu":
                ceiling = p["max_value"]
                op.p[0] = float("inf") if ceiling is None else ceiling
                op.p[1], op.p[2] = p["negative_slope"], p["threshold"]
            elif p:
                (value,) = p.values()
                op.p[0] = value
        elif name == "Unmask":
            op.source, op.out, op.present = source.source, source.clean, source.present
        elif name == "Scale":
            op.source, op.out, op.values = source.source, source.out, self.vector(source.values)
        elif name == "Remask":
            op.out, op.present = source.buffer, source.present
        elif name == "Begin":
            op.source, op.out, op.check = source.output, source.out, source.rectify
        elif name == "Copy":
            op.source, op.out = source.source, source.out
            op.check = source.out == self.code.result
        return 0

    def run(self, cnp.ndarray x, cnp.ndarray out, long samples, long micro, int threads, str mode="max",
            cnp.ndarray targets=None, long target_step=0, int targets_count=1, cnp.ndarray start=None, kept=None):
        """Run on ``samples`` rows of x into ``out``.

        All arrays are C-contiguous and of the program's dtype (targets: int64);
        the caller checks that. Returns None, or (fault, first sample of the
        micro-batch where it happened).
        """
        cdef Code* code = &self.code
        cdef Job job
        cdef int i, slots = max(1, threads)
        cdef long count = (samples + micro - 1) // micro if samples else 0
        cdef char** outside
        cdef int faults[256]
        cdef long faults_at[256]
        cdef Workspace workspace = None
        if count == 0:
            return None
        slots = min(slots, 256, count)
        memset(faults, 0, slots * sizeof(int))
        job.workspace_bytes = ceil_to(self.workspace_bytes(micro) + code.buffers * sizeof(char*), 64)
        try:
            workspace = self.spare.pop()
        except IndexError:
            pass
        if workspace is None or workspace.nbytes < job.workspace_bytes * slots + code.buffers * <long>sizeof(char*):
            workspace = None
            workspace = Workspace(job.workspace_bytes * slots + code.buffers * sizeof(char*))
        job.workspace = workspace.aligned
        outside = <char**>(workspace.aligned + job.workspace_bytes * slots)
        memset(outside, 0, code.buffers * sizeof(char*))
        outside[0] = <char*>cnp.PyArray_DATA(x)
        outside[code.result if code.result >= 0 else code.output] = <char*>cnp.PyArray_DATA(out)
        if kept is not None:
            for buffer, array in kept.items():
                outside[<int>buffer] = <char*>cnp.PyArray_DATA(array)
        job.code, job.samples, job.micro = code, samples, micro
        job.outside = outside
        job.mode = MODE[mode]
        job.targets = <const int64_t*>cnp.PyArray_DATA(targets) if targets is not None else NULL
        job.target_step, job.targets_count = target_step, targets_count
        job.start = <const char*>cnp.PyArray_DATA(start) if start is not None else NULL
        job.fault, job.fault_at = faults, faults_at
        with nogil:
            lrpfast_pool_run(task_f64 if code.f64 else task_f32, &job, count, slots)
        self.spare.append(workspace)
        worst = None
        for i in range(slots):
            if faults[i] and (worst is None or faults_at[i] < worst[1]):
                worst = (FAULT[faults[i]], faults_at[i])
        return worst


def instruction_sets():
    """Names of the instruction sets this processor can run, the best last."""
    return [lrpfast_isa_name(i).decode() for i in range(lrpfast_isa_count())]
