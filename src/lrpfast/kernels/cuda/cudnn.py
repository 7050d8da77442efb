"""Plain convolutions by cuDNN, channels last: engines that repeat their results, and whose sums are those of products.

Through NVIDIA's ``nvidia-cudnn-frontend`` (the module `cudnn`), which is imported when `LRPFAST_GPU_CONVOLUTION=cudnn`
asks for it. An engine is left out where cuDNN says of it that its results differ from run to run, that it converts
operands or sums to fewer bits, or that it transforms them (FFT, Winograd: a sum of positive products could then come
out negative, and 0 not as 0); in float32 also where it uses tensor cores, which take TF32.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from ...errors import DeviceError
from .convolutions import Convolution, Window
from .handles import COLUMNS, ROWS, Handles, first_line, require_float32

INSTALL = (
    "pip install 'lrpfast[cudnn]' (nvidia-cudnn-frontend and nvidia-cudnn-cu13; for CUDA 12 nvidia-cudnn-cu12), or "
    "unset LRPFAST_GPU_CONVOLUTION, and lrpfast's own kernels do all convolutions"
)
#: Notes on engines whose sums are not those of the products, or not the same in every run.
REFUSED = (
    *("NONDETERMINISTIC", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"),
    *("FFT", "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13"),
)
#: Workspace beside what an engine copies: of semaphores and tables.
SPARE = 1 << 20
#: The largest number of plans that are kept, of all layers and batch sizes.
MOST_PLANS = 1024

_plans: OrderedDict[tuple[Any, ...], Plan | str] = OrderedDict()
_lock = threading.Lock()


def demand() -> None:
    """Raise DeviceError, with a cure, if cuDNN cannot be used."""
    reason = HANDLES.problem()
    if reason is not None:
        raise DeviceError(f"LRPFAST_GPU_CONVOLUTION='cudnn', but cuDNN cannot be used: {reason}; {INSTALL}")


def version() -> str:
    """The versions of cuDNN and of its frontend."""
    import cudnn

    number = cudnn.backend_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}, frontend {cudnn.__version__}"


def forget() -> None:
    """Look for cuDNN again, for tests."""
    HANDLES.forget()
    _plans.clear()


def workspace_bytes(convolution: Convolution, samples: int, dtype: np.dtype) -> int:
    """The largest workspace of a plan: an engine may copy all that it reads and writes, and the filter twice."""
    filter_values = int(np.prod(convolution.filter_shape))
    return (convolution.values(samples) + 2 * filter_values) * dtype.itemsize + SPARE


def find_plan(device: int, convolution: Convolution, samples: int, dtype: np.dtype, tf32: bool) -> Plan | str:
    """The plan of a convolution of this many samples on the current device, or why cuDNN has none."""
    key = (device, convolution, samples, dtype, tf32)
    with _lock:
        found = _plans.get(key)
        if found is not None:
            _plans.move_to_end(key)
            return found
    try:
        with HANDLES.lend(device) as handle:
            plan: Plan | str = Plan(convolution, samples, dtype, tf32, {"handle": handle})
    except DeviceError:
        raise
    except Exception as error:  # the frontend's own, RuntimeError or ValueError by its version
        plan = first_line(error)
    with _lock:
        plan = _plans.setdefault(key, plan)
        while len(_plans) > MOST_PLANS:
            _plans.popitem(last=False)
    return plan


class Plan:
    """An engine for a convolution of a number of samples.

    Parameters
    ----------
    convolution : Convolution
    samples : int
    dtype : numpy.dtype
        float32 or float64, of operands and of sums.
    tf32 : bool
        Whether operands are TF32 numbers, so that tensor cores may multiply them.
    where : dict
        What tells `cudnn.pygraph` the device: a handle.
    """

    def __init__(
        self, convolution: Convolution, samples: int, dtype: np.dtype, tf32: bool, where: dict[str, Any]
    ) -> None:
        import cudnn

        kind = cudnn.data_type.DOUBLE if dtype == np.float64 else cudnn.data_type.FLOAT
        graph = cudnn.pygraph(
            name="convolution", io_data_type=kind, intermediate_data_type=kind, compute_data_type=kind, **where
        )
        source = (samples, convolution.source_channels, *convolution.source)
        out = (samples, convolution.out_channels, *convolution.out)
        shape = convolution.filter_shape
        self.x = graph.tensor(name="x", dim=list(source), stride=_channels_last(source), data_type=kind)
        self.w = graph.tensor(name="w", dim=list(shape), stride=_channels_last(shape), data_type=kind)
        windows = {
            "pre_padding": [w.padding for w in convolution.windows],
            "post_padding": [w.padding for w in convolution.windows],
            "stride": [w.stride for w in convolution.windows],
            "dilation": [w.dilation for w in convolution.windows],
            "compute_data_type": kind,
        }
        if convolution.transposed:
            self.out = graph.conv_dgrad(loss=self.x, filter=self.w, **windows)
        else:
            self.out = graph.conv_fprop(image=self.x, weight=self.w, **windows)
        self.out.set_output(True).set_data_type(kind).set_dim(list(out)).set_stride(_channels_last(out))
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        refused = REFUSED if tf32 or dtype == np.float64 else (*REFUSED, "TENSOR_CORE")
        graph.deselect_numeric_notes([getattr(cudnn.numerical_note, name) for name in refused])
        graph.deselect_workspace_greater_than(workspace_bytes(convolution, samples, dtype))
        graph.check_support()
        graph.build_plans()
        if getattr(graph, "selected_engine", None) is not None:  # one of the frontend's own, without these notes
            raise RuntimeError(f"the frontend chose an engine of its own, {graph.selected_engine.name}")
        self.workspace = int(graph.get_workspace_size())
        self._graph = graph
        self._lock = threading.Lock()  # the frontend keeps a call's pointers in the graph

    def run(self, device: int, x: int, w: int, out: int, workspace: int) -> None:
        """Queue the convolution of these addresses, each a multiple of 16, on the current stream."""
        with HANDLES.lend(device) as handle:
            self.queue(handle, x, w, out, workspace)

    def queue(self, handle: Any, x: int, w: int, out: int, workspace: int) -> None:
        """Queue it on this handle's stream."""
        with self._lock:
            self._graph.execute({self.x: int(x), self.w: int(w), self.out: int(out)}, int(workspace), handle=handle)


def _channels_last(shape: tuple[int, ...]) -> list[int]:
    """The strides of an array (n, c, …) that lies in memory as (n, …, c)."""
    strides = [1] * len(shape)
    step = shape[1]
    for axis in (*range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _create(stream: int) -> Any:
    import cudnn

    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=stream)
    return handle


def _check(handle: Any) -> None:
    import cupy

    side, window = 8, Window(1, 1, 1, 0)  # one tap, so that a convolution is a product
    convolution = Convolution(False, (side, side), (side, side), 1, COLUMNS, COLUMNS, (window, window))
    plan = Plan(convolution, ROWS // side**2, np.dtype(np.float32), False, {"handle": handle})
    workspace = cupy.empty(max(1, plan.workspace), np.uint8)

    def multiply(x: int, w: int, out: int) -> None:
        plan.queue(handle, x, w, out, workspace.data.ptr)

    require_float32("cuDNN", "convolutions", multiply)


HANDLES = Handles(_create, _check)
