"""Write docs/layers.md from the readers' own tables, so that it says what they read and nothing else.

    python docs/make_layers.py

`tests/test_docs_layers.py` fails where the page is not what this makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lrpfast import layers
from lrpfast.model.layers import FUNCTIONS
from lrpfast.readers import sklearn
from lrpfast.readers.keras import activations as keras_activations
from lrpfast.readers.keras import hub as keras_hub
from lrpfast.readers.keras import keras_1
from lrpfast.readers.keras import layers as keras_layers
from lrpfast.readers.keras import ops as keras_ops
from lrpfast.readers.keras import preprocessing as keras_preprocessing
from lrpfast.readers.keras import recurrent as keras_recurrent
from lrpfast.readers.keras import wrappers as keras_wrappers
from lrpfast.readers.onnx import classic_ops as onnx_classic_ops
from lrpfast.readers.onnx import control_flow as onnx_control_flow
from lrpfast.readers.onnx import cut_ops as onnx_cut_ops
from lrpfast.readers.onnx import einsum as onnx_einsum
from lrpfast.readers.onnx import elementwise as onnx_elementwise
from lrpfast.readers.onnx import fold as onnx_fold
from lrpfast.readers.onnx import linear as onnx_linear
from lrpfast.readers.onnx import quantize as onnx_quantize
from lrpfast.readers.onnx import reduce_ops as onnx_reduce_ops
from lrpfast.readers.onnx import resize as onnx_resize
from lrpfast.readers.onnx import shape_ops as onnx_shape_ops
from lrpfast.readers.torch import constants as torch_constants
from lrpfast.readers.torch import functions as torch_functions
from lrpfast.readers.torch import merges as torch_merges
from lrpfast.readers.torch import nodes as torch_nodes
from lrpfast.readers.torch import reduced as torch_reduced
from lrpfast.readers.torch import shape_ops as torch_shape_ops
from lrpfast.rules import roles

PAGE = Path(__file__).with_name("layers.md")

#: Layers that may have either of two roles, one of each kind.
EITHER = {
    layers.UpSample: (layers.UpSample(2), layers.UpSample(2, "bilinear")),
    layers.Interpolate: (layers.Interpolate(([[1.0]],)), layers.Interpolate(([[-1.0]],))),
    layers.Activation: (layers.Activation("relu"), layers.Activation("softmax")),
}
WHICH = {
    (layers.UpSample, 0): "nearest",
    (layers.UpSample, 1): "bilinear",
    (layers.Interpolate, 0): "weights of 0 and above",
    (layers.Interpolate, 1): "others",
    (layers.Activation, 0): "all but softmax",
    (layers.Activation, 1): "softmax",
}


def code(names: Iterable[str]) -> str:
    """Names as code, in a row."""
    return ", ".join(f"`{name}`" for name in names)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def by_role() -> str:
    """lrpfast's layers by what they are to LRP, with their rules."""
    found: dict[roles.Role, list[str]] = {}
    blocks = []
    for name in layers.__all__:
        cls = getattr(layers, name)
        if cls in (layers.Layer, layers.Linear, layers.Merge, layers.Block, layers.RNN):
            continue
        if issubclass(cls, layers.Block):
            blocks.append(name)
            continue
        for i, layer in enumerate(EITHER.get(cls, (cls.__new__(cls),))):
            which = f" ({WHICH[cls, i]})" if cls in EITHER else ""
            found.setdefault(roles.role(layer), []).append(f"`{name}`{which}")
    rows = []
    for role, names in found.items():
        others = [f"`{cls.name}`" for cls in role.others if type(role.default) is not cls]
        others += ["every rule of [rules.md](rules.md) for layers with weights"] if role.groups else []
        default = "none: it must be given" if role.default is None else f"`{role.default.name}`"
        rows.append((role.name, ", ".join(names), default, ", ".join(others) or "none"))
    made = table(("kind", "layers", "its own rule", "also takes"), sorted(rows))
    return f"{made}\n\nMade of other layers, each with a rule of its own: {code(blocks)}."


def activations() -> str:
    """Every activation function, its parameters, and what Keras calls it."""
    aliases: dict[str, list[str]] = {}
    for name, (function, _) in keras_activations._ALIASES.items():
        aliases.setdefault(function, []).append(name)
    rows = []
    for name, function in FUNCTIONS.items():
        given = ", ".join(f"{key}={'…' if value is None else value}" for key, value in function.parameters.items())
        keras = [name] if name in keras_activations._NAMES else []
        rows.append((f"`{name}`", given, code(keras + aliases.get(name, []))))
    return table(("function", "parameters", "Keras's names"), rows)


def keras() -> str:
    """The classes that the reader of Keras models takes."""
    merges, functions = keras_layers._MERGES, (*keras_activations.ACTIVATIONS, "Activation", "PReLU")
    converters = keras_layers.CONVERTERS
    nothing = [name for name, how in converters.items() if how is keras_layers._identity]
    rest = [n for n in converters if n not in merges and n not in functions and n not in nothing]
    return table(
        ("", "classes"),
        [
            ("layers", code(["InputLayer", *rest])),
            ("activations", code(name for name in converters if name in functions)),
            ("several inputs", code(merges)),
            ("attention, and Keras Hub's transformers", code(sorted(keras_hub.CALLED))),
            ("recurrent, and cells of an `RNN`", code([*keras_recurrent.RECURRENT, *keras_recurrent.CELLS])),
            ("preprocessing, normalization, named axes", code(keras_preprocessing.BUILDERS)),
            ("around another layer", code(keras_wrappers.WRAPPERS)),
            ("nothing at inference", code(nothing)),
            ("of Keras 1", code(keras_1.CLASSES)),
            (
                "operations between layers (`keras.ops`, TensorFlow's)",
                code(keras_ops.OPERATIONS),
            ),
        ],
    )


