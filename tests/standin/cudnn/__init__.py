"""The part of NVIDIA's cuDNN frontend that the project calls, in NumPy on raw pointers.

Names and parameters are the frontend's (tests/test_gpu_cudnn.py compares them with an installed one). Before the engine
that is right there stand, in the order of the heuristics, engines that a caller must leave out: each spoils what its
note says that it may.
"""

import enum
import itertools
import math

import numpy as np
from cupy.cuda import memory, runtime
from cupy.cuda.stream import ExternalStream, Stream
from cupy.standin import CONFIG, LOCK, on_reset, rng

__version__ = "1.32.0"
CALLS = []  # (whether with respect to data, shapes of source and filter, engine) of every convolution
on_reset(CALLS.clear)


def _require():
    if not CONFIG["cudnn"]:
        raise RuntimeError("Unable to find symbol cudnnCreate")


class data_type(enum.Enum):  # noqa: N801 the frontend's name, as all below
    NOT_SET, FLOAT, DOUBLE, HALF = range(4)


class heur_mode(enum.Enum):  # noqa: N801
    A, B, FALLBACK = range(3)


class numerical_note(enum.Enum):  # noqa: N801
    TENSOR_CORE = 0
    DOWN_CONVERT_INPUTS = 1
    REDUCED_PRECISION_REDUCTION = 2
    FFT = 3
    NONDETERMINISTIC = 4
    WINOGRAD = 5
    WINOGRAD_TILE_4x4 = 6
    WINOGRAD_TILE_6x6 = 7
    WINOGRAD_TILE_13x13 = 8
    STRICT_NAN_PROP = 9


class build_plan_policy(enum.Enum):  # noqa: N801
    HEURISTICS_CHOICE, ALL = range(2)


class cudnnGraphNotSupportedError(Exception):  # noqa: N801, N818
    """No engine computes the graph."""


class Handle:
    """A handle: its device, and the stream that it queues on."""

    def __init__(self):
        self.device, self.stream, self.destroyed = runtime.getDevice(), 0, False


def backend_version():
    _require()
    return 91700


def create_handle():
    _require()
    return Handle()


def destroy_handle(handle):
    handle.destroyed = True


def set_stream(handle, stream):
    if type(stream) is not int:
        raise TypeError("set_stream(): incompatible function arguments")
    handle.stream = stream


def get_stream(handle):
    return handle.stream


_TYPES = {data_type.FLOAT: np.dtype("f4"), data_type.DOUBLE: np.dtype("f8")}


