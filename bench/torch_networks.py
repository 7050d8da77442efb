"""The networks as PyTorch modules, channels first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from networks import Network, Node


class Plus(nn.Module):
    """a + b."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class StackedSum(nn.Module):
    """a + b by zennit's Sum, which it knows a rule for."""

    def __init__(self) -> None:
        from zennit.layer import Sum

        super().__init__()
        self.sum = Sum()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.sum(torch.stack([a, b], dim=-1))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _set(module: nn.Module, kernel: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    module.weight = nn.Parameter(_tensor(kernel), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(_tensor(bias), requires_grad=False)
    return module


class Net(nn.Module):
    """A network, node by node; ReLUs are modules of their own, each used once, as captum asks."""

    def __init__(self, network: Network, plus: Callable[[], nn.Module] = Plus) -> None:
        super().__init__()
        self.steps: list[tuple[str, tuple[int, ...]]] = []
        self.parts = nn.ModuleList()
        self.last: dict[int, int] = {}  # the step after which a value is not needed: its memory can go
        place = {-1: 0}  # a node's value; ReLUs of layers shift them
        for i, node in enumerate(network.nodes):
            inputs = tuple(place[j] for j in node.inputs)
            at = self._add(node.kind, self._module(node, network, plus), inputs)
            if getattr(node, "relu", False):
                at = self._add("relu", nn.ReLU(), (at,))
            place[i] = at
        for step, (_, inputs) in enumerate(self.steps):
            for j in inputs:
                self.last[j] = step
        self.eval().requires_grad_(False)

    def _add(self, kind: str, module: nn.Module | None, inputs: tuple[int, ...]) -> int:
        self.steps.append((kind, inputs))
        if module is not None:
            self.parts.append(module)
        return len(self.steps)

    def _module(self, node: Node, network: Network, plus: Callable[[], nn.Module]) -> nn.Module | None:
        p = node.parameters
        if node.kind == "dense":
            kernel = p["kernel"]
            before = network.nodes[node.inputs[0]] if node.inputs[0] >= 0 else None
            if before is not None and before.kind == "flatten":  # rows from channels last to channels first
                shape = network.shapes[before.inputs[0]]
                kernel = np.moveaxis(kernel.reshape(*shape, -1), -2, 0).reshape(kernel.shape)
            return _set(nn.Linear(*kernel.shape, device="meta"), kernel.T, p["bias"])
        if node.kind in ("conv", "depthwise"):
            kernel = p["kernel"]
            groups = kernel.shape[-2] if node.kind == "depthwise" else 1
            kernel = np.moveaxis(kernel, (-1, -2), (0, 1) if node.kind == "conv" else (1, 0))
            module = nn.Conv2d(
                kernel.shape[1] * groups, kernel.shape[0], kernel.shape[2:], p["stride"], p["pad"],
                groups=groups, bias=p["bias"] is not None, device="meta",
            )  # fmt: skip
            return _set(module, kernel, p["bias"])
        if node.kind == "batch_norm":
            module = nn.BatchNorm2d(len(p["mean"]), p["epsilon"])
            _set(module, p["gamma"], p["beta"])
            module.running_mean.data, module.running_var.data = _tensor(p["mean"]), _tensor(p["variance"])
            return module
        if node.kind == "max_pool":
            return nn.MaxPool2d(p["size"], p["stride"], p["pad"])
        # flattening is not a module, as captum would take it for a layer with a rule
        made = {"relu": nn.ReLU, "add": plus, "global_average_pool": lambda: nn.AdaptiveAvgPool2d(1)}
        return None if node.kind == "flatten" else made[node.kind]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[int, torch.Tensor] = {0: x}
        parts = iter(self.parts)
        for step, (kind, inputs) in enumerate(self.steps):
            taken = [values[i] for i in inputs]
            for i in set(inputs):
                if self.last[i] == step:
                    del values[i]
            y = taken[0].flatten(1) if kind == "flatten" else next(parts)(*taken)
            values[step + 1] = y.flatten(1) if kind == "global_average_pool" else y
        return values[len(self.steps)]


def plain(network: Network) -> nn.Module:
    """The network as one writes it for prediction: a Sequential where it is a chain."""
    net = Net(network)
    if any(inputs != (step,) for step, (_, inputs) in enumerate(net.steps)):
        return net
    parts = iter(net.parts)
    modules: list[nn.Module] = []
    for kind, _ in net.steps:
        modules += [] if kind == "flatten" else [next(parts)]
        modules += [nn.Flatten()] if kind in ("flatten", "global_average_pool") else []
    return nn.Sequential(*modules).eval()


def channels_first(x: np.ndarray) -> torch.Tensor:
    """Samples as PyTorch takes them."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x)


def channels_last(relevance: torch.Tensor) -> np.ndarray:
    """Relevance as lrpfast gives it."""
    array = relevance.detach().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim > 2 else array
