"""The CPU backend's loops.

A program becomes C records (_records.pxi, _translate.pxi), each with the kernel that its row in ops.py names. A run
splits the batch into micro-batches, so that memory does not grow with it (_schedule.pxi). The heavy operations are in
_contract.pxi, _lines.pxi, _sparse.pxi, _channelwise.pxi and _pieces.pxi, and their arithmetic in tile.h; the light
ones in _dot.pxi, _attention.pxi, _functions.pxi, _light.pxi, _pool.pxi and _recurrent.pxi. _cpu.pxd has the records
and the C kernels.
"""

from libc.math cimport cosh, erfc, exp, expm1, fabs, fma, isinf, isnan, log, log1p, pow, tanh, INFINITY, NAN
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

import itertools
import math
import os
import threading
import weakref

import numpy as np
cimport numpy as cnp

from .codes import INPUT_PARTS, SHARE_PARTS, STABILIZERS, START_MODES
from .growth import LEAST as GROWTH_LEAST, MOST as GROWTH_MOST, RunGrowth
from .operation import row_of
from .ops import Contract, Redistribute, RestoreNaN
from .recurrent_ops import ACCOUNT as CHECKED_ACCOUNT, function_code, widened
from .verify import MAX_SUMS as CHECKED_SUMS, check_geometry
from .zeros import NEARLY_ALL, zeros_read

cnp.import_array()
assert CHECKED_SUMS == MAX_SUMS and CHECKED_ACCOUNT == ACCOUNT

#: Larger weights of dense layers are not kept in packed form: see `keep_lazy`.
LAZY_BYTES = 32 << 20
#: From how many inputs, outputs and weights on a layer's products are done on tile registers, where there are any. With
#: one row a sample, which a few samples would not fill tiles with, from more weights on.
PRODUCTS_FROM = {"depth": 64, "columns": 96, "weights": 1 << 15, "weights_of_one_row": 1 << 18}
#: From how many on the kernels for rows of zeros take a layer: inputs and vectors of outputs; with a window of taps its
#: channels, where nearly all values are zeros and where only many are, and lines of a piece, which reads one more on
#: either side.
SPARSE_FROM = {"depth": 64, "vectors": 6, "channels": 64, "channels_of_nearly_all": 16, "lines": 4}
#: Values that are copied at once from a position on; fewer are copied one by one.
SHORTEST_RUN = 8
FAULTS = {INPUT_NOT_FINITE: "input_not_finite", INPUT_OUT_OF_RANGE: "input_out_of_range", NOT_FINITE: "not_finite"}
#: The enums of codes.py as they were compiled, for the test that compares them.
CODES = {
    "Part": {"X": X, "POSITIVE": POSITIVE, "NEGATIVE": NEGATIVE, "ONE": ONE, "X_MINUS_BOUND": X_MINUS_BOUND,
             "ABSOLUTE": ABSOLUTE},
    "Stabilizer": {"SIGN": SIGN, "ZERO": ZERO, "UNSIGNED": UNSIGNED},
    "StartMode": {"MAX": MAX, "INDEX": INDEX, "PAIR": PAIR, "ARRAY": ARRAY, "ALL": ALL},
    "FaultCode": {"FINE": FINE, "INPUT_NOT_FINITE": INPUT_NOT_FINITE, "INPUT_OUT_OF_RANGE": INPUT_OUT_OF_RANGE,
                  "NOT_FINITE": NOT_FINITE},
    "Function": {"RELU": RELU, "LEAKY_RELU": LEAKY_RELU, "PRELU": PRELU, "ELU": ELU, "SELU": SELU, "GELU": GELU,
                 "SILU": SILU, "TANH": TANH, "SIGMOID": SIGMOID, "HARD_SIGMOID": HARD_SIGMOID, "SOFTPLUS": SOFTPLUS,
                 "SOFTSIGN": SOFTSIGN, "EXPONENTIAL": EXPONENTIAL, "MISH": MISH, "CLIP": CLIP, "CELU": CELU,
                 "SHRINK": SHRINK, "LOG_SIGMOID": LOG_SIGMOID, "POWER": POWER, "HARD_SILU": HARD_SILU, "LOG": LOG,
                 "SOFTMAX": SOFTMAX, "LOG_SOFTMAX": LOG_SOFTMAX},
    "Cell": {"SIMPLE": SIMPLE, "LSTM": LSTM, "GRU_AFTER": GRU_AFTER, "GRU_BEFORE": GRU_BEFORE},
    "ProductShare": {"SIGNAL": SIGNAL, "HALF": HALF, "PROP": PROP, "ABS": ABS, "DERIVATIVE": DERIVATIVE},
    "BiasShare": {"ABSORB": ABSORB, "IGNORE": IGNORE, "DISTRIBUTE": DISTRIBUTE, "SHARE": SHARE},
}
#: The packed weights of all programs, by what they are derived from.
PACKED = weakref.WeakValueDictionary()
#: Kernels by the name that an operation's row has for them.
KERNELS = {}

