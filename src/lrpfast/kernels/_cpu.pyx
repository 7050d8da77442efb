"""The CPU backend's loops: packing, micro-batches, threads, and the operations of a program.

`Executable` holds a `program.Program` as C records. A run splits the batch into
micro-batches, so that memory does not grow with it. A thread takes one at a time
through the whole program in its own workspace, so that activations stay in cache; or,
where samples are few or large, all threads share each operation. The heavy operations
are in _contract.pxi and their arithmetic in tile.h, the light ones in _light.pxi;
check.py says what must hold of operations, place.py where buffers lie, _cpu.pxd has the records.
"""

from libc.math cimport cosh, erfc, exp, expm1, fabs, isinf, isnan, log, log1p, pow, sqrt, tanh, INFINITY, NAN
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import os
import threading

import numpy as np
cimport numpy as cnp

from .check import MAX_SUMS as CHECKED_SUMS, check_contraction, check_divide, check_geometry, check_light, require
from .growth import LEAST as GROWTH_LEAST, MOST as GROWTH_MOST
from .place import BUFFERS, OVERFLOWS
from .program import FUNCTIONS, INPUT_PARTS, SHARE_PARTS, function_parameters

cnp.import_array()
assert CHECKED_SUMS == MAX_SUMS

KIND = {"Contract": CONTRACT, "Redistribute": REDISTRIBUTE, "Divide": DIVIDE, "Activate": ACTIVATE,
        "Unmask": UNMASK, "Scale": SCALE, "Remask": REMASK, "Begin": START, "Copy": COPY, "Accumulate": ACCUMULATE,
        "Slope": SLOPE, "SoftmaxBack": SOFTMAX_BACK, "Gather": GATHER, "Scatter": SCATTER, "Strided": STRIDED,
        "Pool": POOL, "Unpool": UNPOOL, "Multiply": MULTIPLY, "Extremum": EXTREMUM, "Select": SELECT,
        "Normalize": NORMALIZE, "NormalizeBack": NORMALIZE_BACK, "LocalNormalize": LOCAL_NORMALIZE, "Dot": DOT,
        "DotBack": DOT_BACK, "Lookup": LOOKUP, "Total": TOTAL}
MODE = {"max": START_MAX, "index": START_INDEX, "pair": START_PAIR, "array": START_ARRAY, "all": START_ALL}
#: Larger weights of dense layers are not kept in packed form: see `keep_lazy`.
LAZY_BYTES = 32 << 20
FAULT = {INPUT_NOT_FINITE: "input_not_finite", INPUT_OUT_OF_RANGE: "input_out_of_range", NOT_FINITE: "not_finite"}

cdef double MOST = GROWTH_MOST, LEAST = GROWTH_LEAST
cdef size_t main_thread = 0


def _note_main_thread():
    global main_thread
    main_thread = threading.main_thread().ident


_note_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main_thread)

cdef double zeros_of_depth[DEPTH]  # what a tap outside the image sees

include "_contract.pxi"
include "_light.pxi"
include "_growth.pxi"


