"""A signal's handler is heard while kernels run, not after them: what is left undone shows it."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import lrpfast
from lrpfast.layers import Conv, Dense

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm to set")

#: Seconds to the signal; every run here takes many times as long, if nothing stops it.
SOON = 0.05


@contextmanager
def alarmed(handler: Callable[..., None]) -> Iterator[None]:
    """A signal soon, and this handler for it."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def wide() -> lrpfast.Model:
    """Some 50 million multiplications a sample, in few operations."""
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=(2048, 2048)).astype(np.float32) / 64 for _ in range(3)]
    return lrpfast.from_layers([*(Dense(w, activation="relu") for w in weights), Dense(weights[0][:, :4])])


def images() -> lrpfast.Model:
    """One sample is a second's work or more: threads share its operations."""
    rng = np.random.default_rng(2)
    kernels = [rng.normal(size=(7, 7, c, 64)).astype(np.float32) / 50 for c in (3, 64, 64, 64)]
    layers = [Conv(kernel, padding="same", activation="relu") for kernel in kernels]
    return lrpfast.from_layers(layers, input_shape=(None, None, 3))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("model", "shape"), [(wide, (3000, 2048)), (images, (1, 192, 192, 3))])
def test_analyze_stops_within_one_piece(
    model: Callable[[], lrpfast.Model], shape: tuple[int, ...], threads: int
) -> None:
    analyzer = lrpfast.Analyzer(model(), "alpha_beta", threads=threads, device="cpu", target=0)
    x = np.random.default_rng(3).random(shape, dtype=np.float32)
    few = x[:50, :48, :48] if x.ndim == 4 else x[:50]
    right = analyzer.analyze(few)
    analyzer.fixed(x)  # compiled before, so that the alarm meets the run
    out = np.full_like(x, np.nan)
    with alarmed(interrupt), pytest.raises(KeyboardInterrupt):
        analyzer.analyze(x, out=out)
    assert np.isnan(out).any()  # all of it is one piece of the batch: it was left in the middle
    np.testing.assert_array_equal(analyzer.analyze(few), right)


@pytest.mark.parametrize("call", ["predict", "explain"])
def test_other_calls_stop_too(call: str) -> None:
    analyzer = lrpfast.Analyzer(wide(), "epsilon", threads=1, device="cpu")
    x = np.random.default_rng(3).random((3000, 2048), dtype=np.float32)
    run = functools.partial(analyzer.model.predict, threads=1) if call == "predict" else analyzer.explain
    run(x[:1])  # compiled before
    late = []

    def handler(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, SOON)  # once more, and so on: the run hears each of them
        late.append(1)
        if len(late) == 3:
            raise KeyboardInterrupt

    with alarmed(handler), pytest.raises(KeyboardInterrupt):
        run(x)
    assert len(late) == 3


def test_a_handler_that_returns_changes_nothing() -> None:
    analyzer = lrpfast.Analyzer(wide(), "epsilon", threads=2, device="cpu")
    x = np.random.default_rng(3).random((600, 2048), dtype=np.float32)
    inside = []
    with alarmed(lambda *_: inside.append(analyzer.analyze(x[:60]))):  # runs while the other waits for it
        whole = analyzer.analyze(x)
    np.testing.assert_array_equal(analyzer.analyze(x), whole)
    np.testing.assert_array_equal(inside[0], whole[:60])