cdef double MOST = GROWTH_MOST, LEAST = GROWTH_LEAST
cdef size_t main_thread = 0


def _note_main_thread():
    global main_thread
    main_thread = threading.main_thread().ident


_note_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main_thread)

cdef enum:
    MOST_AXES = 16  # of a sample in a `SmallRun`

cdef double zeros_of_run[MOST_RUN]  # what taps outside the image see


cdef class Kernel:
    """A kernel in both dtypes, and what it keeps in scratch memory."""
    cdef kernel_f32 f32
    cdef kernel_f64 f64
    cdef int scratch


cdef int register(str name, kernel_f32 f32, kernel_f64 f64, int scratch) except -1:
    """Make a kernel known by its name."""
    cdef Kernel kernel = Kernel()
    kernel.f32, kernel.f64, kernel.scratch = f32, f64, scratch
    KERNELS[name] = kernel
    return 0


cdef Kernel kernel_of(str name):
    """The kernel of a name."""
    if name not in KERNELS:
        raise ValueError(f"the CPU has no kernel {name!r}: none of the .pxi files registers it")
    return KERNELS[name]


include "_lines.pxi"
include "_contract.pxi"
include "_sparse.pxi"
include "_channelwise.pxi"
include "_pieces.pxi"
include "_dot.pxi"
include "_attention.pxi"
include "_functions.pxi"
include "_growth.pxi"
include "_light.pxi"
include "_pool.pxi"
include "_recurrent.pxi"
include "_schedule.pxi"
include "_records.pxi"
include "_choose.pxi"
include "_translate.pxi"


cdef int raise_heard() except -1:
    """Raise what `heard` left as this thread's error."""
    return -1


cdef int heard() noexcept with gil:
    """Whether a signal's handler raised, as that of Ctrl-C does; asked while kernels run."""
    return PyErr_CheckSignals() != 0


cdef int run_watched(Job* job, char** base, int slots, bint cooperative) except -1:
    """Run a job; raises what a signal's handler raised meanwhile."""
    cdef const Code* code = job.code
    cdef lrpfast_watch watch
    cdef bint watched = PyThread_get_thread_ident() == main_thread  # signals are heard there only
    if watched:
        lrpfast_watch_begin(&watch, heard)
    with nogil:
        if cooperative:
            run_cooperative(job, base, job.workspace + job.workspace_bytes * slots, slots)
        else:
            lrpfast_pool_run(micro_batch_f64 if code.f64 else micro_batch_f32, job, job.count, slots)
    if watched:
        lrpfast_watch_end(&watch)
        if watch.stopped:
            raise_heard()
    return 0


cdef class Workspace:
    """Memory for the threads of one run: NumPy's, which asks the system for large pages."""
    cdef object array
    cdef char* aligned
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes):
        try:
            self.array = np.empty(nbytes + 64, np.uint8)
        except MemoryError:
            raise MemoryError(f"no memory for a workspace of {nbytes:,} bytes; lower memory= or threads=") from None
        self.aligned = <char*>((<size_t>cnp.PyArray_DATA(self.array) + 63) & ~<size_t>63)
        self.nbytes = nbytes


