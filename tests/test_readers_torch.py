"""PyTorch's exported programs in files, against what PyTorch, zennit and captum printed."""

import functools
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import torch_peers
from lrpfast.errors import MissingPackageError

DATA = Path(__file__).parent / "data"
CASES = ("mlp", "cnn", "conv1d", "cnn_bn", "resnet")
RECORDS = [(case, key) for case in CASES for key in np.load(DATA / f"torch_{case}.npz").files if "|" in key]


@functools.cache
def model(case):
    return lrpfast.load(DATA / f"torch_{case}.pt2")


@functools.cache
def record(case):
    return dict(np.load(DATA / f"torch_{case}.npz"))


def largest(relevance):
    """Of each sample, as an array that broadcasts."""
    return np.abs(relevance).max(tuple(range(1, relevance.ndim)), keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_predictions(case):
    got = model(case).predict(record(case)["x"], precision="float64")
    np.testing.assert_allclose(got, record(case)["y"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("case, key", RECORDS, ids=lambda v: v)
def test_zennit_and_captum(case, key):
    read, rule = model(case), torch_peers.composite(key)
    if key.startswith("zennit") and any(isinstance(layer, lrpfast.layers.BatchNorm) for layer in read.layers):
        rule, read = torch_peers.beside_merged(rule, key), torch_peers.as_zennit_merges(read)
    got = lrpfast.Analyzer(read, rule, target=0, precision="float64").analyze(record(case)["x"])
    off = np.abs(got - record(case)[key])
    assert (off <= 1e-11 * largest(record(case)[key])).all()


# -- files that are not what they should be --------------------------------------


def rewritten(path, into, change):
    """A copy of an archive with each member passed through ``change(name, bytes)``; None leaves it out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(into, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return into


def edited(part, edit):
    """A change of the JSON member whose name ends so."""

    def change(name, data):
        if not name.endswith(part):
            return data
        document = json.loads(data)
        edit(document)
        return json.dumps(document)

    return change


def weight(**values):
    """A change of what the file says of its first weight."""

    def edit(document):
        entry = document["config"]["0.weight"]
        for key, value in values.items():
            (entry if key in entry else entry["tensor_meta"])[key] = value

    return edited("model_weights_config.json", edit)


def graph(edit):
    return edited("models/model.json", lambda document: edit(document["graph_module"]["graph"]))


class Canary:
    """A pickle that says so when it is opened."""

    opened = False

    def __reduce__(self):
        return setattr, (Canary, "opened", True)


DAMAGED = {
    "a weight that is missing": lambda name, data: None if name.endswith("weight_0") else data,
    "a program that is no JSON": lambda name, data: b"{" if name.endswith("model.json") else data,
    "a program that is a list": lambda name, data: b"[]" if name.endswith("model.json") else data,
    "a program that is empty": lambda name, data: b"{}" if name.endswith("model.json") else data,
    "deep JSON": lambda name, data: b"[" * 100_000 if name.endswith("model.json") else data,
    "weights cut short": lambda name, data: data[:-4] if name.endswith("weight_0") else data,
    "pickled weights": weight(use_pickle=True),
    "negative sizes": weight(sizes=[{"as_int": -1}, {"as_int": 10}]),
    "sizes beyond all memory": weight(sizes=[{"as_int": 2**40}, {"as_int": 2**40}], strides=[{"as_int": 0}] * 2),
    "sizes that are words": weight(sizes=[{"as_int": "24"}, {"as_int": 10}]),
    "strides out of the file": weight(strides=[{"as_int": 1000}, {"as_int": 1}]),
    "an offset out of the file": weight(storage_offset={"as_int": 10**6}),
    "too few strides": weight(strides=[{"as_int": 1}]),
    "complex numbers": weight(dtype=9),
    "a path out of the folder": weight(path_name="../../../etc/passwd"),
    "big-endian numbers": lambda name, data: b"big" if name.endswith("byteorder") else data,
    "another format": edited("models/model.json", lambda d: d["schema_version"].update(major=99)),
    "an unknown name": graph(lambda g: g["nodes"][0]["inputs"][0]["arg"]["as_tensor"].update(name="nothing")),
    "no nodes": graph(lambda g: g.update(nodes=[])),
    "shapes that do not fit": graph(lambda g: g["tensor_values"]["linear"].update(sizes=[{"as_int": 1}] * 2)),
    "an input without sizes": graph(lambda g: g["tensor_values"].pop("input")),
    "arguments that are words": graph(lambda g: g["nodes"][0]["inputs"][1].update(arg={"as_string": "x"})),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files(damage, tmp_path):
    path = rewritten(DATA / "torch_mlp.pt2", tmp_path / "m.pt2", DAMAGED[damage])
    with pytest.raises((lrpfast.ModelFormatError, lrpfast.UnsupportedLayerError)) as caught:
        lrpfast.load(path)
    assert str(path) in str(caught.value)


def test_truncated_files(tmp_path):
    whole = (DATA / "torch_mlp.pt2").read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.pt2").write_bytes(whole[:size])
        with pytest.raises(lrpfast.ModelFormatError):
            lrpfast.load(tmp_path / "m.pt2")


def test_nothing_is_unpickled(tmp_path):
    pickled = pickle.dumps(Canary())

    def change(name, data):
        return pickled if "sample_inputs" in name else data

    read, x = lrpfast.load(rewritten(DATA / "torch_mlp.pt2", tmp_path / "m.pt2", change)), record("mlp")["x"]
    np.testing.assert_array_equal(read.predict(x), model("mlp").predict(x))
    mark = weight(use_pickle=True)
    path = rewritten(
        DATA / "torch_mlp.pt2",
        tmp_path / "w.pt2",
        lambda name, data: pickled if name.endswith("weight_0") else mark(name, data),
    )
    with pytest.raises(lrpfast.ModelFormatError, match="pickle"):
        lrpfast.load(path)
    assert not Canary.opened


def test_expressions_are_not_evaluated(tmp_path):
    """PyTorch evaluates the expressions that stand for open sizes; here they are only open sizes."""

    def edit(g):
        g["tensor_values"]["input"]["sizes"][0] = {"as_expr": {"expr_str": "__import__('os').abort()"}}

    read = lrpfast.load(rewritten(DATA / "torch_mlp.pt2", tmp_path / "m.pt2", graph(edit)))
    assert read.predict(record("mlp")["x"]).shape == record("mlp")["y"].shape


@pytest.mark.parametrize(
    "names, word",
    [
        (("archive/data.pkl", "archive/data/0"), "from_torch"),
        (("serialized_exported_program.json", "serialized_state_dict.json"), "2.8"),
        (("a/models/x.json", "a/models/y.json"), "2 programs"),
    ],
)
def test_other_files_of_pytorch(names, word, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(lrpfast.ModelFormatError, match=word):
        lrpfast.load(tmp_path / "m.pt")


def test_what_torch_save_writes(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    for modern in (True, False):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth", _use_new_zipfile_serialization=modern)
        with pytest.raises(lrpfast.ModelFormatError, match="torch.export.save"):
            lrpfast.load(tmp_path / "m.pth")


def test_a_missing_pytorch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MissingPackageError, match=r"pip install torch \(lrpfast's extra 'torch': pip install '\.\[torch\]' in"
    ):
        lrpfast.from_torch(object())
    assert lrpfast.load(DATA / "torch_mlp.pt2").input_shape == (10,), "files need no PyTorch"
