"""PyTorch modules and exported programs from memory. PyTorch is imported here alone, and only when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import InputError, MissingPackageError, UnsupportedLayerError, install_text
from ...model.graph import Model
from ..input_shape import check_input_shape
from ..untrusted import guarded
from .inlined import WRAPPERS, Part, check_wrapper, inline
from .open_sizes import read
from .records import Op, Ref, TorchProgram


def from_torch(module: Any, example_inputs: Any = None, *, input_shape: Any = None) -> Model:
    """The Model of a PyTorch module, traced by ``torch.export``, or of a program that was exported before.

    Parameters
    ----------
    module : torch.nn.Module or torch.export.ExportedProgram
        A module is traced as it is in eval mode, and left in the mode that it was in.
    example_inputs : tensor or tuple of tensors
        What the module is called with, batch axis first; for a module only. Values do not matter, shapes
        do: the model takes any number of samples, of these shapes.
    input_shape : tuple of int, or mapping, optional
        Of an exported program, sizes that it leaves open; see `lrpfast.load`.

    Returns
    -------
    Model
        Its inputs and outputs have PyTorch's axes, channels first. Holds copies of the weights.

    Raises
    ------
    InputError
        When it is neither, or the inputs are missing.
    UnsupportedLayerError
        When the module cannot be traced, or not for any number of samples, or has an operator that lrpfast
        does not read; the message names the operator, its node and the module that it stands in.
    MissingPackageError
        When PyTorch is not installed.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> lrpfast.from_torch(module, torch.zeros(2, 4)).output_shape
    (2,)
    """
    torch, shapes = _torch(), check_input_shape(input_shape)
    if isinstance(module, torch.export.ExportedProgram):
        if example_inputs is not None:
            raise InputError("an exported program has its inputs already: from_torch(program)")
        source, program = "exported program", module
    elif isinstance(module, torch.nn.Module):
        if example_inputs is None:
            raise InputError("a module is traced with inputs: from_torch(module, example_inputs)")
        if shapes:
            raise InputError("input_shape is for an exported program; a module has the shapes of its example_inputs")
        source = f"PyTorch module {type(module).__name__!r}"
        program = _exported(torch, module, _inputs(torch, example_inputs), source)
    else:
        description = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise InputError(f"from_torch takes a torch.nn.Module or an exported program, not {description}")
    with guarded(source):
        return read(_program(torch, program), shapes)


def _torch() -> Any:
    try:
        import torch
        import torch.export
    except ImportError as error:
        raise MissingPackageError(
            f"PyTorch models need PyTorch ({error}): {install_text('torch', 'torch')}", name="torch"
        ) from error
    return torch


def _inputs(torch: Any, arguments: Any) -> tuple[Any, ...]:
    inputs = tuple(arguments) if isinstance(arguments, (tuple, list)) else (arguments,)
    for x in inputs:
        if not isinstance(x, torch.Tensor):
            raise InputError(f"example_inputs must be tensors, or a tuple of them, not {type(x).__name__}")
        if x.ndim == 0 or x.shape[0] == 0:
            raise InputError(f"example_inputs need a batch axis with samples on it, not shape {tuple(x.shape)}")
    if not inputs:
        raise InputError("example_inputs are empty")
    return inputs


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Eval mode, and every part back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _exported(torch: Any, module: Any, inputs: tuple[Any, ...], source: str) -> Any:
    """The program for any number of samples.

    Two samples and a size that is left to the tracer: a batch of one would be taken for an axis that stretches.
    """
    inputs = tuple(torch.cat([x[:1]] * 2).detach() for x in inputs)
    batch = torch.export.Dim("batch", min=1, max=2**20)
    shapes = tuple({0: batch} for _ in inputs)
    try:
        with _evaluating(module), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=_by_name(module, shapes), strict=False)
    except Exception as error:  # whatever the module's own code and the tracer raise
        reason = str(error).strip().splitlines()
        first = next((line for line in reason if line.strip()), type(error).__name__)
        try:
            with _evaluating(module), torch.no_grad():
                torch.export.export(module, inputs, strict=False)
        except Exception:
            raise UnsupportedLayerError(f"{source}: torch.export cannot trace it ({first})") from error
        raise UnsupportedLayerError(
            f"{source}: torch.export can trace it only for a fixed number of samples ({first}). Write it so that "
            "nothing depends on the batch axis's size"
        ) from error


def _by_name(module: Any, shapes: Sequence[Any]) -> Any:
    """Shapes in the form that torch.export takes them: one entry for an argument, a tuple in one for *args."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return (tuple(shapes),)
    return tuple(shapes)


# -- records --------------------------------------------------------------------


