"""The tools that are compared, each as it is used at its best.

Each function gives a `Tool` for a network, a rule and inputs: what a user prepares once is prepared,
inputs lie in the tool's own layout, and what is timed is the explanation alone.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

import lrpfast_networks
from conventions import EPSILON, THREADS
from networks import Network
from tool import Missing, Tool


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Missing(f"{package} is not installed; see bench/README.md")


def _torch() -> Any:
    _need("torch")
    import torch

    torch.set_num_threads(THREADS)
    return torch


def lrpfast_tool(
    network: Network, rule: str, x: np.ndarray, convention: str = "zennit", threads: int = THREADS
) -> Tool:
    """lrpfast under a peer's conventions."""
    analyzer = lrpfast_networks.analyzer(network, rule, convention, threads=threads)
    return Tool("lrpfast", len(x), lambda part: x[part], analyzer.analyze)


def zennit(network: Network, rule: str, x: np.ndarray) -> Tool:
    """zennit's composite, registered once, its canonizer having merged batch normalization."""
    torch = _torch()
    _need("zennit")
    from zennit import composites, rules
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.layer import Sum
    from zennit.types import AvgPool, BatchNorm, Convolution, Linear

    from torch_networks import Net, StackedSum, channels_first, channels_last

    epsilon = rules.Epsilon(EPSILON)
    no_bias = rules.ZPlus(zero_params="bias")
    convolution, dense = {
        "epsilon": lambda: (epsilon, epsilon),
        "z_plus": lambda: (rules.ZPlus(), rules.ZPlus()),
        "alpha2_beta1": lambda: (rules.AlphaBeta(2, 1), rules.AlphaBeta(2, 1)),
        "epsilon_plus": lambda: (rules.ZPlus(), epsilon),
        "bounded": lambda: (no_bias, no_bias),
    }[rule]()
    by_type = [(Sum, rules.Norm()), (AvgPool, rules.Norm()), (Convolution, convolution), (Linear, dense)]
    by_type.append((torch.nn.ReLU, rules.Pass()))
    canonizers = [SequentialMergeBatchNorm()]
    if rule == "bounded":
        first = [(Linear, rules.ZBox(-1.0, 1.0, zero_params="bias"))]
        composite = composites.SpecialFirstLayerMapComposite(by_type, first, canonizers=canonizers)
    else:
        composite = composites.LayerMapComposite(by_type, canonizers=canonizers)
    net = Net(network, StackedSum)

    def largest(y: Any) -> Any:
        start = torch.zeros_like(y)
        at = y.argmax(1, keepdim=True)
        return start.scatter_(1, at, y.gather(1, at))

    attributor = Gradient(net, composite, attr_output=largest)
    composite.register(net)
    for module in net.modules():  # what is left of a merged one divides by √(1 + eps), which would add up
        if isinstance(module, BatchNorm):
            module.eps = 1e-30  # PyTorch refuses 0; in float32 1 + eps is 1
    whole = channels_first(x)
    return Tool("zennit", len(x), lambda part: whole[part], lambda part: attributor(part)[1], channels_last)


def captum(network: Network, rule: str, x: np.ndarray) -> Tool:
    """captum's LRP; it forgets its rules after every call, so setting them belongs to one."""
    torch = _torch()
    _need("captum")
    from captum.attr import LRP
    from captum.attr._utils.custom_modules import Addition_Module
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

    from torch_networks import Net, channels_first, channels_last

    def epsilon() -> Any:
        return EpsilonRule(EPSILON)

    made: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "epsilon": (epsilon, epsilon),
        "z_plus": (Alpha1_Beta0_Rule, Alpha1_Beta0_Rule),
        "epsilon_plus": (Alpha1_Beta0_Rule, epsilon),
        # it has no z-box: α1β0 without bias on the first layer too
        "bounded": (lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),) * 2,
    }
    if rule not in made:
        raise Missing(f"captum has no rule like {rule}")
    net = Net(network, Addition_Module)
    lrp = LRP(net)
    ruled = [
        (module, made[rule][isinstance(module, torch.nn.Linear)])
        for module in net.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    whole = channels_first(x)
    with torch.inference_mode():  # the target is given, which spares captum a pass
        targets = torch.cat([net(part).argmax(1) for part in whole.split(64)])
    targets = targets.clone()

    def explain(part: tuple[Any, Any]) -> Any:
        for module, rule_of in ruled:
            module.rule = rule_of()
        return lrp.attribute(part[0], target=part[1])

    return Tool("captum", len(x), lambda part: (whole[part].requires_grad_(), targets[part]), explain, channels_last)


def forward(network: Network, rule: str, x: np.ndarray) -> Tool:
    """No explanation: a plain PyTorch forward pass, to compare with."""
    torch = _torch()
    from torch_networks import channels_first, plain

    net = plain(network)
    whole = channels_first(x)

    def run(part: Any) -> Any:
        with torch.inference_mode():
            return net(part)

    return Tool("forward", len(x), lambda part: whole[part], run, lambda y: y.numpy())


def gradient(network: Network, rule: str, x: np.ndarray, compiled: bool = False) -> Tool:
    """Input × gradient of the largest output in PyTorch: what ε-LRP of a ReLU network is for ε = 0.

    ``compiled`` by `torch.compile`, where there is a compiler.
    """
    if rule != "epsilon":
        raise Missing(f"no gradient is {rule}")
    torch = _torch()
    from torch_networks import channels_first, channels_last, plain

    if compiled and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise Missing("torch.compile needs a C++ compiler")
    net = plain(network).requires_grad_(False)  # nobody asks for the weights' gradients
    if compiled:
        net = torch.compile(net)
    whole = channels_first(x)

    def run(part: Any) -> Any:
        inputs = part.detach().requires_grad_()
        return torch.autograd.grad(net(inputs).amax(1).sum(), inputs)[0] * part

    return Tool("compiled gradient" if compiled else "gradient", len(x), lambda part: whole[part], run, channels_last)
