"""The options ``--rule-for WHAT=RULE``: rules for some layers, by type, name, index or position, as a composite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..batch import open_array
from ..errors import RuleError
from ..model import layers
from ..model.graph import Model
from ..model.layers import Activation, BatchNorm, Input, Layer
from ..rules import Rule, ZBox, from_name
from ..rules.composites import Composite
from ..rules.entries import WEIGHTED, Entry
from ..suggest import unknown_name_message

#: The types of layers by their names.
TYPES: dict[str, type[Layer]] = {
    name: cls for name, cls in vars(layers).items() if isinstance(cls, type) and issubclass(cls, Layer)
}
#: Selections by what a layer is for, by their names in `Entry`, with the types that they are among.
PARTS: dict[str, Any] = {
    "first": WEIGHTED,
    "last": WEIGHTED,
    "inputs": WEIGHTED,
    "projections": WEIGHTED,
    "scales": BatchNorm,
    "shifts": BatchNorm,
}
FORM = "--rule-for is WHAT=RULE, as BatchNorm=pass, first=z_box:low=0,high=1 or 'block1_*=gamma:gamma=0.5'"


def composite_for(texts: Sequence[str], model: Model, bounds: dict[str, Any]) -> Composite | None:
    """The rules of all these options; None if there are none.

    Parameters
    ----------
    texts : sequence of str
        ``WHAT=RULE`` or ``WHAT=RULE:KEY=VALUE,…``.
    model : Model
        Whose layers they are for.
    bounds : dict
        ``low`` and ``high`` of a z_box that names none.

    Raises
    ------
    RuleError
        For anything else, a layer that the model does not have, and a selection that is named twice.
    """
    entries: dict[str, Entry] = {}
    for text in texts:
        what, equals, rule = (part.strip() for part in text.partition("="))
        if not (what and equals and rule):
            raise RuleError(f"{FORM}; not {text!r}")
        if what in entries:
            raise RuleError(f"--rule-for names {what!r} twice: a layer has one rule")
        entries[what] = _entry(what, _rule(rule, text, bounds), model)
    return Composite(tuple(entries.values()), ", ".join(texts)) if entries else None


def takes_bounds(texts: Sequence[str]) -> bool:
    """Whether one of the options names a z_box without bounds of its own."""
    return any(text.partition("=")[2].strip() == ZBox.name for text in texts)


def _entry(what: str, rule: Rule, model: Model) -> Entry:
    """The layers that a text names: types first, then positions and indices, then names and patterns."""
    if what in TYPES:
        if not _has(model, TYPES[what]):
            raise RuleError(f"--rule-for {what}: this model has none; its layers are of the types {_types(model)}")
        return Entry("all", rule, None, TYPES[what])
    if what in PARTS:
        entry = Entry(what, rule, None, PARTS[what])
        if not entry.places(model):
            raise RuleError(f"--rule-for {what}: this model has no such layers")
        return entry
    try:
        return Entry("nth", rule, int(what))
    except ValueError:
        pass
    pattern = any(c in what for c in "*?[")
    entry = Entry("name", rule, what, (*WEIGHTED, BatchNorm) if pattern else Layer)
    if entry.places(model):
        return entry
    names = [node.name for node in model.nodes if isinstance(node.layer, entry.among)]
    where = (
        f"this model's layers are {', '.join(names)}, of the types {_types(model)}; {', '.join(PARTS)} and an index "
        "among the layers with weights are choices too"
    )
    raise RuleError(f"--rule-for: {unknown_name_message('layer or type', what, (*names, *TYPES, *PARTS), where)}")


def _has(model: Model, kind: type[Layer]) -> bool:
    functions = (getattr(node.layer, "activation", None) for node in model.nodes)
    among_functions = issubclass(kind, Activation) and any(isinstance(f, kind) for f in functions)
    return among_functions or any(isinstance(node.layer, kind) for node in model.nodes)


def _types(model: Model) -> str:
    return ", ".join(sorted({type(node.layer).__name__ for node in model.nodes if not isinstance(node.layer, Input)}))


def _rule(text: str, whole: str, bounds: dict[str, Any]) -> Rule:
    """A rule from its name and its parameters."""
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise RuleError(f"{FORM}; in {whole!r}, {part!r} is no KEY=VALUE")
        parameters[key] = _value(value)
    if name == ZBox.name and not parameters:
        parameters = dict(bounds)
    try:
        return from_name(name, **parameters)
    except RuleError as error:
        raise RuleError(f"--rule-for {whole}: {error}") from None


def _value(text: str) -> float | bool | str | np.ndarray:
    """A parameter: a number, true or false, an .npy file, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.endswith(".npy"):
        return np.array(open_array(text))
    try:
        return float(text)
    except ValueError:
        return text
