"""Recorded figures of transformers, for the tests of all readers: the files, the sets of rules, and what they give.

``data/attention/figures.npz`` has MODEL/x, y and target, and MODEL/SET/PART: relevance of inputs (``x``, ``x0``, …; of
ids ``tokens``), and of what blocks and attention consist of.
"""

import gzip
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import composites, layers, rules

DATA = Path(__file__).parent / "data" / "attention"
FILES = sorted(path.name for path in DATA.iterdir() if path.suffix != ".npz")
INPUTS = ("x", "x0", "x1", "x2")
GAMMA = composites.ByType({layers.Conv: rules.Gamma(0.25), layers.Linear: rules.Gamma(0.05)})
#: The sets of rules by the names that the figures have for them.
SETS = {
    "attn_lrp": composites.AttnLRP(),
    "cp_lrp": composites.CPLRP(),
    "attn_lrp_signed": composites.AttnLRP(stabilizer=1e-6),
    "cp_lrp_signed": composites.CPLRP(stabilizer=1e-6),
    "attn_lrp_epsilon": composites.AttnLRP(0.01, stabilizer=1e-6),
    "attn_lrp_lxt_explicit": composites.LXTExplicit(),
    "gamma_attn": GAMMA | composites.AttnLRP(),
    "gamma_cp": GAMMA | composites.CPLRP(),
    "gamma_cp_lxt_vit": composites.LXTViT(),
}
FIGURES = np.load(DATA / "figures.npz")


def figures(file):
    """The arrays of a file's model, by name; and how far off they may be."""
    name = file.split(".")[0].removesuffix("_opset23").removesuffix("_anylength")
    arrays = {key.partition("/")[2]: FIGURES[key] for key in FIGURES.files if key.startswith(f"{name}/")}
    # llama computes its norm in float32; exporters round the constants of ONNX files to it
    return arrays, 1e-5 if name == "llama_hf" else 1e-7 if file.endswith(".onnx") else 1e-10


def inputs_of(arrays):
    values = [arrays[key] for key in (*INPUTS, "mask") if key in arrays]
    return values if len(values) > 1 else values[0]


def load(file, folder):
    """The model of a file; a packed one is unpacked into a folder."""
    path = DATA / file
    if path.suffix == ".onnx":
        pytest.importorskip("onnx")
    if path.suffix == ".gz":
        path = folder / path.stem
        path.write_bytes(gzip.decompress((DATA / file).read_bytes()))
    return lrpfast.load(path)


def near(a, b, tolerance, text=""):
    """Whether two arrays differ by at most so much of the second one's largest value."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-300), err_msg=text)