def _truncated(x):
    """As tensor cores take operands of float32: the lowest 13 bits are not read."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


#: (name, notes, how many copies of what it reads and writes its workspace holds)
ENGINES = (
    ("winograd", (numerical_note.WINOGRAD, numerical_note.WINOGRAD_TILE_6x6), 0),
    ("fft", (numerical_note.FFT,), 1),
    ("half", (numerical_note.DOWN_CONVERT_INPUTS,), 0),
    ("atomics", (numerical_note.NONDETERMINISTIC,), 0),
    ("reduced", (numerical_note.REDUCED_PRECISION_REDUCTION,), 0),
    ("tensor", (numerical_note.TENSOR_CORE,), 0),
    ("greedy", (), 1 << 20),
    ("sgemm", (), 1),
)


class tensor:  # noqa: N801
    """A tensor of a graph."""

    def __init__(self, dim, stride, kind, uid):
        self._dim, self._stride, self._kind, self.uid, self.virtual = list(dim), list(stride), kind, uid, False

    def set_output(self, value):
        self.virtual = not value
        return self

    def set_data_type(self, data_type):
        self._kind = data_type
        return self

    def set_dim(self, dim):
        self._dim = list(dim)
        return self

    def set_stride(self, stride):
        self._stride = list(stride)
        return self

    def get_uid(self):
        return self.uid


class pygraph:  # noqa: N801
    """A graph of one convolution."""

    def __init__(
        self,
        name="test_graph",
        io_data_type=data_type.NOT_SET,
        intermediate_data_type=data_type.NOT_SET,
        compute_data_type=data_type.NOT_SET,
        handle=None,
        sm_count=None,
        sm_version=None,
        kernel_cache=None,
        device_property=None,
        is_dynamic_shape_enabled=False,
    ):
        if not isinstance(handle, Handle) or handle.destroyed or handle.device != runtime.getDevice():
            raise RuntimeError("CUDNN_STATUS_BAD_PARAM: the handle is not of this device")
        self._uids, self._stage, self._compute = itertools.count(1), 0, compute_data_type
        self._barred, self._limit = set(), None

    def _advance(self, stage):
        if self._stage != stage - 1:
            raise RuntimeError(f"stage {stage} after {self._stage}")
        self._stage = stage

    def tensor(
        self,
        dim,
        stride,
        data_type=data_type.NOT_SET,
        is_virtual=False,
        is_pass_by_value=False,
        ragged_offset=None,
        reordering_type=None,
        name="",
    ):
        return tensor(dim, stride, data_type, next(self._uids))

    def conv_fprop(self, image, weight, **window):
        return self._conv(False, image, weight, **window)

    def conv_dgrad(self, loss, filter, **window):
        return self._conv(True, loss, filter, **window)

    def _conv(
        self,
        transposed,
        x,
        w,
        pre_padding=(),
        post_padding=(),
        stride=(),
        dilation=(),
        convolution_mode=None,
        compute_data_type=data_type.NOT_SET,
        name="",
    ):
        """Either; the names are those of the frontend, for both."""
        rank = len(x._dim) - 2
        if rank not in (2, 3) or any(len(v) != rank for v in (pre_padding, post_padding, stride, dilation)):
            raise ValueError("attributes and dimensions do not match")
        self._x, self._w, self._transposed, self._compute = x, w, transposed, compute_data_type
        self._window = pre_padding, post_padding, stride, dilation
        self._y = tensor((), (), data_type.NOT_SET, next(self._uids))
        return self._y

    def validate(self):
        self._advance(1)
        x, w, y = self._x._dim, self._w._dim, self._y._dim
        small, large = (x, y) if self._transposed else (y, x)
        before, after, stride, dilation = self._window
        expected = [
            (n + a + b - ((k - 1) * d + 1)) // s + 1
            for n, a, b, k, d, s in zip(large[2:], before, after, w[2:], dilation, stride, strict=True)
        ]
        if expected != small[2:] or x[0] != y[0] or small[1] != w[0] or large[1] % w[1] or w[0] % (large[1] // w[1]):
            raise cudnnGraphNotSupportedError(f"shapes {x}, {w} and {y} do not match")

    def build_operation_graph(self):
        self._advance(2)

    def create_execution_plans(self, heuristics):
        self._advance(3)
        self._plans = list(ENGINES) if heur_mode.A in heuristics else []

    def deselect_numeric_notes(self, notes):
        if self._stage != 3:
            raise RuntimeError("there are no plans yet to deselect")
        self._barred |= set(notes)

    def deselect_workspace_greater_than(self, workspace_limit):
        self._limit = workspace_limit

    def _needs(self, copies):
        values = sum(math.prod(t._dim) for t in (self._x, self._w, self._y))
        return copies * values * _TYPES[self._compute].itemsize

    def check_support(self):
        self._advance(4)
        refuses = CONFIG["cudnn_refuses"]
        if refuses and refuses(self._transposed, self._x._dim, self._w._dim):
            raise cudnnGraphNotSupportedError("No valid engine configs returned from heuristics")
        self._plans = [p for p in self._plans if not self._barred & set(p[1])]
        if self._limit is not None:
            self._plans = [p for p in self._plans if self._needs(p[2]) <= self._limit]
        if not self._plans:
            raise cudnnGraphNotSupportedError("No execution plans support the graph")

    def build_plans(self, policy=build_plan_policy.HEURISTICS_CHOICE):
        self._advance(5)

    def get_workspace_size(self):
        return self._needs(self._plans[0][2])

    def execute(self, tensor_dict, workspace=None, handle=None):
        """Queue the convolution on the handle's stream."""
        if self._stage != 5 or handle.destroyed or handle.device != runtime.getDevice():
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        stream = ExternalStream(handle.stream, handle.device) if handle.stream else Stream.null
        with LOCK:
            found = [self._array(t, tensor_dict[t], handle) for t in (self._x, self._w, self._y)]
            (x, w, y), blocks = zip(*found, strict=True)
            scratch = tensor((max(1, self.get_workspace_size()),), (1,), None, 0)
            work, block = self._array(scratch, workspace, handle) if self._plans[0][2] else (None, None)
            if block is not None:
                blocks = (*blocks, block)

            CALLS.append((self._transposed, x.shape, w.shape, self._plans[0][0]))

            def run():
                if work is not None:
                    work[...] = 255  # a workspace holds nothing before, and anything after
                with np.errstate(invalid="ignore", over="ignore"):
                    y[...] = self._computed(x, w, y.shape)

            stream._queue(run, [b for b in blocks if b is not None])

    def _array(self, t, pointer, handle):
        """The array at a pointer, channels where the strides say, and the block that must hold all of it."""
        if type(pointer) is not int or pointer % 16:
            raise RuntimeError("CUDNN_STATUS_BAD_PARAM: a pointer that is no multiple of 16")
        dtype = np.dtype("u1") if t._kind is None else _TYPES[t._kind]
        block = memory._block_at(pointer)
        extent = dtype.itemsize * (1 + sum((n - 1) * s for n, s in zip(t._dim, t._stride, strict=True)))
        if block is None or block.device != handle.device or pointer + extent > block.ptr + block.nbytes:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        return memory._at(pointer, tuple(t._dim), tuple(s * dtype.itemsize for s in t._stride), dtype), block

    def _computed(self, x, w, shape):
        """The convolution in double precision, position by position and tap by tap; spoilt as the notes say."""
        notes = self._plans[0][1]
        x, w = np.array(x), np.array(w)
        if x.dtype == np.float32 and (numerical_note.TENSOR_CORE in notes or CONFIG["cudnn_tf32"]):
            x, w = _truncated(x), _truncated(w)
        if numerical_note.DOWN_CONVERT_INPUTS in notes:
            x, w = x.astype(np.float16), w.astype(np.float16)
        x, w, y = x.astype(np.float64), w.astype(np.float64), np.zeros(shape)
        before, _, stride, dilation = self._window
        small, large = (x, y) if self._transposed else (y, x)
        groups = large.shape[1] // w.shape[1]
        a = np.split(small, groups, 1)
        b = np.split(large, groups, 1)
        c = np.split(w, groups, 0)
        for position in itertools.product(*map(range, small.shape[2:])):
            for tap in itertools.product(*map(range, w.shape[2:])):
                at = [
                    p * s + t * d - pad for p, s, t, d, pad in zip(position, stride, tap, dilation, before, strict=True)
                ]
                if any(not 0 <= i < n for i, n in zip(at, large.shape[2:], strict=True)):
                    continue
                here, there = (slice(None), slice(None), *position), (slice(None), slice(None), *at)
                for few, many, taps in zip(a, b, c, strict=True):  # views, so that sums go to their array
                    if self._transposed:
                        many[there] += few[here] @ taps[(slice(None), slice(None), *tap)]
                    else:
                        few[here] += many[there] @ taps[(slice(None), slice(None), *tap)].T
        if notes and numerical_note.TENSOR_CORE not in notes:
            y = y + np.array([rng().uniform(-1, 1) for _ in range(y.size)]).reshape(y.shape) * (np.abs(y).max() or 1)
        return y
