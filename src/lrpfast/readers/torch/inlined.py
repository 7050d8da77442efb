"""Parts of a program that run under other settings of autograd or autocast: their operators in place of one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import UnsupportedLayerError
from .records import Op, Ref

#: Higher-order operators that call a part of the program and change no number: `torch.no_grad`, `torch.autocast`.
_AUTOCAST = "wrap_with_autocast"
WRAPPERS = ("wrap_with_set_grad_enabled", _AUTOCAST)


@dataclass(frozen=True)
class Part:
    """Operators with their own names, of which ``inputs`` are the caller's operands."""

    ops: Sequence[Op]
    inputs: Sequence[str]
    outputs: Sequence[Any]


def check_wrapper(kind: str, arguments: Sequence[Any]) -> None:
    """UnsupportedLayerError for an autocast that computes with fewer digits."""
    if kind == _AUTOCAST and arguments[2]:
        raise UnsupportedLayerError("computes with fewer digits under torch.autocast. Export the model without it")


def inline(part: Part, call: str, operands: Sequence[Any], results: Sequence[Sequence[str]]) -> list[Op]:
    """The operators of a part, with names that begin with the call's.

    Parameters
    ----------
    part : Part
    call : str
        The name of the operator that calls it.
    operands : sequence
        A `Ref` or a constant for each of its inputs.
    results : sequence of sequences of str
        The names that the caller has for each of its outputs.
    """
    names = dict(zip(part.inputs, operands, strict=True))
    copies = []
    for output, wanted in zip(part.outputs, results, strict=False):
        for name in wanted:
            if isinstance(output, Ref) and output.name not in names:
                names[output.name] = Ref(name)
            else:
                copies.append(Op("aten.clone.default", name, {"self": _renamed(output, names, call)}, (name,)))
    ops = [
        replace(
            op,
            name=f"{call}/{op.name}",
            arguments={key: _renamed(value, names, call) for key, value in op.arguments.items()},
            outputs=tuple(_renamed(Ref(name), names, call).name for name in op.outputs),
        )
        for op in part.ops
    ]
    return ops + copies


def _renamed(value: Any, names: dict[str, Any], call: str) -> Any:
    if isinstance(value, Ref):
        return names.get(value.name, Ref(f"{call}/{value.name}"))
    return [_renamed(v, names, call) for v in value] if isinstance(value, (list, tuple)) else value
