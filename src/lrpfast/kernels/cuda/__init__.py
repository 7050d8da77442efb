"""The GPU backend: the programs of the CPU backend through CuPy RawKernels.

devices.py lists the GPUs, modules.py compiles the .cu files, contractions.py and light.py turn operations into
launches, launch.py queues them for a chunk of samples, execute.py runs a program on one GPU, run.py a batch on one or
more GPUs. They and `cupy` are imported inside functions, so that nothing is loaded before a GPU is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import DeviceError
from ..program import Program
from . import devices

if TYPE_CHECKING:
    from .run import CompiledProgram

__all__ = ["CudaBackend"]


class CudaBackend:
    """Kernels on one or more GPUs."""

    name = "gpu"
    #: of input and output in one run, which cuts them into chunks by itself
    batch_bytes = 1 << 30
    takes_device_arrays = True
    judges = False

    def __init__(self, gpus: tuple[devices.Gpu, ...]) -> None:
        self._gpus = gpus
        self.name = ", ".join(f"gpu:{gpu.index}" for gpu in gpus)

    def compile(self, program: Program) -> CompiledProgram:
        from .run import CompiledProgram

        return CompiledProgram(program, self._gpus)

    def describe(self) -> dict[str, Any]:
        import cupy

        from . import contractions, cublas

        facts = {
            f"gpu:{gpu.index}": f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, compute capability "
            f"{gpu.capability[:-1]}.{gpu.capability[-1]}"
            for gpu in self._gpus
        }
        runtime = cupy.cuda.runtime.runtimeGetVersion()
        facts["CuPy"] = f"{cupy.__version__}, CUDA {runtime // 1000}.{runtime % 1000 // 10}"
        with cupy.cuda.Device(self._gpus[0].index):
            try:
                problem = cublas.HANDLES.problem()
            except DeviceError as error:
                problem = str(error)
        facts["cuBLAS"] = "yes" if problem is None else f"no ({problem}): our own kernels do all products"
        if contractions.CONVOLUTION == "cudnn":  # else it is not imported, which takes seconds
            facts["cuDNN"] = self._cudnn()
        return facts

    def _cudnn(self) -> str:
        """The versions of cuDNN, or why it cannot be used."""
        import cupy

        from . import cudnn

        with cupy.cuda.Device(self._gpus[0].index):
            try:
                problem = cudnn.HANDLES.problem()
            except DeviceError as error:
                problem = str(error)
        return cudnn.version() if problem is None else f"no ({problem}); {cudnn.INSTALL}"
