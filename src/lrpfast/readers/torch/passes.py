"""What a PyTorch program goes through before it is read: no changes in place, no arithmetic in a layer's stead."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .fold import VIEWS
from .records import Op, Ref, TorchProgram, refs

# -- operators that change their input ----------------------------------------


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        name = value.name
        while name in names:
            name = names[name]
        return Ref(name)
    if isinstance(value, (list, tuple)):
        return [_renamed(v, names) for v in value]
    return value


def functional(program: TorchProgram, folded: Container[str] = ()) -> TorchProgram:
    """The same program without operators that change their input: what comes after one uses its result instead.

    Operators of ``folded`` names, which compute constants, are left out. One that changes what another name still
    shows (x[:, 0] += 1), and is used under that name later, is an obstacle.
    """
    refused: list[tuple[Op, tuple[int, int], str]] = []
    reported: set[str] = set()
    changers: dict[str, tuple[Op, tuple[int, int]]] = {}
    ops: list[Op] = []
    names: dict[str, str] = {}
    root: dict[str, str] = {}
    stale: dict[str, str] = {}
    for index, op in enumerate(program.ops, 1):
        op = replace(op, arguments={k: _renamed(v, names) for k, v in op.arguments.items()})
        used = [name for value in op.arguments.values() for name in refs(value)]
        for name in used:
            if name in stale and name not in reported:
                reported.add(name)
                text = (
                    f"changes in place a tensor that {name!r} is a view of, or is viewed by, and node {op.name!r} uses"
                )
                refused.append((*changers[stale[name]], f"{text} that. Write it without in-place operations"))
        inplace = op.name not in folded and op.base.endswith("_") and not op.base.endswith("__")
        if used and (inplace or op.base in VIEWS or op.base.endswith("_")):
            for out in op.outputs:
                root[out] = root.get(used[0], used[0])
        if inplace:
            op = replace(op, target=op.target.replace(op.base, op.base[:-1], 1))
            if op.base != "aten.detach" and used:
                same = root[op.outputs[0]]
                for name in {*root, same} - {used[0], *op.outputs}:
                    if root.get(name, name) == same and name not in names:
                        stale[name] = op.name
                        changers[op.name] = op, (index, len(program.ops))
                names[used[0]] = op.outputs[0]
        if op.name not in folded:
            ops.append(op)
    outputs = [_renamed(Ref(name), names).name for name in program.outputs]
    for name in outputs:
        if name in stale:
            text = f"changes in place what the model returns as {name!r}. Write it without in-place operations"
            refused.append((*changers[stale[name]], text))
    return replace(program, ops=ops, outputs=outputs, refused=refused)


# -- operators that PyTorch takes apart ----------------------------------------


def fused(program: TorchProgram) -> TorchProgram:
    """The program with what PyTorch writes as arithmetic as operators again: softsign, response norm, normalize."""
    producers = {out: op for op in program.ops for out in op.outputs}

    def source(value: Any, *bases: str) -> Op | None:
        op = producers.get(value.name) if isinstance(value, Ref) else None
        return op if op is not None and op.base in bases else None

    def softsign(op: Op) -> Op | None:
        x = op.arguments.get("self")
        total = source(op.arguments.get("other"), "aten.add")
        size = total and source(total.arguments.get("self"), "aten.abs")
        if not total or not size or total.arguments.get("other") != 1 or total.arguments.get("alpha", 1) != 1:
            return None
        if size.arguments.get("self") != x or op.arguments.get("rounding_mode") is not None:
            return None
        return replace(op, target="lrpfast.softsign.default", arguments={"self": x})

    def response_norm(op: Op) -> Op | None:
        x = op.arguments.get("self")
        power = source(op.arguments.get("other"), "aten.pow")
        total = power and source(power.arguments.get("self"), "aten.add")
        scaled = total and source(total.arguments.get("self"), "aten.mul")
        at = scaled and scaled.arguments.get("self")
        pool = pad = None
        for _ in range(8):  # views, a pad and an average between x * x and the scale
            inner = source(at, *(f"aten.{n}" for n in _AROUND_POOL))
            if inner is None:
                break
            if "pool" in inner.base:
                pool = inner
            if "pad" in inner.base:
                pad = inner
            at = inner.arguments.get("self")
        square = source(at, "aten.mul")
        if not (power and total and scaled and square and pool and pad) or [*square.arguments.values()][:2] != [x, x]:
            return None
        size = pool.arguments["kernel_size"][0]
        if sorted(pool.arguments["kernel_size"])[:-1] != [1] * (len(pool.arguments["kernel_size"]) - 1):
            return None
        ends = [size // 2, (size - 1) // 2]
        if list(pad.arguments.get("pad", ()))[-2:] != ends or any(list(pad.arguments.get("pad", ()))[:-2]):
            return None
        values = {"alpha": scaled.arguments.get("other"), "k": total.arguments.get("other")}
        values |= {"beta": power.arguments.get("exponent"), "size": size}
        if any(not isinstance(v, (int, float)) for v in values.values()):
            return None
        unset = ((op, "rounding_mode"), (pad, "value"), (pool, "divisor_override"), (pool, "padding"))
        if any(np.any(where.arguments.get(key) or 0) for where, key in unset) or total.arguments.get("alpha", 1) != 1:
            return None
        if pad.arguments.get("mode", "constant") != "constant":
            return None
        return replace(op, target="lrpfast.local_response_norm.default", arguments={"self": x, **values})

    def divisions(op: Op) -> Op:
        return softsign(op) or response_norm(op) or _unit_norm(op, source) or op

    return replace(program, ops=[divisions(op) if op.base == "aten.div" else op for op in program.ops])


def _unit_norm(op: Op, source: Callable[..., Op | None]) -> Op | None:
    """x / max(|x|, 1e-12): functional.normalize."""
    x, low = op.arguments.get("self"), source(op.arguments.get("other"), "aten.expand", "aten.expand_as")
    low = source(low.arguments.get("self") if low else op.arguments.get("other"), "aten.clamp_min")
    length = low and source(low.arguments.get("self"), "aten.linalg_vector_norm")
    if not low or not length or op.arguments.get("rounding_mode") is not None:
        return None
    dim, least = length.arguments.get("dim"), low.arguments.get("min")
    if length.arguments.get("self") != x or length.arguments.get("ord", 2) != 2 or not dim:
        return None
    if not length.arguments.get("keepdim") or not isinstance(least, float) or not 0 <= least <= 1e-12:
        return None
    return replace(op, target="lrpfast.unit_norm.default", arguments={"self": x, "dim": dim})


_AROUND_POOL = ("view", "reshape", "squeeze", "unsqueeze", "avg_pool2d", "avg_pool3d", "pad", "constant_pad_nd")


def needed(program: TorchProgram) -> list[Op]:
    """The operators that the outputs depend on, in order; what only asserts something is left out."""
    names, ops = set(program.outputs), []
    for op in reversed(program.ops):
        if names.intersection(op.outputs):
            ops.append(op)
            names.update(name for value in op.arguments.values() for name in refs(value))
    return ops[::-1]
