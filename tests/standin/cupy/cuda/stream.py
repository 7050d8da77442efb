"""Streams and events. Queued work runs when somebody waits for it, and not before."""

import itertools
import threading
import time

from ..standin import CONFIG, LOCK, on_reset, rng
from . import runtime
from .runtime import CUDARuntimeError


class Op:
    """A piece of queued work: what to run, which memory it needs, what must have run before."""

    __slots__ = ("run", "keep", "deps", "done", "capture", "__weakref__")

    def __init__(self, run, keep, deps, capture=None):
        self.run, self.keep, self.capture, self.done = run, list(keep), capture, False
        self.deps = [op for op in deps if not op.done]

    def finish(self):
        self.done, self.run, self.keep, self.deps = True, None, (), ()


class _Capture:
    """What a capture has recorded so far: the operations, and the last one of each stream that takes part."""

    def __init__(self, origin):
        self.origin, self.ops, self.last = origin, [], {origin: None}
        self.valid, self.ended = True, False


_tails = {}  # (device, stream pointer) -> the last operation queued there, while it has not run
_capturing = {}  # (device, stream pointer) -> the capture that stream takes part in
_blocking = {}  # (device, stream pointer) -> whether that stream waits for the null stream
_counter = itertools.count(0x5000, 0x10)


def _closure(ops):
    """The unfinished operations among these and before them."""
    found, todo = {}, [op for op in ops if not op.done]
    while todo:
        op = todo.pop()
        if op not in found:
            found[op] = None
            todo += [d for d in op.deps if not d.done]
    return found


def _run(targets, steps=None):
    """Run what the targets need, in a random order that keeps every dependency; at most so many operations."""
    with LOCK:
        random, needed = rng(), _closure(targets)
        if CONFIG["eager"] and random.random() < CONFIG["eager"]:
            needed = _closure([*targets, *_tails.values()])
        after, missing = {}, {}
        for op in needed:
            before = [d for d in op.deps if not d.done]
            missing[op] = len(before)
            for d in before:
                after.setdefault(d, []).append(op)
        ready = [op for op, n in missing.items() if not n]
        while ready and steps != 0:
            i = random.randrange(len(ready))
            ready[i], ready[-1] = ready[-1], ready[i]
            op = ready.pop()
            try:
                if op.run is not None:
                    op.run()
            except BaseException:
                _abandon()  # as on the device, nothing queued survives a failed kernel
                raise
            op.finish()
            steps = steps and steps - 1
            for later in after.get(op, ()):
                missing[later] -= 1
                if not missing[later]:
                    ready.append(later)
        for key in [key for key, op in _tails.items() if op.done]:
            del _tails[key]  # nobody waits for it, and streams come and go


def _abandon():
    for op in _closure(_tails.values()):
        op.finish()
    _tails.clear()


@on_reset
def _reset():
    _abandon()
    _capturing.clear()
    _local.stacks.clear()


def _synchronize_device(device):
    with LOCK:
        for (where, _), capture in _capturing.items():
            if where == device:
                capture.valid = False
                raise CUDARuntimeError(900)
        _run([op for (where, _), op in _tails.items() if where == device])


