"""Layer-wise Relevance Propagation, compiled.

    model file or object ──readers──▶ Model (graph of layers) ──canonize──▶ Model
                                          │
    rule, composite or analyzer name ─────┴──assign──▶ {layer: Rule} ──plan──▶ Plan
                                                                                │
    inputs x ──▶ forward (keeps what the plan needs) ──▶ relevance of the target ──▶ backward ──▶ relevance of x
                     └──────── kernels: cpu (Cython) · cuda (CuPy RawKernel) ──────────┘

>>> import numpy as np, lrpfast
>>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
>>> lrpfast.Analyzer(model, "epsilon", precision="float64").analyze(np.array([[1.0, 1.0]])).round(3)
array([[1., 2.]])
"""

import importlib
from typing import Any

from . import composites, layers, plot, rules
from .analyzer import Analyzer
from .engine.balance import Balance, Conservation
from .engine.explanation import Explanation
from .engine.redistribute import redistribute
from .engine.result_memory import get_result_memory, set_result_memory
from .engine.threads import get_num_threads, set_num_threads
from .ensemble import Ensemble, EnsembleStreamed
from .errors import (
    AmplificationWarning,
    ApproximationWarning,
    BoundsWarning,
    DeviceError,
    InputError,
    InputNotFoundError,
    LrpfastError,
    MissingPackageError,
    ModelFormatError,
    ModelNotFoundError,
    RelevanceWarning,
    RuleError,
    SampleError,
    ShapeError,
    UnsupportedLayerError,
    VanishingWarning,
)
from .innvestigate import create_analyzer, model_wo_softmax
from .model.builder import Graph, from_layers
from .model.graph import Model
from .model.write_out import write_out_attention
from .readers import from_keras, from_onnx, from_sklearn, from_torch, load
from .version import __version__

#: Names of `batch`, which is imported on first use.
_LAZY = ("References", "Statistics", "Streamed", "data_bounds")


def __getattr__(name: str) -> Any:
    if name in ("batch", "evaluate"):
        return importlib.import_module(f".{name}", __name__)
    if name == "report":
        return importlib.import_module(".reporting", __name__).report
    if name in _LAZY:
        return getattr(importlib.import_module(".batch", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AmplificationWarning",
    "Analyzer",
    "ApproximationWarning",
    "Balance",
    "BoundsWarning",
    "Conservation",
    "DeviceError",
    "Ensemble",
    "EnsembleStreamed",
    "Explanation",
    "Graph",
    "InputError",
    "InputNotFoundError",
    "LrpfastError",
    "MissingPackageError",
    "Model",
    "ModelFormatError",
    "ModelNotFoundError",
    "References",
    "RelevanceWarning",
    "RuleError",
    "SampleError",
    "ShapeError",
    "Statistics",
    "Streamed",
    "UnsupportedLayerError",
    "VanishingWarning",
    "__version__",
    "batch",
    "composites",
    "create_analyzer",
    "data_bounds",
    "evaluate",
    "from_keras",
    "from_layers",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "get_num_threads",
    "get_result_memory",
    "layers",
    "load",
    "model_wo_softmax",
    "plot",
    "redistribute",
    "report",
    "rules",
    "set_num_threads",
    "set_result_memory",
    "write_out_attention",
]