def onnx() -> str:
    """The operators that the reader of ONNX models takes."""

    def of(operators: Iterable[str]) -> str:
        return code(sorted(name for name in operators if not name.endswith("*")))

    patterns = sorted(
        name[:-1] for name in (*onnx_elementwise.ELEMENTWISE, *onnx_reduce_ops.REDUCED) if name.endswith("*")
    )
    return table(
        ("", "operators"),
        [
            ("weights and pooling", of([*onnx_linear.LINEAR, *onnx_einsum.CONTRACTED])),
            ("element by element, normalization, joining", of(onnx_elementwise.ELEMENTWISE)),
            ("moving and reducing", of([*onnx_shape_ops.MOVES, *onnx_cut_ops.CUT, *onnx_reduce_ops.REDUCED])),
            ("sizes", of(onnx_resize.RESIZED)),
            ("quantized, without the rounding", of(onnx_quantize.QUANTIZED)),
            ("scikit-learn's, of skl2onnx", of(onnx_classic_ops.CLASSIC)),
            ("by constants; If by one value of a sample, too", of(onnx_control_flow.CONTROL)),
            ("recognised where nodes spell them out", ", ".join(patterns)),
            ("of constants and shapes, computed while reading", of(onnx_fold.FOLDED)),
        ],
    )


def torch() -> str:
    """The ATen operators that the reader of exported programs takes."""

    def of(operators: Iterable[str]) -> str:
        names = (name.split(".", 1)[1] for name in operators if not name.split(".", 1)[1].startswith("_"))
        return code(_ranks(sorted(names)))

    parts = (torch_functions.FUNCTIONS, torch_merges.MERGES, torch_reduced.REDUCED, torch_shape_ops.MOVES)
    rest = [name for name in torch_nodes.CONVERTERS if not any(name in part for part in parts)]
    return table(
        ("", "operators"),
        [
            ("weights, normalization, no-ops", of(rest)),
            ("activations and pooling", of(torch_functions.FUNCTIONS)),
            ("arithmetic, joining, reducing", of([*torch_merges.MERGES, *torch_reduced.REDUCED])),
            ("moving and sizes", of(torch_shape_ops.MOVES)),
            ("of constants, computed while reading", of({*torch_constants.FOLDS, *torch_constants.LAYERS})),
        ],
    )


def _ranks(names: Iterable[str]) -> list[str]:
    """conv1d, conv2d and conv3d as one: conv{1,2,3}d."""
    found: dict[str, list[str]] = {}
    for name in names:
        match = re.search(r"([123])d", name)
        found.setdefault(name[: match.start()] + "#" + name[match.end() :] if match else name, []).append(
            match[1] if match else ""
        )
    return [
        name.replace("#", f"{{{','.join(ranks)}}}d" if len(ranks) > 1 else f"{ranks[0]}d")
        for name, ranks in found.items()
    ]


def page() -> str:
    """The whole page."""
    return f"""# Supported layers and activations

<!-- Made by docs/make_layers.py from the readers' tables: run it after a change, do not edit. -->

What is not here is an `UnsupportedLayerError` that names the layer and its place; nothing is skipped silently. So is
a setting that lrpfast cannot follow, such as a softmax over two axes. [extending.md](extending.md) says how to give a
layer of your own.

## lrpfast's layers

What a reader makes of a model, and what `lrpfast.from_layers` and `lrpfast.Graph` take: `lrpfast.layers`.

{by_role()}

## Activations

As layers or as a layer's `activation`. Relevance passes them unchanged, unless a composite says otherwise. Those that
have no name in a Keras file's `activation` come from a layer of their own or from another reader.

{activations()}

## Keras

`.h5` and `.keras` files and live models (`from_keras`), of Keras 1, 2 and 3. Classes and
activation functions of your own, and a Lambda, are read with `load(path, custom_objects=...)`.

Masks of tokens (`mask_zero`, `Masking`, `attention_mask`, `use_causal_mask`) hide keys. Keras gives a query that is
padding itself the mean of all values, lrpfast what the keys that are seen give it; where padding is left out later, as
in a masked mean, both are the same.

`TimeDistributed` and `SpectralNormalization` hold any layer or model that is read, also each other. A layer that has no
axis left for the time steps (of three spatial axes, of sequences, attention) stands once for each step, with the same
weights; the number of steps must then be fixed.

{keras()}

## ONNX

`load` and `from_onnx`, the extra `onnx`; [onnx.md](onnx.md) says what becomes of each.

{onnx()}

## PyTorch

`from_torch` and `.pt2` files: ATen operators, as `torch.export` writes modules. A module's name is that of its operator
(`nn.Conv2d`: `conv2d`); any module counts whose operators are here.

Functions are exact for every value. Softplus is log(1 + exp(βx)) / β; PyTorch's own gives x above its threshold, which
is 2·10⁻⁹ / β less at 20 (a threshold below 20 is refused). Refused too are Threshold with a value other than 0 and
the threshold itself, CELU with α ≤ 0, and shrinking by less than 0.

{torch()}

## scikit-learn

`from_sklearn`, fitted: {code(sklearn._READERS)}, with the activations {code(sklearn._ACTIVATIONS)}; and a
`Pipeline` of {code(sklearn._TRANSFORMERS)} before one of them. Multilayer perceptrons and `LogisticRegression` predict
probabilities, other classifiers give `decision_function`.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