class _BaseStream:
    def __init__(self, ptr, device_id):
        self.ptr, self.device_id, self.null = ptr, device_id, ptr == 0

    def __eq__(self, other):
        return isinstance(other, _BaseStream) and self._key() == other._key()

    def __hash__(self):
        return hash(self.ptr)

    def __repr__(self):
        return f"<{type(self).__name__} {self.ptr} (device {self.device_id})>"

    def __enter__(self):
        self._check_device()
        _stack().append(self)
        return self

    def __exit__(self, *exc):
        _stack().pop()

    def use(self):
        self._check_device()
        _stack()[-1:] = [self]
        return self

    def _check_device(self):
        if not self.null and self.device_id != runtime.getDevice():
            raise RuntimeError(f"stream of device {self.device_id} used while device {runtime.getDevice()} is current")

    def _key(self):
        return (runtime.getDevice() if self.null else self.device_id), self.ptr

    def _queue(self, run=None, keep=(), deps=()):
        """Append work to the stream, or to the capture that it takes part in."""
        with LOCK:
            key = self._key()
            capture = _capturing.get(key) or next((d.capture for d in deps if d.capture is not None), None)
            if capture is not None:
                if capture.ended:
                    raise CUDARuntimeError(907)
                return self._record_op(capture, run, keep, deps)
            before = [*deps, *self._implicit(key)]
            if key in _tails:
                before.append(_tails[key])
            op = _tails[key] = Op(run, keep, before)
            return op

    def _implicit(self, key):
        """What the null stream and the blocking streams owe each other."""
        device = key[0]
        if not self.null:
            return [_tails[device, 0]] if _blocking.get(key, True) and (device, 0) in _tails else []
        if any(where[0] == device and _blocking.get(where, True) for where in _capturing):
            raise CUDARuntimeError(906)
        return [op for where, op in _tails.items() if where[0] == device and _blocking.get(where, True)]

    def _record_op(self, capture, run, keep, deps):
        key = self._key()
        if any(d.capture is not capture for d in deps if not d.done):
            capture.valid = False
            raise CUDARuntimeError(905)
        before = [d for d in deps if d.capture is capture]
        if capture.last.get(key) is not None:
            before.append(capture.last[key])
        _capturing[key] = capture
        op = capture.last[key] = Op(run, keep, before, capture)
        capture.ops.append(op)
        return op

    def _check_idle(self):
        """Raise if the stream is being captured: the host cannot wait then."""
        capture = _capturing.get(self._key())
        if capture is not None:
            capture.valid = False
            raise CUDARuntimeError(900)

    def synchronize(self):
        with LOCK:
            self._check_idle()
            _run([self._queue()])

    @property
    def done(self):
        """Whether all work is done; each question lets one queued operation run, so that polling ends."""
        with LOCK:
            self._check_idle()
            tail = _tails.get(self._key())
            if tail is not None:
                _run([tail], steps=1)
            return tail is None or tail.done

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        with LOCK:
            if event._op is not None and not event._op.done:
                self._queue(deps=[event._op])

    def launch_host_func(self, callback, arg):
        self._queue(lambda: callback(arg))

    def add_callback(self, callback, arg):
        self._queue(lambda: callback(self, 0, arg))

    @property
    def is_non_blocking(self):
        return not self.null and not _blocking.get(self._key(), True)

    def begin_capture(self, mode=None):
        with LOCK:
            key = self._key()
            if self.null or key in _capturing:
                raise CUDARuntimeError(900 if self.null else 1)
            _capturing[key] = _Capture(key)

    def end_capture(self):
        from .graph import Graph

        with LOCK:
            key = self._key()
            capture = _capturing.get(key)
            if capture is None or capture.origin != key:
                raise CUDARuntimeError(1)
            for where in [w for w, c in _capturing.items() if c is capture]:
                del _capturing[where]
            capture.ended = True
            last = capture.last.pop(key)
            joined = _closure([last] if last is not None else [])
            try:
                if not capture.valid:
                    raise CUDARuntimeError(901)
                if any(op not in joined for op in capture.last.values()):
                    raise CUDARuntimeError(904)
                return Graph(capture.ops)
            finally:
                for op in capture.ops:  # operations and capture know each other: let go of the memory now
                    op.run, op.keep, op.deps = None, (), ()

    def is_capturing(self):
        return self._key() in _capturing


class Stream(_BaseStream):
    """A CUDA stream."""

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        if null:
            return super().__init__(0, -1)
        runtime.getDeviceCount()  # raises where there is no device
        super().__init__(next(_counter), runtime.getDevice())
        _blocking[self._key()] = not non_blocking


class ExternalStream(_BaseStream):
    """A stream that somebody else made."""

    def __init__(self, ptr, device_id=-1):
        super().__init__(ptr, runtime.getDevice() if device_id < 0 else device_id)


Stream.null = Stream(null=True)


class Event:
    """A point in a stream that hosts and other streams can wait for."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._op, self._time, self._timed = None, None, not disable_timing

    def record(self, stream=None):
        on = get_current_stream() if stream is None else stream
        self._time = None
        self._op = on._queue(self._stamp)

    def _stamp(self):
        self._time = time.perf_counter()

    def synchronize(self):
        with LOCK:
            self._check_idle()
            if self._op is not None:
                _run([self._op])

    def _check_idle(self):
        if self._op is not None and self._op.capture is not None:
            raise CUDARuntimeError(900)

    @property
    def done(self):
        """Whether the point is reached; each question lets one queued operation run, so that polling ends."""
        with LOCK:
            self._check_idle()
            if self._op is not None:
                _run([self._op], steps=1)
            return self._op is None or self._op.done


def get_elapsed_time(start_event, end_event):
    """Milliseconds between two events."""
    if not (start_event._timed and end_event._timed) or None in (start_event._op, end_event._op):
        raise CUDARuntimeError(400)
    if start_event._time is None or end_event._time is None:
        raise CUDARuntimeError(600)
    return (end_event._time - start_event._time) * 1e3


class _Local(threading.local):
    def __init__(self):
        self.stacks = {}


_local = _Local()


def _stack(device=None):
    """The streams entered on a device by this thread; the last one is current."""
    device = runtime.getDevice() if device is None else device
    return _local.stacks.setdefault(device, [Stream.null])


def get_current_stream(device_id=-1):
    return _stack(None if device_id < 0 else device_id)[-1]


def _drain():
    """Wait for the current stream, as work does that the stand-in runs at once."""
    get_current_stream().synchronize()
