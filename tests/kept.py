"""What takes long to compile, once for all processes of a test run that need it, and for later runs."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is compiled
    fcntl = None

#: names the folder for a process and those that it starts; conftest.py gives pytest's cache
VARIABLE = "LRPFAST_TEST_CACHE"


@functools.cache
def _folder():
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    folder = Path(tempfile.mkdtemp(prefix="lrpfast-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def kept(name, make):
    """The path of the file `name`; where it is not there yet, make(path) writes it, in one process while others wait.

    The name has a hash of everything that the file depends on.
    """
    path = _folder() / name
    if not path.exists():
        with open(path.with_name(name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                part = path.with_name(f"{name}.{os.getpid()}")
                make(part)
                part.replace(path)
    return path