def _program(torch: Any, exported: Any) -> TorchProgram:
    program = TorchProgram([], [], [], {}, name="model", ranges=_ranges(exported))
    stored = {**exported.state_dict, **exported.constants}
    kinds = torch.export.graph_signature.InputKind
    for spec in exported.graph_signature.input_specs:
        name: Any = getattr(spec.arg, "name", None)
        if spec.kind is kinds.USER_INPUT:
            if type(spec.arg).__name__ == "TensorArgument":
                program.inputs.append(name)
        elif spec.kind in (kinds.PARAMETER, kinds.BUFFER, kinds.CONSTANT_TENSOR):
            program.constants[name] = _array(torch, stored[spec.target])
        else:
            raise UnsupportedLayerError(f"has an input of kind {spec.kind.name}, lrpfast reads tensors")
    for spec in exported.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT" or type(spec.arg).__name__ != "TensorArgument":
            raise UnsupportedLayerError(f"has an output of kind {spec.kind.name}, lrpfast reads tensors")
        program.outputs.append(spec.arg.name)
    program.ops.extend(_ops(torch, program, exported.graph_module, ""))
    return program


def _ops(torch: Any, program: TorchProgram, module: Any, prefix: str) -> list[Op]:
    """A graph's operators; of its values, whose names begin with the prefix in the end, the program gets sizes."""
    ops: list[Op] = []
    calls: set[Any] = set()
    for node in module.graph.nodes:
        name, value = prefix + node.name, node.meta.get("val")
        if isinstance(value, torch.Tensor):
            whole = not (value.is_floating_point() or value.is_complex())
            program.kinds[name] = "truth" if value.dtype is torch.bool else "whole" if whole else "number"
            program.set_sizes(name, [_size(n) for n in value.shape])
        if node.op == "get_attr":
            held = _attribute(module, node.target)
            if not isinstance(held, torch.fx.GraphModule):
                program.constants[name] = _array(torch, held)
        elif node.op == "call_function" and getattr(node.target, "_name", None) in WRAPPERS:
            calls.add(node)
            ops.extend(_inlined(torch, program, module, node, prefix))
        elif node.op == "call_function" and not (node.args and _is_call(node.args[0], calls)):
            ops.append(_op(torch, node))
    return ops


def _is_call(value: Any, calls: set[Any]) -> bool:
    """Whether a value is what a part of the program returns; its items have the names of what makes them."""
    return not isinstance(value, (list, tuple, dict, slice)) and value in calls


def _inlined(torch: Any, program: TorchProgram, module: Any, node: Any, prefix: str) -> list[Op]:
    """The operators of the part of the program that a node calls."""
    check_wrapper(node.target._name, node.args)
    at = next(i for i, a in enumerate(node.args) if isinstance(a, torch.fx.Node) and a.op == "get_attr")
    inner = _attribute(module, node.args[at].target)
    nodes = list(inner.graph.nodes)
    (outputs,) = (n.args[0] for n in nodes if n.op == "output")
    results: list[list[str]] = [[] for _ in outputs]
    for user in node.users:
        results[user.args[1]].append(user.name)
    part = Part(
        _ops(torch, program, inner, f"{prefix}{node.name}/"),
        [n.name for n in nodes if n.op == "placeholder"],
        _record(torch, outputs),
    )
    return inline(part, node.name, _record(torch, node.args[at + 1 :]), results)


def _size(size: Any) -> int | str | None:
    """A number, or the expression that stands for an open size, written as in a file."""
    if isinstance(size, int):
        return size
    from sympy import srepr  # PyTorch's own: an open size holds an expression of it

    return str(srepr(size.node.expr))


def _ranges(exported: Any) -> dict[str, tuple[int | None, int | None]]:
    """Which sizes each symbol may stand for; infinity is None."""
    ranges = exported.range_constraints.items()
    return {str(symbol): (_limit(values.lower), _limit(values.upper)) for symbol, values in ranges}


def _limit(value: Any) -> int | None:
    return int(value) if value.is_Integer else None


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _array(torch: Any, tensor: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        raise UnsupportedLayerError(f"holds an object of class {type(tensor).__name__}, lrpfast reads tensors")
    if tensor.is_sparse or tensor.is_quantized:
        raise UnsupportedLayerError("holds sparse or quantized weights, lrpfast reads dense ones")
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.numpy()
    return array.copy()


def _op(torch: Any, node: Any) -> Op:
    target = node.target
    schema = getattr(target, "_schema", None)
    if schema is not None:
        name = str(target)
        names = [argument.name for argument in schema.arguments]
        arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    else:  # arithmetic on sizes, or a higher-order operator
        package = getattr(target, "__module__", "") or "torch"
        name = f"{package.rsplit('.', 1)[-1]}.{getattr(target, '__name__', target)}"
        arguments = {str(i): a for i, a in enumerate(node.args)} | dict(node.kwargs)
    module, kind = _module(node.meta.get("nn_module_stack"))
    return Op(name, node.name, {k: _record(torch, v) for k, v in arguments.items()}, (node.name,), module, kind)


def _record(torch: Any, value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, (list, tuple)):
        return [_record(torch, v) for v in value]
    return value


def _module(stack: Any) -> tuple[str, str]:
    """(path, class) of the innermost module."""
    if not stack:
        return "", ""
    path, kind = list(stack.values())[-1][:2]
    return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