cdef void divide(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef const Divide* d = &op.divide
    cdef Py_ssize_t size = code.size[d.relevance], i
    for i in range(samples):
        k_divide(code, size, <const real*>base[d.relevance] + i * size,
                 <const real*>base[d.z] + i * size if d.z >= 0 else <const real*>d.z_constant, d,
                 <const real*>base[d.mask_z] + i * size if d.mask else NULL,
                 <real*>base[d.out] + i * size)


cdef int step(const Job* job, const Operation* op, char** base, Py_ssize_t first, Py_ssize_t samples, int which,
              real* sums) noexcept nogil:
    """One operation on one micro-batch; returns a fault, or FINE."""
    cdef const Code* code = job.code
    cdef int kind = op.kind, fault = FINE
    if kind == CONTRACT or kind == REDISTRIBUTE:
        fault = contract(code, op, base, samples, sums)
    elif kind == DIVIDE:
        divide(code, op, base, samples, sums)
    elif kind == ACTIVATE:
        fault = activate(code, op, base, samples, sums)
    elif kind == UNMASK:
        unmask(code, op, base, samples, sums)
    elif kind == SCALE:
        scale(code, op, base, samples, sums)
    elif kind == REMASK:
        remask(code, op, base, samples, sums)
    elif kind == START:
        begin(job, op, base, first, samples, which, sums)
        if job.judged:
            note_starts(job, op, base, first, samples, sums)
    elif kind == COPY:
        memcpy(base[op.writes[0]], base[op.reads[0]], samples * code.size[op.reads[0]] * sizeof(real))
    elif kind == ACCUMULATE or kind == MULTIPLY or kind == EXTREMUM:
        combine_sources(code, op, base, samples, sums)
    elif kind == SLOPE:
        slope(code, op, base, samples, sums)
    elif kind == SOFTMAX_BACK:
        softmax_back(code, op, base, samples, sums)
    elif kind == GATHER or kind == SCATTER or kind == STRIDED:
        move(code, op, base, samples, sums)
    elif kind == POOL:
        pool(code, op, base, samples, sums)
    elif kind == UNPOOL:
        unpool(code, op, base, samples, sums)
    elif kind == SELECT:
        select(code, op, base, samples, sums)
    elif kind == NORMALIZE:
        normalize(code, op, base, samples, sums)
    elif kind == NORMALIZE_BACK:
        normalize_back(code, op, base, samples, sums)
    elif kind == LOCAL_NORMALIZE:
        local_normalize(code, op, base, samples, sums)
    elif kind == DOT or kind == DOT_BACK:
        product(code, op, base, samples, sums)
    elif kind == LOOKUP:
        fault = lookup(code, op, base, samples, sums)
    else:
        add_channels(code, op, base, samples, sums)
    if op.checked >= 0 and not fault:
        if not k_finite(code, samples * code.size[op.checked], <const real*>base[op.checked]):
            return NOT_FINITE
    if not fault and lrpfast_stopped(samples * LIGHT * <double>code.size[op.writes[0]] if op.writes[0] >= 0 else 0):
        return STOPPED
    return fault


cdef int examine(const Code* code, const real* x, Py_ssize_t n) noexcept nogil:
    """The first fault of the input, or FINE."""
    cdef Py_ssize_t j
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


cdef inline char** bases(const Job* job, int slot) noexcept nogil:
    """A thread's own table of buffers, at the end of its workspace."""
    return <char**>(job.workspace + (slot + 1) * job.workspace_bytes) - job.code.buffers


cdef void set_bases(const Job* job, char** base, Py_ssize_t first, char* buffers) noexcept nogil:
    """Where every buffer lies for a micro-batch that begins at sample ``first``."""
    cdef const Code* code = job.code
    cdef Py_ssize_t b, itemsize = 8 if code.f64 else 4
    for b in range(code.buffers):
        if job.outside[b] != NULL:
            base[b] = job.outside[b] + first * code.size[b] * itemsize
        else:
            base[b] = buffers + code.offset[b] * job.micro * itemsize


cdef void note_fault(const Job* job, int slot, int fault, Py_ssize_t first) noexcept nogil:
    if fault and (not job.fault[slot] or first < job.fault_at[slot]):
        job.fault[slot] = fault
        job.fault_at[slot] = first


cdef int raise_heard() except -1:
    """Raise what `heard` left as this thread's error."""
    return -1


cdef int heard() noexcept with gil:
    """Whether a signal's handler raised, as that of Ctrl-C does; asked while kernels run."""
    return PyErr_CheckSignals() != 0


# Apart: every thread takes whole micro-batches, each through the whole program.

cdef void micro_batch(Job* job, Py_ssize_t index, int slot, real* unused) noexcept nogil:
    cdef const Code* code = job.code
    cdef Py_ssize_t first = index * job.micro
    cdef Py_ssize_t samples = min(job.micro, job.samples - first)
    cdef real* sums = <real*>(job.workspace + slot * job.workspace_bytes)
    cdef char** base = bases(job, slot)
    cdef int t, which, fault
    set_bases(job, base, first, <char*>(sums + code.scratch))
    fault = examine(code, <const real*>base[0], samples * code.size[0])
    if not fault:
        for t in range(code.forward_count):
            fault = step(job, &code.operations[t], base, first, samples, 0, sums)
            if fault:
                break
    if not fault:
        for which in range(job.targets_count):
            if which:
                base[code.result] += job.samples * code.size[code.result] * sizeof(real)
            if fault:
                break
            for t in range(code.forward_count, code.forward_count + code.backward_count):
                fault = step(job, &code.operations[t], base, first, samples, which, sums)
                if fault:
                    break
            if job.judged and not fault:
                judge(job, base, first, samples, slot, sums)
    note_fault(job, slot, fault, first)


cdef void task_f32(void* job, Py_ssize_t index, int slot) noexcept nogil:
    micro_batch(<Job*>job, index, slot, <float*>NULL)

cdef void task_f64(void* job, Py_ssize_t index, int slot) noexcept nogil:
    micro_batch(<Job*>job, index, slot, <double*>NULL)


# Together: all threads share every operation of one micro-batch, for samples that are few or large.

cdef void team_piece(Team* team, Py_ssize_t index, int slot, real* unused) noexcept nogil:
    cdef const Job* job = team.job
    cdef const Code* code = job.code
    cdef const Operation* op = team.op
    cdef real* sums = <real*>(job.workspace + slot * job.workspace_bytes)
    cdef char** base = team.base
    cdef Py_ssize_t b
    cdef int fault
    if divisible(op):
        fault = contract_numbered(code, op, base, team.samples, index, team.columns, sums)
    else:
        base = bases(job, slot)
        for b in range(code.buffers):
            base[b] = team.base[b] + index * code.size[b] * sizeof(real)
        fault = step(job, op, base, team.first + index, 1, team.which, sums)
    note_fault(job, slot, fault, team.first)


cdef void piece_f32(void* team, Py_ssize_t index, int slot) noexcept nogil:
    team_piece(<Team*>team, index, slot, <float*>NULL)

cdef void piece_f64(void* team, Py_ssize_t index, int slot) noexcept nogil:
    team_piece(<Team*>team, index, slot, <double*>NULL)


cdef int share_operation(Team* team, int threads) noexcept nogil:
    """One operation by all threads; returns the first fault that any of them noted, or FINE."""
    cdef int slot
    cdef const Job* job = team.job
    team.columns = columns_of_piece(team.op, team.samples, threads)
    lrpfast_pool_run(piece_f64 if job.code.f64 else piece_f32, team, count_pieces(team.op, team.samples, team.columns),
                     threads)
    for slot in range(threads):
        if job.fault[slot]:
            return job.fault[slot]
    return FINE


cdef void run_together(Job* job, char** base, char* buffers, int threads) noexcept nogil:
    """The whole batch, a micro-batch after the other; stops at the first fault."""
    cdef const Code* code = job.code
    cdef Team team
    cdef int t, which, fault
    team.job, team.base, team.first = job, base, 0
    while team.first < job.samples:
        team.samples, team.which = min(job.micro, job.samples - team.first), 0
        set_bases(job, base, team.first, buffers)
        if code.f64:
            fault = examine(code, <const double*>base[0], team.samples * code.size[0])
        else:
            fault = examine(code, <const float*>base[0], team.samples * code.size[0])
        note_fault(job, 0, fault, team.first)
        if fault:
            return
        for t in range(code.forward_count):
            team.op = &code.operations[t]
            if share_operation(&team, threads):
                return
        for which in range(job.targets_count):
            team.which = which
            if which:
                base[code.result] += job.samples * code.size[code.result] * (8 if code.f64 else 4)
            for t in range(code.forward_count, code.forward_count + code.backward_count):
                team.op = &code.operations[t]
                if share_operation(&team, threads):
                    return
            if job.judged and code.f64:
                judge(job, base, team.first, team.samples, 0, <double*>NULL)
            elif job.judged:
                judge(job, base, team.first, team.samples, 0, <float*>NULL)
        team.first += job.micro


cdef class Workspace:
    """Memory for the threads of one run."""
    cdef char* memory
    cdef char* aligned
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes):
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
    cdef dict placed      # addresses of packed weights and geometries while operations are translated
    cdef tuple sizes
    cdef Py_ssize_t itemsize
    cdef int isa

    def __cinit__(self):
        memset(&self.code, 0, sizeof(Code))

    def __init__(self, program, int isa, offsets, Py_ssize_t width):
        cdef Code* code = &self.code
        cdef Operation* op
        cdef int i
        cdef Py_ssize_t blocks = 0
        self.held, self.spare, self.placed, self.isa = [], [], {}, isa
        self.sizes = tuple(program.sizes)
        code.f64 = program.dtype == "float64"
        code.tf32 = program.tf32
        self.itemsize = 8 if code.f64 else 4
        code.f32 = lrpfast_kernels_f32(isa)
        code.f64_kernels = lrpfast_kernels_f64(isa)
        code.buffers = len(program.sizes)
        code.size = <Py_ssize_t*>self.zeros(code.buffers * sizeof(Py_ssize_t))
        code.offset = <Py_ssize_t*>self.zeros(code.buffers * sizeof(Py_ssize_t))
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
            op = &code.operations[i]
            op.checked = -1
            self.translate(operation, op)
            if i < code.forward_count and type(operation).__name__ in OVERFLOWS:
                op.checked = op.writes[0]
            code.sums = max(code.sums, op.sums * op.plane)
            blocks = max(blocks, (ROWS + (FEW_COLUMNS if self.is_lazy(op) else 0)) * DEPTH)
            code.tables = max(code.tables, ceil_to(self.table_bytes(op) // self.itemsize, 16))
        self.placed = {}
        code.scratch = code.sums + code.tables + blocks
        self.check_result(operations)
        # One pass over memory less, where the input goes straight into a contraction: x · w is not
        # finite for any w when x is not, so the sums tell. Not so for parts of x, nor after rounding.
        op = &code.operations[0]
        if not code.allow_nan and not code.ranged and program.forward and op.kind == CONTRACT:
            if op.geometry == NULL and not op.diagonal:  # else some of the input may go nowhere
                code.inspects = 1
                op.inspect = op.tf32 or all(term.part != "x" for term in program.forward[0].terms)

    cdef int check_result(self, operations) except -1:
        """The relevance that is handed out must be finite: checked by the last operation that writes it."""
        cdef int i
        cdef Operation* op
        for i in range(len(operations) - 1, self.code.forward_count - 1, -1):
            op = &self.code.operations[i]
            # NaN where the input was masked is meant
            if op.kind == REMASK or self.code.result not in (op.writes[0], op.writes[1]):
                continue
            if op.kind == REDISTRIBUTE:
                op.check = 1  # row by row, while it is in the cache
            else:
                op.checked = self.code.result
            return 0
        return 0

    cdef Py_ssize_t table_bytes(self, const Operation* op) except -1:
        """Scratch memory besides accumulators: of source rows, or of a packed matrix."""
        cdef Py_ssize_t most = 0
        cdef int r, t
        if op.kind == POOL or op.kind == UNPOOL:
            return op.geometry.regions[0].taps * sizeof(int64_t) + op.columns * self.itemsize
        if op.kind == DOT or op.kind == DOT_BACK:
            most = op.n if op.kind == DOT_BACK else op.k
            return (most * ceil_to(op.columns, op.lanes) + (op.m * most if op.flag else 0)) * self.itemsize
        if op.spread:
            return op.sums * op.finish_plane * self.itemsize
        if op.geometry == NULL or op.diagonal:
            return 0
        for t in range(op.terms_count):
            for r in range(op.geometry.regions_count):
                most = max(most, op.terms[t].geometry.regions[r].taps)
        return ROWS * most * <Py_ssize_t>sizeof(int64_t)

    cpdef Py_ssize_t scratch_bytes(self):
        """Bytes that each thread needs, whatever the micro-batch."""
        return ceil_to(self.code.scratch * self.itemsize + self.code.buffers * <Py_ssize_t>sizeof(char*), 64)

    cpdef Py_ssize_t sample_bytes(self):
        """Bytes that a micro-batch needs for each of its samples."""
        return self.code.width * self.itemsize

    cdef void* zeros(self, Py_ssize_t nbytes) except NULL:
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

    cdef const int64_t* indices(self, value) except NULL:
        array = np.ascontiguousarray(value, dtype=np.int64).reshape(-1)
        self.held.append(array)
        return <const int64_t*>cnp.PyArray_DATA(array)

    cdef size_t packed(self, weights, int sign, const Operation* op) except 0:
        """Weights of shape (K, N) or (groups, K, N) as panels, one group after the other; the same array only once."""
        cdef tuple key = (id(weights), sign, op.lanes, op.panel, op.tf32)  # its type must not be inferred
        kept = self.placed.get(key)
        if kept is not None:
            return kept[0]
        array = np.require(weights, np.float64 if self.code.f64 else np.float32, "A")
        if array.ndim == 2:
            array = array[None]
        cdef Py_ssize_t groups = array.shape[0], depth = array.shape[1], columns = array.shape[2], k0, kc, g
        cdef Py_ssize_t row_step = array.strides[1] // self.itemsize, column_step = array.strides[2] // self.itemsize
        cdef Py_ssize_t padded = ceil_to(columns, op.lanes)
        cdef char* out = <char*>self.zeros(groups * depth * padded * self.itemsize)
        cdef char* to = out
        cdef char* data
        for g in range(groups):
            data = <char*>cnp.PyArray_DATA(array[g])
            for k0 from 0 <= k0 < depth by DEPTH:
                kc = min(<Py_ssize_t>DEPTH, depth - k0)
                if self.code.f64:
                    k_pack(op, kc, columns, <double*>data + k0 * row_step, row_step, column_step, sign, <double*>to)
                else:
                    k_pack(op, kc, columns, <float*>data + k0 * row_step, row_step, column_step, sign, <float*>to)
                to += kc * padded * self.itemsize
        self.placed[key] = <size_t>out, weights
        return <size_t>out

    cdef int is_lazy(self, const Operation* op) noexcept:
        return op.terms_count and op.terms[0].lazy

    cdef int keep_lazy(self, given, Term* term) except -1:
        """Large weights as they are: packed a block at a time while in use, and not kept twice."""
        array = np.require(given.weights, np.float64 if self.code.f64 else np.float32, "A")
        self.held.append(array)
        term.lazy = 1
        term.row_step, term.column_step = array.strides[0] // self.itemsize, array.strides[1] // self.itemsize
        term.sign = given.sign
        term.weights[0] = cnp.PyArray_DATA(array)
        return 0

    cdef size_t diagonal(self, weights, const Operation* op) except 0:
        """Weights of a diagonal operation as they are, rounded where asked; the same array only once."""
        kept = self.placed.get((id(weights), "diagonal", op.tf32))
        if kept is not None:
            return kept[0]
        cdef void* data = self.vector(weights)
        cdef void* out = data
        cdef Py_ssize_t n = np.size(weights)
        if op.tf32:
            out = self.zeros(n * self.itemsize)
            if self.code.f64:
                k_load(&self.code, n, <const double*>data, 0, 1, <double*>out)
            else:
                k_load(&self.code, n, <const float*>data, 0, 1, <float*>out)
        self.placed[id(weights), "diagonal", op.tf32] = <size_t>out, weights
        return <size_t>out

    cdef const Geometry* geometry(self, source, operation) except NULL:
        """A geometry as a record, checked; the same one only once."""
        cdef Geometry* g
        cdef Region* region
        cdef Axis* axis
        cdef int r, d
        kept = self.placed.get(id(source))
        if kept is not None:
            return <const Geometry*><size_t>kept[0]
        check_geometry(source, operation)
        g = <Geometry*>self.zeros(sizeof(Geometry))
        g.regions_count = len(source.regions)
        g.regions = <Region*>self.zeros(g.regions_count * sizeof(Region))
        g.source_rows = 1
        for d in range(3):
            g.source[d], g.out[d] = source.source[d], source.out[d]
            g.source_rows *= g.source[d]
        for r in range(g.regions_count):
            region = &g.regions[r]
            region.rows = region.taps = 1
            for d in range(3):
                axis, given = &region.axes[d], source.regions[r].axes[d]
                axis.count, axis.taps = given.index.shape
                axis.positions, axis.index = self.indices(given.positions), self.indices(given.index)
                if given.factor is not None:
                    factor = np.ascontiguousarray(given.factor, dtype=np.float64)
                    self.held.append(factor)
                    axis.factor = <const double*>cnp.PyArray_DATA(factor)
                region.rows *= axis.count
                region.taps *= axis.taps
        self.placed[id(source)] = <size_t>g, source
        return g

    cdef void choose_kernels(self, Operation* op, int lazy) noexcept:
        """This run's kernels, or those of half the vector width where columns fill no more: the same sums."""
        cdef int isa = self.isa
        cdef Py_ssize_t full = lrpfast_kernels_f64(isa).lanes if self.code.f64 else lrpfast_kernels_f32(isa).lanes
        if isa == 2 and op.columns * 2 <= full:
            isa = 1
        op.f32, op.f64_kernels = lrpfast_kernels_f32(isa), lrpfast_kernels_f64(isa)
        op.lanes = op.f64_kernels.lanes if self.code.f64 else op.f32.lanes
        op.panel = op.f64_kernels.panel if self.code.f64 else op.f32.panel
        cdef Py_ssize_t most = COLUMNS
        op.pass_rows = ROWS
        if op.geometry == NULL and op.columns <= op.lanes and op.depth > DEPTH:
            op.pass_rows = NARROW  # bound by memory: the hardware fetches ahead on so many sequences only
        if lazy:
            op.pass_rows, most = MOST_ROWS, FEW_COLUMNS
        op.pass_columns = min(most, ceil_to(op.columns, op.lanes))
        if op.diagonal:
            op.pass_columns = min(<Py_ssize_t>COLUMNS, op.width)
        op.ld = ceil_to(op.pass_columns, full)
        op.plane = op.finish_plane = op.pass_rows * op.ld

    cdef int choose_shallow(self, source, Operation* op) except -1:
        """Whether the kernel for few k and many columns can do a whole redistribution, and with which shares."""
        if op.diagonal or op.geometry != NULL or self.is_lazy(op):
            return 0
        if op.depth > 16 or op.columns <= COLUMNS or op.tf32 or source.divide is not None:
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

    cdef int translate_terms(self, source, Operation* op) except -1:
        cdef int i, r, t, last = 0
        cdef Py_ssize_t full_lanes = 16  # of the widest vectors
        cdef Term* term
        cdef size_t address
        # first, so that what is read below is sound
        for given in source.terms:
            if given.geometry is not None:
                self.geometry(given.geometry, source)
        check_contraction(source, self.sizes)
        op.rows, op.diagonal, op.tf32 = source.rows, source.diagonal, source.tf32 and self.code.tf32
        op.terms_count = len(source.terms)
        op.terms = <Term*>self.zeros(op.terms_count * sizeof(Term))
        backward = op.kind == REDISTRIBUTE
        op.width = self.sizes[source.out if backward else source.outputs[0].buffer] // op.rows
        first = source.terms[0]
        weights = first.weights if first.geometry is None or backward and source.spread else first.weights[0]
        op.groups = weights.shape[0] if weights.ndim == 3 else 1
        op.spread = backward and source.spread
        op.columns = weights.shape[1] if op.spread else op.width // op.groups
        op.depth = 0 if op.diagonal else weights.shape[weights.ndim - 2]
        if first.geometry is not None:
            op.geometry = self.geometry(first.geometry, source)
        lazy = (op.geometry == NULL and not op.diagonal and op.groups == 1 and op.depth > 16
                and op.depth * op.columns * self.itemsize > LAZY_BYTES)
        self.choose_kernels(op, lazy)
        if op.spread:  # a sample's sums, in the order of its values
            require(op.columns <= COLUMNS, source, "too many taps")
            op.finish_plane = ceil_to(self.sizes[source.out], full_lanes)
        for i, given in enumerate(source.terms):
            term = &op.terms[i]
            term.source, term.accumulator, term.part = given.source, given.accumulator, INPUT_PARTS.index(given.part)
            op.sums = max(op.sums, term.accumulator + 1)
            matrices = (given.weights,)
            if op.spread:
                term.geometry = op.geometry
            elif given.geometry is not None:
                term.geometry, matrices = self.geometry(given.geometry, source), given.weights
                term.channels = self.sizes[term.source] // term.geometry.source_rows // op.groups
            term.weights = <void**>self.zeros(len(matrices) * sizeof(void*))
            term.alike = op.diagonal and all(w.shape[1] == 1 for w in matrices)
            if lazy:
                self.keep_lazy(given, term)
                matrices = ()
            for r, w in enumerate(matrices):
                if op.diagonal and w.shape[1] < op.width and not term.alike:
                    w = np.repeat(w, op.width, 1)  # one form for all regions
                address = self.diagonal(w, op) if op.diagonal else self.packed(w, given.sign, op)
                term.weights[r] = <void*>address
            # what several terms in a row contract is gathered once
            if i and (term.source == op.terms[last].source and term.part == op.terms[last].part
                      and term.geometry == op.terms[last].geometry):
                op.terms[last].together += 1
            else:
                last, term.together = i, 1
        # blocks of several terms in one sum would be added in another order
        op.deep = (op.geometry == NULL and not op.diagonal and not lazy and op.columns <= op.lanes and op.depth > DEPTH
                   and not op.tf32 and op.sums == op.terms_count and all(t.part == "x" for t in source.terms))
        return 0

    cdef int translate_contract(self, source, Operation* op) except -1:
        cdef int i, a
        cdef lrpfast_finish* finish = &op.finish
        self.translate_terms(source, op)
        op.writes[0] = op.writes[1] = -1
        finish.sums, finish.outputs = op.sums, len(source.outputs)
        for i, output in enumerate(source.outputs):
            op.finish_buffers[i], finish.output[i].relu = output.buffer, output.relu
            finish.output[i].constant = self.vector(output.constant)
            finish.output[i].per_row = output.constant is not None and np.size(output.constant) > op.width
            for a, c in enumerate(output.coefficients):
                finish.output[i].coefficients[a] = c
        return 0

    cdef int translate_redistribute(self, source, Operation* op) except -1:
        cdef int i
        cdef lrpfast_finish* finish = &op.finish
        cdef Divide divide
        self.translate_terms(source, op)
        op.reads[0], op.writes[0], op.writes[1] = source.x, source.out, -1
        finish.shares, finish.tf32 = len(source.shares), op.tf32
        for i, share in enumerate(source.shares):
            finish.share[i].accumulator, finish.share[i].coefficient = share.accumulator, share.coefficient
            finish.share[i].part = min(SHARE_PARTS.index(share.part), 4)  # both bounds alike
            finish.share[i].bound = self.vector(share.bound)
            finish.share[i].step = share.bound is not None and np.size(share.bound) > 1
        op.shallow = self.choose_shallow(source, op)
        op.finish_buffers[0], op.finish_buffers[1] = source.x, source.out
        op.finish_buffers[2] = op.finish_buffers[3] = -1
        if source.divide is not None:
            self.translate_divide(source.divide, &divide)
            finish.divides, finish.stabilizer, finish.kind, finish.mask = 1, divide.value, divide.kind, divide.mask
            finish.z_per_row, op.z_constant = divide.z < 0, divide.z_constant
            op.finish_buffers[2], op.finish_buffers[3] = divide.z, divide.mask_z
        return 0

    cdef int translate_function(self, source, Operation* op) except -1:
        """The function of an `Activate` or a `Slope`."""
        cdef int i
        op.function = FUNCTIONS.index(source.function)
        for i, value in enumerate(function_parameters(source)):
            op.p[i] = value
        if source.function == "prelu":
            op.values = self.vector(source.parameters["negative_slope"])
        return 0

    cdef int translate_light(self, source, Operation* op) except -1:
        cdef int i, kind = op.kind
        reads, writes = BUFFERS[type(source).__name__]
        reads = [getattr(source, name) for name in reads]
        writes = [getattr(source, name) for name in writes]
        sources = getattr(source, "sources", ())
        check_light(source, self.sizes, [b for b in (*reads, *sources) if b is not None],
                    [b for b in writes if b is not None])
        for i, b in enumerate(reads):
            op.reads[i] = -1 if b is None else b
        op.writes[1] = -1
        for i, b in enumerate(writes):
            op.writes[i] = -1 if b is None else b
        op.sources_count = len(sources)
        op.sources = <int*>self.zeros(op.sources_count * sizeof(int))
        for i, b in enumerate(sources):
            op.sources[i] = b
        op.columns = getattr(source, "columns", 1)
        if kind == ACTIVATE or kind == SLOPE:
            self.translate_function(source, op)
        elif kind == SCALE:
            op.values = self.vector(source.values)
        elif kind == START:
            op.flag = source.rectify
        elif kind == GATHER or kind == SCATTER:
            op.index = self.indices(source.index)
        elif kind == STRIDED:
            op.run_count, op.run_length = source.count, source.length
            op.source_offset, op.source_step = source.source_offset, source.source_step
            op.out_offset, op.out_step = source.out_offset, source.out_step
        elif kind == POOL or kind == UNPOOL:
            op.geometry = self.geometry(source.geometry, source)
        elif kind == EXTREMUM:
            op.flag = source.sign
        elif kind == SELECT:
            op.flag = source.place
        elif kind == NORMALIZE or kind == NORMALIZE_BACK:
            op.flag, op.p[0], op.values = source.centered, source.epsilon, self.vector(source.gamma)
            if kind == NORMALIZE:
                op.length, op.more_values = source.length, self.vector(source.beta)
            else:
                op.detached = source.detached
        elif kind == LOCAL_NORMALIZE:
            op.p[0], op.p[1], op.p[2] = source.alpha / source.size, source.beta, source.k
            op.run_length = source.size
        elif kind == DOT or kind == DOT_BACK:
            op.m, op.n, op.k = source.m, source.n, source.k
            op.columns = op.n if kind == DOT else op.k
            op.sums, op.depth = 1, 0
            if kind == DOT_BACK:
                op.p[0], op.flag = source.coefficient, source.transposed
            self.choose_kernels(op, 0)
        elif kind == LOOKUP:
            op.values = self.vector(source.table)
            op.rows, op.columns = source.table.shape
        return 0

    cdef int translate(self, source, Operation* op) except -1:
        op.kind = KIND[type(source).__name__]
        if op.kind == CONTRACT:
            return self.translate_contract(source, op)
        if op.kind == REDISTRIBUTE:
            return self.translate_redistribute(source, op)
        if op.kind == DIVIDE:
            check_divide(source, self.sizes, self.sizes[source.out])
            op.writes[0], op.writes[1] = source.out, -1
            return self.translate_divide(source, &op.divide)
        return self.translate_light(source, op)

    def run(self, cnp.ndarray x, cnp.ndarray out, Py_ssize_t samples, Py_ssize_t micro, int threads, bint together,
            str mode="max", cnp.ndarray targets=None, Py_ssize_t target_step=0, int targets_count=1,
            cnp.ndarray start=None, kept=None, window=None, list notes=None, bint exact=False):
        """Run on ``samples`` rows of x into ``out``.

        Threads share each micro-batch (``together``) or take micro-batches of their own. All arrays
        are C-contiguous and of the program's dtype (targets: int64); the caller checks that.
        Returns None, or (fault, first sample of the micro-batch where it happened). ``notes`` gets one
        note of what growth.py counts, if there is anything to say; where not ``exact``, large samples are judged by a
        part of their values first. What a signal's
        handler raises, such as KeyboardInterrupt, ends the run within a moment.
        """
        cdef Code* code = &self.code
        cdef Job job
        cdef int i, slots = max(1, threads)
        cdef Py_ssize_t count = (samples + micro - 1) // micro if samples else 0
        cdef Py_ssize_t table = code.buffers * <Py_ssize_t>sizeof(char*), shared, whole, starts
        cdef char** outside
        cdef int faults[256]
        cdef Py_ssize_t faults_at[256]
        cdef Growth growth[256]
        cdef Workspace workspace = None
        cdef lrpfast_watch watch
        cdef bint watched, judged
        if count == 0:
            return None
        slots = min(slots, 256) if together else min(slots, 256, count)
        memset(faults, 0, slots * sizeof(int))
        # each thread's scratch, and its buffers or everyone's; then the tables of outside and of shared addresses
        shared = ceil_to(self.sample_bytes() * micro, 64)
        job.workspace_bytes = self.scratch_bytes() + (0 if together else shared)
        whole = job.workspace_bytes * slots + (shared if together else 0)
        try:
            workspace = self.spare.pop()
        except IndexError:
            pass
        judged = notes is not None and code.result >= 0
        starts = 2 * samples * <Py_ssize_t>sizeof(double) if judged else 0
        if workspace is None or workspace.nbytes < whole + 2 * table + starts:
            workspace = None
            workspace = Workspace(whole + 2 * table + starts)
        job.workspace = workspace.aligned
        outside = <char**>(workspace.aligned + whole)
        memset(outside, 0, table)
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
        job.window_first, job.window_size = 0, code.size[code.output]
        if window is not None:
            job.window_first, job.window_size = window
            if not 0 <= job.window_first < job.window_first + job.window_size <= code.size[code.output]:
                raise ValueError(f"window {window} is not part of {code.size[code.output]} outputs")
        job.fault, job.fault_at = faults, faults_at
        job.judged, job.exact, job.growth = judged, exact, growth
        job.starts = <double*>(workspace.aligned + whole + 2 * table)
        memset(growth, 0, slots * sizeof(Growth))
        watched = PyThread_get_thread_ident() == main_thread  # signals are heard there only
        if watched:
            lrpfast_watch_begin(&watch, heard)
        with nogil:
            if together:
                run_together(&job, outside + code.buffers, job.workspace + job.workspace_bytes * slots, slots)
            else:
                lrpfast_pool_run(task_f64 if code.f64 else task_f32, &job, count, slots)
        if watched:
            lrpfast_watch_end(&watch)
            if watch.stopped:
                raise_heard()  # the workspace is not kept: it costs nothing to make another
        self.spare.append(workspace)
        worst = None
        for i in range(slots):
            if faults[i] and (worst is None or faults_at[i] < worst[1]):
                worst = (FAULT[faults[i]], faults_at[i])
        if judged and worst is None:
            note = noted(growth, slots)
            if note is not None:
                notes.append(note)
        return worst


def instruction_sets():
    """Names of the instruction sets this processor can run, the best last."""
    return [lrpfast_isa_name(i).decode() for i in range(lrpfast_isa_count())]
