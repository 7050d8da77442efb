"""Every public name has an example in its docstring, and it runs as it stands; `np` and `lrpfast` are imported."""

import contextlib
import doctest
import importlib
from types import FunctionType, ModuleType

import numpy as np
import pytest

import lrpfast

#: Where the names are: all of ``__all__`` counts.
PLACES = (lrpfast, lrpfast.layers, lrpfast.rules, lrpfast.composites, lrpfast.plot, lrpfast.evaluate)
#: Classes whose methods a user calls: each of these has an example of its own.
CLASSES = ("Analyzer", "Conservation", "Explanation", "Graph", "Model", "Statistics", "Streamed")


def documented():
    """Every name that needs an example, by the path that a user writes."""
    found = {}
    for place in PLACES:
        for name in place.__all__:
            value = getattr(place, name)
            if isinstance(value, ModuleType) or callable(value):
                found[f"{place.__name__}.{name}"] = value
    for name in CLASSES:
        owner = getattr(lrpfast, name)
        for method, value in vars(owner).items():
            if not method.startswith("_") and isinstance(value, (FunctionType, classmethod, staticmethod)):
                found[f"lrpfast.{name}.{method}"] = getattr(owner, method)
    return {"lrpfast": lrpfast, **found}


NAMES = documented()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default::lrpfast.errors.RelevanceWarning")  # as users see them
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = vars(NAMES[name]).get("__doc__") if isinstance(NAMES[name], type) else NAMES[name].__doc__
    test = doctest.DocTestParser().get_doctest(text or "", {"np": np, "lrpfast": lrpfast}, name, None, None)
    assert test.examples, f"{name} has no example in its docstring"
    if name == "lrpfast.from_keras":
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")  # PyTorch's crashes if TensorFlow is imported before it
    try:
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(test)
    except doctest.DocTestFailure as failure:
        pytest.fail(f"{name}: {failure.example.source}expected\n{failure.example.want}got\n{failure.got}")
    except doctest.UnexpectedException as failure:
        error = failure.exc_info[1]
        if isinstance(error, ImportError):
            pytest.skip(f"{name}: {error}")
        raise error from None


def test_the_names_are_those_of_the_package():
    assert {"lrpfast.Model.predict", "lrpfast.Statistics.from_state", "lrpfast.layers.Conv"} < set(NAMES)
