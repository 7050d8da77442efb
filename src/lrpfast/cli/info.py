"""``lrpfast info``: version, instruction set, threads and devices."""

from __future__ import annotations

import argparse

import numpy as np

from .. import __version__
from ..engine.threads import get_num_threads


def run(arguments: argparse.Namespace) -> None:
    """Print them."""
    import platform

    import h5py

    from ..kernels import backend, no_gpu  # the only command that imports the kernels, for the machine's properties

    default, cpu = backend("auto"), backend("cpu")
    print(f"lrpfast    {__version__}")
    print(f"Python     {platform.python_version()} ({platform.system()} {platform.machine()})")
    print(f"NumPy      {np.__version__}, h5py {h5py.__version__}")
    print(f"device     'auto' takes {default.name}")
    for key, value in cpu.describe().items():
        print(f"cpu        {key}: {value}")
    if default.name != cpu.name:
        for key, value in default.describe().items():
            print(f"gpu        {key}: {value}")
    else:
        print(f"gpu        none: {no_gpu()}")
    print(f"threads    {get_num_threads()}")
