"""Values computed when first asked for, and processes forked while another thread computes one."""

import multiprocessing
import os
import threading
import warnings

import pytest

from lrpfast.lazy import lazy_property


class Thing:
    def __init__(self, wait=False):
        self.wait, self.started, self.finish = wait, threading.Event(), threading.Event()

    @lazy_property
    def value(self):
        """A new object each time it is computed."""
        if self.wait:
            self.started.set()
            self.finish.wait(60)
        return object()


def test_it_is_computed_once():
    thing = Thing()
    assert thing.value is thing.value
    assert thing.value is not Thing().value
    assert isinstance(Thing.value, lazy_property) and Thing.value.__doc__ == "A new object each time it is computed."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_while_a_thread_computes():
    """`functools.cached_property` of Python 3.11 would let the child wait for ever."""
    slow = Thing(wait=True)
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    assert slow.started.wait(60)
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(7 if Thing().value else 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
        child.start()
    child.join(30)
    code = child.exitcode
    child.kill()
    slow.finish.set()
    thread.join()
    assert code == 7
