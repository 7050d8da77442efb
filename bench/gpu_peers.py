"""zennit, captum and a plain forward pass on the GPU: what `peers` makes, with its tensors there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import peers
from networks import Network
from tool import Missing, Tool

NAMES = ("zennit", "captum", "forward")


def device_of(index: int, standin: bool) -> str:
    """PyTorch's name of the GPU; with the stand-in its processor, which tests this file. Raises Missing."""
    try:
        import torch
    except ImportError:
        raise Missing("torch is not installed") from None
    except Exception as error:  # libraries of another CUDA, say
        raise Missing(f"torch cannot be imported: {error}") from None
    if standin:
        return "cpu"
    if not torch.cuda.is_available():
        raise Missing("torch is installed without CUDA")
    torch.cuda.set_device(index)
    torch.backends.cudnn.benchmark = True  # each at its best: cuDNN tries its algorithms in the first call
    return f"cuda:{index}"


@contextmanager
def tensors_on(device: str) -> Iterator[None]:
    """Networks and inputs that are made meanwhile lie on a device, and relevance comes back from there."""
    import torch_networks

    tensor, first, last = torch_networks._tensor, torch_networks.channels_first, torch_networks.channels_last

    def here(make: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        return lambda array: make(array).to(device)

    with mock.patch.multiple(
        torch_networks, _tensor=here(tensor), channels_first=here(first),
        channels_last=lambda relevance: last(relevance.cpu()),
    ):  # fmt: skip
        yield


def with_tf32(run: Callable[..., Any], tf32: bool) -> Callable[..., Any]:
    """A call in which PyTorch's products and convolutions round to TF32 or do not."""
    import torch

    def call(*arguments: Any) -> Any:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        return run(*arguments)

    return call


def make(name: str, network: Network, rule: str, x: np.ndarray, device: str) -> Tool:
    """A peer on the device; raises Missing where it is not installed or has no such rule."""
    with tensors_on(device):
        try:
            tool: Tool = getattr(peers, name)(network, rule, x)
        except Missing as why:
            raise Missing(str(why).replace("; see bench/README.md", "")) from None
    return tool


def under_tf32(tool: Tool, tf32: bool) -> Tool:
    """The same tool in one precision or the other."""
    return replace(tool, explain=with_tf32(tool.explain, tf32))


def peak(run: Callable[[], Any], base: int, device: str) -> int | None:
    """Bytes of tensors at the most while this runs, above ``base``; None on the processor."""
    if device == "cpu":
        return None
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - base


def allocated(device: str) -> int:
    """Bytes of tensors now."""
    if device == "cpu":
        return 0
    import torch

    return int(torch.cuda.memory_allocated())


def forget(device: str) -> None:
    """Give cached memory back to the device."""
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