cdef class Executable:
    """A compiled program; `run` may be called from several threads at once."""
    cdef Translation translation
    cdef list workspaces  # that no run uses now

    def __init__(self, program, int isa, layout, Py_ssize_t cache):
        self.translation = Translation(program, isa, layout, cache)
        self.workspaces = []

    cpdef Py_ssize_t scratch_bytes(self):
        """Bytes that each thread needs, whatever the micro-batch."""
        cdef const Code* code = &self.translation.code
        return ceil_to(code.scratch * self.translation.itemsize + code.buffers * <Py_ssize_t>sizeof(char*), 64)

    cpdef Py_ssize_t sample_bytes(self):
        """Bytes that a micro-batch needs for each of its samples, at most."""
        cdef const Code* code = &self.translation.code
        return (code.width + code.inner_width) * self.translation.itemsize

    cdef Py_ssize_t buffer_bytes(self, Job* job, bint cooperative):
        """Bytes of the buffers for the samples of a micro-batch, and of those that a stage alone uses for its own."""
        cdef const Code* code = job.code
        job.stage_samples = job.micro_batch if cooperative else min(job.micro_batch, code.stage_samples)
        return ceil_to((code.width * job.micro_batch + code.inner_width * job.stage_samples)
                       * self.translation.itemsize, 64)

    def packed_size(self):
        """Bytes of packed weights; of these, on tile registers; and what a value takes there."""
        packed = [kept for kept in self.translation.kept_alive if isinstance(kept, PackedWeights)]
        # others are the model's own, packed while in use
        packed = [kept for kept in packed if kept.array.dtype == np.uint8]
        tiles = [kept for kept in packed if kept.tile_bytes]
        return (sum(kept.array.nbytes for kept in packed), sum(kept.array.nbytes for kept in tiles),
                max([kept.tile_bytes for kept in tiles], default=0))

    cdef Workspace workspace(self, Py_ssize_t nbytes):
        """Memory of at least so many bytes; `run` puts it back."""
        cdef Workspace workspace = None
        try:
            workspace = self.workspaces.pop()
        except IndexError:
            pass
        if workspace is None or workspace.nbytes < nbytes:
            workspace = None
            workspace = Workspace(nbytes)
        return workspace

    cdef int set_start(self, Job* job, str mode, cnp.ndarray targets, Py_ssize_t target_step, int targets_count,
                       cnp.ndarray start, window, passes) except -1:
        """How the starting relevance is chosen."""
        cdef Py_ssize_t outputs = job.code.size[job.code.output]
        job.mode = START_MODES[mode]
        job.targets = <const int64_t*>cnp.PyArray_DATA(targets) if targets is not None else NULL
        job.target_step, job.targets_count = target_step, targets_count
        job.start = <const char*>cnp.PyArray_DATA(start) if start is not None else NULL
        job.passes = job.passes_first = NULL
        job.masks = NULL
        if passes is not None:
            job.passes = <const int64_t*>cnp.PyArray_DATA(passes.steps)
            job.passes_first = <const int64_t*>cnp.PyArray_DATA(passes.first)
            job.masks = <const unsigned char*>cnp.PyArray_DATA(passes.masks)
        job.window_first, job.window_size = 0, outputs
        if window is not None:
            job.window_first, job.window_size = window
            if not 0 <= job.window_first < job.window_first + job.window_size <= outputs:
                raise ValueError(f"window {window} is not part of {outputs} outputs")
        return 0

    cpdef run(self, cnp.ndarray x, cnp.ndarray out, Py_ssize_t samples, Py_ssize_t micro_batch, int threads,
              bint cooperative, str mode="max", cnp.ndarray targets=None, Py_ssize_t target_step=0,
              int targets_count=1, cnp.ndarray start=None, keep=None, window=None, list notes=None, bint exact=False,
              passes=None):
        """Run on ``samples`` rows of x into ``out``.

        Threads share each micro-batch (``cooperative``) or take micro-batches of their own. All arrays
        are C-contiguous and of the program's dtype (targets: int64); the caller checks that, and the ``passes``
        (interface.Passes) by `verify.check_passes`.
        Returns None, or (fault, first sample of the micro-batch where it happened). ``notes`` gets one
        note of what growth.py counts, if there is anything to say; where not ``exact``, large samples
        are judged by a part of their values first. What a signal's handler raises, such as
        KeyboardInterrupt, ends the run within a moment.
        """
        cdef Code* code = &self.translation.code
        cdef Job job
        cdef int i, slots = min(max(1, threads), <int>MOST_THREADS)
        cdef Py_ssize_t count = (samples + micro_batch - 1) // micro_batch if samples else 0
        cdef Py_ssize_t table = code.buffers * <Py_ssize_t>sizeof(char*), shared, whole, starts
        cdef char** outside
        cdef int faults[MOST_THREADS]
        cdef Py_ssize_t faults_at[MOST_THREADS]
        cdef Growth growth[MOST_THREADS]
        if count == 0:
            return None
        if not cooperative:  # as many micro-batches for every thread, and about as many samples in each
            slots = min(<Py_ssize_t>slots, count)
            count = min(ceil_to(count, slots), samples)
        memset(faults, 0, slots * sizeof(int))
        job.code, job.samples, job.micro_batch, job.count = code, samples, micro_batch, count
        job.fault, job.fault_at = faults, faults_at
        self.set_start(&job, mode, targets, target_step, targets_count, start, window, passes)
        # each thread's scratch, and its buffers or everyone's; then the tables of outside and of shared addresses
        shared = self.buffer_bytes(&job, cooperative)
        job.workspace_bytes = self.scratch_bytes() + (0 if cooperative else shared)
        whole = job.workspace_bytes * slots + (shared if cooperative else 0)
        job.judged, job.exact, job.growth = notes is not None and code.result >= 0, exact, growth
        starts = 2 * samples * <Py_ssize_t>sizeof(double) if job.judged else 0
        memset(growth, 0, slots * sizeof(Growth))
        cdef Workspace workspace = self.workspace(whole + 2 * table + starts)
        job.starts = <double*>(workspace.aligned + whole + 2 * table)
        job.workspace = workspace.aligned
        job.outside = outside = <char**>(workspace.aligned + whole)
        memset(outside, 0, table)
        outside[0] = <char*>cnp.PyArray_DATA(x)
        outside[code.result if code.result >= 0 else code.output] = <char*>cnp.PyArray_DATA(out)
        if keep is not None:
            for buffer, array in keep.items():
                outside[<int>buffer] = <char*>cnp.PyArray_DATA(array)
        run_watched(&job, outside + code.buffers, slots, cooperative)  # raises: the workspace is not kept then
        self.workspaces.append(workspace)
        worst = None
        for i in range(slots):
            if faults[i] and (worst is None or faults_at[i] < worst[1]):
                worst = (FAULTS[faults[i]], faults_at[i])
        if job.judged and worst is None:
            record = run_growth(growth, slots)
            if record is not None:
                notes.append(record)
        return worst


