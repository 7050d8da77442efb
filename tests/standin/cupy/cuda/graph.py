"""Captured work that can be launched again and again."""

import weakref

from ..standin import LOCK
from . import driver, stream


class Graph:
    """The operations of one capture; it keeps no array alive, as a CUDA graph does not."""

    def __init__(self, ops):
        index = {op: i for i, op in enumerate(ops)}
        self._nodes = [(op.run, [weakref.ref(b) for b in op.keep], [index[d] for d in op.deps]) for op in ops]

    def launch(self, stream=None):
        with LOCK:
            _launch(self._nodes, stream)

    def upload(self, stream=None):
        """Nothing to do: the work is already where it runs."""


def _launch(nodes, on):
    on = on or stream.get_current_stream()
    on._check_idle()  # a graph inside a graph is not emulated
    start, ops = on._queue(), []
    for run, keep, deps in nodes:
        blocks = [block() for block in keep]
        if None in blocks:
            raise driver.KernelError(700, " (the graph uses an array that is gone)")
        ops.append(stream.Op(run, blocks, [start, *(ops[i] for i in deps)]))
    on._queue(deps=ops)
