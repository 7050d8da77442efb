"""Recurrent networks from every kind of file: predictions, and every relevance of the reference figures.

tests/data/recurrent/ holds models of Keras 2 and 3, of PyTorch and of ONNX with figures that a program computed in
float64 by the conventions of Arras et al., unit by unit; several files are of one model.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.rules import Recurrent

DATA = Path(__file__).parent / "data" / "recurrent"
FILES = sorted(path.name.removesuffix(".gz") for path in DATA.glob("*.gz"))
#: Of the largest value: what the figures and lrpfast agree to in each precision.
CLOSE = {"float64": 1e-10, "float32": 1e-5}


def unpacked(name, folder):
    """The file, as it was saved."""
    path = folder / name
    path.write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    return path


def close(result, expected, precision):
    np.testing.assert_allclose(result, expected, rtol=0, atol=CLOSE[precision] * np.abs(expected).max())


@pytest.mark.parametrize("name", FILES)
def test_every_figure_comes_out_of_every_file(name, tmp_path):
    if not name.endswith(".pt2"):
        pytest.importorskip("onnx" if name.endswith(".onnx") else "h5py")
    model = lrpfast.load(unpacked(name, tmp_path))
    with np.load(DATA / f"{name.split('.')[0]}.npz") as record:
        x, y = record["x"], record["y"]
        for precision in CLOSE:
            close(model.predict(x, precision=precision), y, precision)
            for key in (key for key in record.files if key.startswith("lrp|")):
                settings, _, of = key.removeprefix("lrp|").partition("|")
                analyzer = lrpfast.Analyzer(model, Recurrent(**json.loads(settings)), precision=precision)
                if of == "vectors":
                    relevance = analyzer.explain(x, target=0, layers=True).layers["words"]
                else:
                    relevance = analyzer.analyze(x, target=0)
                close(relevance, record[key], precision)
