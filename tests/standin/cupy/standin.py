"""The stand-in's own switches; nothing here exists in CuPy."""

import functools
import random
import shutil
import sys
import threading

DEFAULTS = {
    "order": 0,  # of threads and blocks: 0 forward, 1 reverse, 2 random
    "seed": 1,  # of every random choice
    "eager": 0.0,  # chance that work which nobody waits for runs before work that somebody waits for
    "devices": 1,
    "memory": 8 << 30,  # bytes per device
    "multiprocessors": 2,
    "compute_capability": "90",
    "ftz": False,  # flush denormals (of doubles too) in kernels, x86 only
    "fail_allocation": None,  # callable(nbytes) -> bool: whether this allocation fails
    "cublas": True,  # False: as if the library were not installed
    "cudnn": True,  # False: its frontend without the library
    "cudnn_tf32": False,  # whether something makes cuDNN take TF32 whatever is asked of it
    "cudnn_refuses": None,  # callable(transposed, dim, filter dim) -> bool: whether no engine takes such a convolution
}
CONFIG = dict(DEFAULTS)
LOG = []  # (kernel, grid, block) of every kernel run
LOCK = threading.RLock()  # held by everything that touches shared state

_random = (None, None)
_resets = []


def on_reset(function):
    """Have `reset` call this function too."""
    _resets.append(function)
    return function


def rng():
    """The generator of random choices, started anew when CONFIG["seed"] changes."""
    global _random
    if _random[0] != CONFIG["seed"]:
        _random = CONFIG["seed"], random.Random(CONFIG["seed"])
    return _random[1]


def reset():
    """Drop queued work and captures, empty LOG, and set CONFIG and the current device and stream to the start."""
    global _random
    with LOCK:
        CONFIG.clear()
        CONFIG.update(DEFAULTS)
        LOG.clear()
        _random = (None, None)
        for function in _resets:
            function()


@functools.cache
def compiler():
    """Path of the C++ compiler that builds the kernels, or None if there is none to use."""
    import os

    if not sys.platform.startswith("linux"):
        return None  # the shim wants ELF sections
    names = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)