cdef class SmallRun:
    """Runs of batches that are small enough for one thread and one micro-batch; all is decided but the inputs.

    ``row`` is the shape of a sample, ``most`` the largest number of samples, ``judges`` whether growth is noted.
    """
    cdef Executable executable
    cdef object start
    cdef Py_ssize_t most
    cdef int axes, type_number
    cdef bint judges
    cdef cnp.npy_intp row[MOST_AXES]

    def __init__(self, Executable executable, tuple row, Py_ssize_t most, start, bint judges):
        cdef Py_ssize_t size = 1
        self.executable, self.start, self.judges = executable, start, judges
        self.most = most if len(row) <= MOST_AXES else 0
        self.axes, self.type_number = len(row), cnp.NPY_FLOAT64 if executable.translation.code.f64 else cnp.NPY_FLOAT32
        for axis, n in enumerate(row[:MOST_AXES]):
            self.row[axis] = n
            size *= n
        if self.most and size != executable.translation.code.size[0]:
            raise ValueError(f"samples of shape {row} for {executable.translation.code.size[0]} inputs")

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """Whether an array has samples of the shape and dtype, laid out as a run reads and writes them."""
        cdef int axis
        if (not cnp.PyArray_CheckExact(array) or cnp.PyArray_NDIM(array) != self.axes + 1
                or cnp.PyArray_TYPE(array) != self.type_number or not cnp.PyArray_ISCARRAY_RO(array)):
            return False
        for axis in range(self.axes):
            if cnp.PyArray_DIMS(array)[axis + 1] != self.row[axis]:
                return False
        return True

    def run(self, x, out, list notes):
        """The relevance of x, in ``out`` unless that is None, as by `Executable.run`.

        None where these arrays are not of the kind that this takes as they are, or where the run finds a fault.
        """
        cdef cnp.ndarray result
        cdef Py_ssize_t samples
        cdef char* first
        cdef char* other
        if not isinstance(x, cnp.ndarray) or not self.fits(x):
            return None
        samples = cnp.PyArray_DIMS(x)[0]
        if not 0 < samples <= self.most:
            return None
        if out is None:
            result = cnp.PyArray_SimpleNew(self.axes + 1, cnp.PyArray_DIMS(x), self.type_number)
        else:
            if not isinstance(out, cnp.ndarray) or not self.fits(out) or not cnp.PyArray_ISWRITEABLE(out):
                return None
            result = out
            first, other = <char*>cnp.PyArray_DATA(x), <char*>cnp.PyArray_DATA(result)
            if cnp.PyArray_DIMS(result)[0] != samples or (
                    first < other + cnp.PyArray_NBYTES(result) and other < first + cnp.PyArray_NBYTES(x)):
                return None
        start = self.start
        fault = self.executable.run(x, result, samples, samples, 1, False, start.mode, start.targets, start.step,
                                    start.count, start.array, None, start.window, notes if self.judges else None)
        return result if fault is None else None


def instruction_sets():
    """Names of the instruction sets this processor can run, the best last."""
    return [lrpfast_isa_name(i).decode() for i in range(lrpfast_isa_count())]
