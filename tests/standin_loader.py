"""Puts the stand-in for CuPy in the place of a real one, and back."""

import sys
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parent / "standin")
_NAMES = ("cupy", "cupy_backends", "cupyx", "cudnn")
_real, _ours = {}, {}  # modules while they are out of sys.modules; ours stay the same objects from use to use


def _take_out():
    names = [name for name in sys.modules if name.split(".")[0] in _NAMES]
    return {name: sys.modules.pop(name) for name in names}


def install():
    """Make `import cupy` give the stand-in, freshly reset, and return it."""
    if _FOLDER not in sys.path:
        _real.update(_take_out())
        sys.path.insert(0, _FOLDER)
        sys.modules.update(_ours)
    import cupy

    cupy.standin.reset()
    return cupy


def remove():
    """Undo `install`."""
    if _FOLDER in sys.path:
        sys.modules["cupy"].standin.reset()
        sys.path.remove(_FOLDER)
        _ours.update(_take_out())
        sys.modules.update(_real)
        _real.clear()
