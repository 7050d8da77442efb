"""NVIDIA's own cuDNN and its frontend, where they are installed (extra `cudnn`): what lrpfast calls is what is there.

No GPU is needed. cuDNN plans for a device that is described to it, here an H100; `cudnn_without_gpu.c` stands for the
driver that its libraries want to load.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
#: as `create_device_properties` takes it
H100 = {
    **{"cudaDeviceId": 0, "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000},
    **{"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "warpSize": 32},
    **{"regsPerBlock": 65536, "maxRegistersPerSM": 65536, "multiProcessorCount": 132, "smCountOrigin": 0},
    **{"maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448},
    **{"reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 232448},
    **{"maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0},
    **{"supportCoopLaunch": 1, "totalGlobalMem": 85899345920, "smClockRateKHz": 1980000, "memClockRateKHz": 2619000},
    **{"memoryBusWidth": 5120, "l2CacheSize": 52428800},
}
SCRIPT = """
import json, sys
import numpy as np
import cudnn
from lrpfast.kernels.cuda.convolutions import Convolution, Window
from lrpfast.kernels.cuda.cudnn import Plan, workspace_bytes

device = json.loads(sys.argv[1])
where = {"device_property": cudnn.create_device_properties(json.dumps(device))} if device else {}
def windows(*axes):
    return tuple(Window(*axis) for axis in axes)
same, half, one = (3, 1, 1, 1), (3, 2, 1, 1), (1, 1, 1, 0)
cases = {
    "3x3": Convolution(False, (56, 56), (56, 56), 1, 64, 64, windows(same, same)),
    "7x7, stride 2": Convolution(False, (224, 224), (112, 112), 1, 3, 64, windows((7, 2, 1, 3), (7, 2, 1, 3))),
    "backwards, stride 2": Convolution(True, (28, 28), (56, 56), 1, 128, 64, windows(half, half)),
    "1x1, stride 2, backwards": Convolution(True, (28, 28), (56, 56), 1, 128, 64, windows((1, 2, 1, 0), (1, 2, 1, 0))),
    "dilation": Convolution(False, (32, 32), (32, 32), 1, 64, 64, windows((3, 1, 2, 2), (3, 1, 2, 2))),
    "groups": Convolution(False, (56, 56), (56, 56), 4, 64, 64, windows(same, same)),
    "1d": Convolution(False, (1, 1000), (1, 1000), 1, 64, 64, windows(one, (9, 1, 1, 4))),
    "3d": Convolution(False, (16, 16, 16), (16, 16, 16), 1, 32, 64, windows(same, same, same)),
    "odd channels": Convolution(False, (16, 16), (16, 16), 1, 17, 23, windows(same, same)),
}
def network(name, size, source, out, stride=1, width=3):
    windows_ = windows(*[(width, stride, 1, width // 2)] * 2)
    sizes = (size, size), (size // stride, size // stride)
    cases[f"{name} {size} {source} {out} {stride} {width}"] = Convolution(False, *sizes, 1, source, out, windows_)
    back = Convolution(True, *sizes[::-1], 1, out, source, windows_)
    if stride == 1:
        back = Convolution(False, *sizes, 1, out, source, windows_)
    cases[f"{name} {size} {source} {out} {stride} {width} backwards"] = back
for size, source, out in (
    (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (28, 256, 512), (28, 512, 512),
    (14, 512, 512),
):
    network("VGG16", size, source, out)
for size, depth in ((56, 64), (28, 128), (14, 256), (7, 512)):
    network("ResNet18", size, depth, depth)
    if depth > 64:
        network("ResNet18", 2 * size, depth // 2, depth, 2)
        network("ResNet18", 2 * size, depth // 2, depth, 2, 1)
found = {}
for name, convolution in cases.items():
    for kind, tf32 in (("float32", False), ("float32", True), ("float64", False)):
        try:
            plan = Plan(convolution, 4, np.dtype(kind), tf32, where)
            found[f"{name}, {kind}{', tf32' if tf32 else ''}"] = [
                plan.workspace, workspace_bytes(convolution, 4, np.dtype(kind))]
        except Exception as error:
            found[f"{name}, {kind}{', tf32' if tf32 else ''}"] = f"{type(error).__name__}: {error}"
print("RESULT" + json.dumps([cudnn.__version__, found]))
"""


def installed():
    """Folders of the frontend that is installed, and of cuDNN's libraries; else skips."""
    path = [p for p in sys.path if Path(p) != HERE / "standin"]
    package = next((p for p in path if (Path(p or ".") / "cudnn" / "__init__.py").exists()), None)
    if package is None:
        pytest.skip("nvidia-cudnn-frontend is not installed (extra cudnn)")
    libraries = [found for p in path for found in glob.glob(str(Path(p or ".") / "nvidia" / "*" / "lib"))]
    return package, libraries


def planned(device, folder=None):
    """What `SCRIPT` finds in a process of its own."""
    package, libraries = installed()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LRPFAST_", "NVIDIA_", "CUDNN_"))}
    environment["PYTHONPATH"] = os.pathsep.join([package, environment.get("PYTHONPATH", "")])
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *libraries])
        environment["LD_PRELOAD"] = str(folder / "libcudart.so.13")
    command = [sys.executable, "-c", SCRIPT, json.dumps(device)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, result.stdout + result.stderr
    return json.loads(lines[0].removeprefix("RESULT"))[1]


def test_calls_are_those_of_the_frontend():
    """Without a device it fails, but for want of one: not of a name or a parameter."""
    for name, found in planned(None).items():
        if isinstance(found, str):
            assert not found.startswith(("TypeError", "AttributeError", "KeyError", "NameError")), (name, found)


def test_cudnn_has_an_engine_for_every_kind(tmp_path):
    """In every precision: deterministic, without transforms, no tensor cores for float32, within the workspace."""
    _, libraries = installed()
    if not any(glob.glob(f"{folder}/libcudnn.so.9") for folder in libraries):
        pytest.skip("cuDNN is not installed (extra cudnn)")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for what stands for the driver, or not Linux")
    for library, flags in (("libcuda.so.1", ["-DDRIVER"]), ("libcudart.so.13", [])):
        shared = ["-shared", "-fPIC", *flags, f"-Wl,-soname,{library}", "-o", str(tmp_path / library)]
        subprocess.run([compiler, *shared, str(HERE / "cudnn_without_gpu.c")], check=True)
    found = planned(H100, tmp_path)
    assert {name: result for name, result in found.items() if isinstance(result, str)} == {}
    assert all(workspace <= limit for workspace, limit in found.values())
