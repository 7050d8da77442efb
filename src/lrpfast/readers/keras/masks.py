"""Masks of time steps in Keras models: where they come from, and how Keras 3 writes them down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .arguments import Ref
from .config import Call


@dataclass(frozen=True)
class Mask:
    """Which time steps count: those at which a node holds another value than one.

    Attributes
    ----------
    name : str
        The layer that makes it.
    source : int or None
        The node; None where lrpfast cannot follow the mask.
    value : float
    """

    name: str = field(compare=False)
    source: int | None
    value: float = 0.0


def joined(masks: list[Mask], inputs: int) -> Mask:
    """The mask of a layer of several inputs: theirs, where all have the same."""
    same = len(masks) == inputs and len(set(masks)) == 1
    return masks[0] if same else Mask(masks[0].name, None)


def written_mask(
    ref: Ref, operations: Mapping[str, tuple[str, list[Call]]], node_of: Callable[[Ref], int | None]
) -> Mask:
    """The mask that Keras 3 writes as an argument: not_equal(x, value), and any(…) of that for a Masking layer.

    Parameters
    ----------
    ref : Ref
        The argument.
    operations : mapping
        The class and the calls of every operation, by its name.
    node_of : callable
        The node that a reference means, if it is laid out.
    """
    operation = _called(ref, operations)
    if operation is not None and operation[0] in ("ops>LogicalOr", "ops>LogicalAnd"):  # of the inputs of an Add
        both = [written_mask(arg, operations, node_of) for arg in operation[1].args if isinstance(arg, Ref)]
        return both[0] if len(both) == 2 and len(set(both)) == 1 else Mask(ref.name, None)
    if operation is not None and operation[0] == "ops>Any" and isinstance(operation[1].args[0], Ref):
        operation = _called(operation[1].args[0], operations)
    if operation is None or operation[0] != "ops>NotEqual" or len(operation[1].args) != 2:
        return Mask(ref.name, None)
    source, value = operation[1].args
    if not isinstance(source, Ref) or not isinstance(value, (int, float)):
        return Mask(ref.name, None)
    return Mask(ref.name, node_of(source), float(value))


def _called(ref: Ref, operations: Mapping[str, tuple[str, list[Call]]]) -> tuple[str, Call] | None:
    kind, calls = operations.get(ref.name, ("", []))
    return (kind, calls[ref.call]) if ref.call < len(calls) and calls[ref.call].args else None
