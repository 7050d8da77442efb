"""Hostile files, attack by attack: what a model or data file may not do to whoever opens it.

A file is never a program: nothing in it is run, unpickled, followed to another file or written anywhere; what it
declares is checked before memory is taken; a file that is no honest model is refused with lrpfast's own error, which
names it. Each test below is one attack, made by editing a real file (`fuzz.edits`). Details of a format have their
tests beside its reader: links and virtual data in HDF5, archives and declared sizes in test_readers_keras.py; external
data, cycles and invented constants in test_readers_onnx_broken.py; strides, expressions and pickles in
test_readers_torch.py; cut, changed and mistaken data files in test_sources.py. What random edits once found is in
test_fuzz.py.
"""

import base64
import io
import json
import marshal
import os
import pickle
import struct
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import lrpfast
from fuzz.edits import made
from lrpfast.batch.sources import open_source

DATA = Path(__file__).parent / "data"
KERAS_H5, KERAS_ZIP, ONNX, TORCH = "mlp_relu.h5", "mlp_relu.keras", "torch_mlp.onnx", "torch_mlp.pt2"
H5_KERNEL = "/model_weights/dense/dense/kernel:0"
ZIP_KERNEL = "/_layer_checkpoint_dependencies/dense/vars/0"
TORCH_WEIGHTS, TORCH_PROGRAM = "mlp/data/weights/model_weights_config.json", "mlp/models/model.json"


def own(folder):
    """lrpfast's own file of a small model."""
    path = folder / "own.npz"
    lrpfast.load(DATA / KERAS_H5).save(path)
    return path


def edited(folder, name, *edits):
    """A reference file, or one at a path, after edits."""
    path = folder / "hostile.bin"
    path.write_bytes(made((DATA / name).read_bytes(), list(edits), {}))
    return path


def keras(*edit):
    """An edit of a Keras configuration, in either kind of file."""
    return {KERAS_H5: ["in", "/@model_config", ["json", *edit]], KERAS_ZIP: ["in", "config.json", ["json", *edit]]}


def refused(path, *words, read=lrpfast.load):
    """Refused with lrpfast's own error, which names the file and says the words, at little cost in memory."""
    tracemalloc.start()
    try:
        with pytest.raises(lrpfast.LrpfastError) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert peak < 200e6, f"{peak:,} bytes"
    assert str(path) in message and len(message) < 1500 and message.isprintable(), message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


def refused_rows(path, *words):
    def read(path):
        with open_source(path) as source:
            source.read(0, 1)

    refused(path, *words, read=read)


# -- code ------------------------------------------------------------------------


@pytest.fixture
def no_code(monkeypatch):
    """Fails the test when anything that could run code from a file is called."""

    called = []

    def watched(name, function):
        def call(*given, **named):
            if "importlib" not in sys._getframe(1).f_globals["__name__"]:  # which loads modules so
                called.append(name)
                raise RuntimeError("code from a file was about to be loaded")
            return function(*given, **named)

        return call

    for module, names in ((marshal, ("loads", "load")), (pickle, ("loads", "load", "Unpickler"))):
        for name in names:
            monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    yield
    assert not called


PICKLE = pickle.dumps(os.getcwd)
CODE = base64.b64encode(marshal.dumps((lambda x: os.abort()).__code__)).decode()


@pytest.mark.parametrize("name", [KERAS_H5, KERAS_ZIP])
@pytest.mark.parametrize(
    "function",
    [
        [CODE, None, None],
        {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}},
        {"module": "os", "class_name": "function", "config": "abort", "registered_name": "function"},
    ],
    ids=["Keras 2", "Keras 3", "a function by its name"],
)
def test_a_lambda_layer_with_marshalled_code(tmp_path, name, function, no_code):
    layer = {"class_name": "Lambda", "config": {"name": "evil", "function": function, "function_type": "lambda"}}
    path = edited(tmp_path, name, keras(["config", "layers", 2], "set", layer)[name])
    refused(path, "'evil'", "Lambda", "never runs")


@pytest.mark.parametrize("name", [KERAS_H5, KERAS_ZIP])
def test_code_in_the_place_of_an_activation_or_a_class(tmp_path, name, no_code):
    function = {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}}
    activation = keras(["config", "layers", 1, "config", "activation"], "set", function)[name]
    refused(edited(tmp_path, name, activation), "'dense'")
    foreign = {"module": "os", "class_name": "system", "config": {"name": "evil"}, "registered_name": "os>system"}
    refused(edited(tmp_path, name, keras(["config", "layers", 1], "set", foreign)[name]), "'evil'")


def pickled_array():
    """An .npy file of one Python object, as NumPy writes it."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + PICKLE


def test_pickled_objects_in_lrpfast_s_own_file(tmp_path, no_code):
    with zipfile.ZipFile(own(tmp_path)) as old, zipfile.ZipFile(tmp_path / "evil.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled_array() if name == "array_0.npy" else old.read(name))
    refused(tmp_path / "evil.npz", "array_0.npy")


def test_pickled_objects_in_data(tmp_path, no_code):
    (tmp_path / "x.npy").write_bytes(pickled_array())
    refused_rows(tmp_path / "x.npy", "Python objects")
    for packed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", packed) as archive:
            archive.writestr("x.npy", pickled_array())
        refused_rows(tmp_path / "x.npz", "Python objects")
    for name in ("x.npy", "x.npz"):
        refused(tmp_path / name)


def test_a_pickle_in_a_pt2(tmp_path, no_code):
    """Weights marked as pickled, and a pickle where plain bytes are promised."""
    weight = ["in", TORCH_WEIGHTS, ["json", ["config", "0.weight", "use_pickle"], "set", True]]
    refused(edited(tmp_path, TORCH, weight), "'0.weight'", "pickle")
    replaced = ["zip", "rename", "mlp/data/sample_inputs/model.pt", "mlp/data.pkl"]
    assert lrpfast.load(edited(tmp_path, TORCH, replaced)).input_shape == (10,), "what is not needed is not opened"


# -- other files -----------------------------------------------------------------


@pytest.mark.parametrize("link", ["soft", "external"])
@pytest.mark.parametrize("what", ["weights", "group"])
def test_links_out_of_an_hdf5_file(tmp_path, link, what):
    path = H5_KERNEL if what == "weights" else "/model_weights/dense"
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other[path if what == "weights" else H5_KERNEL] = np.ones((12, 32), "f4")
    refused(edited(tmp_path, KERAS_H5, ["hdf5", path, link, path]), "links are not followed")
    inside = ZIP_KERNEL if what == "weights" else "/_layer_checkpoint_dependencies/dense"
    path = edited(tmp_path, KERAS_ZIP, ["in", "model.weights.h5", ["hdf5", inside, link, inside]])
    refused(path, "links are not followed")


def test_links_in_data_and_data_kept_elsewhere(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(48))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["soft"], file["external"] = h5py.SoftLink("/gone"), h5py.ExternalLink("/etc/passwd", "x")
        file.create_dataset("outside", (4, 3), "f4", external=[(str(tmp_path / "secret"), 0, 48)])
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4, 3))
        file.create_virtual_dataset("virtual", layout)
    for name in ("soft", "external"):
        with pytest.raises(lrpfast.InputError, match="links are not followed"):
            open_source(f"{tmp_path / 'x.h5'}:{name}")
    for name in ("outside", "virtual"):
        with pytest.raises(lrpfast.InputError, match="other files"):
            open_source(f"{tmp_path / 'x.h5'}:{name}")


@pytest.mark.parametrize("evil", ["../evil", "../../../../evil", "/evil", "C:\\evil", "..\\evil", "a/../../evil"])
def test_members_of_an_archive_that_lead_out_of_it(tmp_path, evil):
    """Members are read by name and never unpacked, so that such names lead nowhere."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name, member in ((KERAS_ZIP, "model.weights.h5"), (TORCH, TORCH_WEIGHTS), (own(tmp_path), "array_0.npy")):
        refused(edited(folder, name, ["zip", "rename", member, evil]))
    with zipfile.ZipFile(folder / "x.npz", "w") as archive, archive.open(f"{evil}.npy", "w") as file:
        np.save(file, np.ones((3, 2)))
    with open_source(folder / "x.npz") as source:
        assert source.read(0, 3).shape == (3, 2)
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"own.npz", "hostile.bin", "x.npz"}
    path = edited(folder, TORCH, ["in", TORCH_WEIGHTS, ["json", ["config", "0.weight", "path_name"], "set", evil]])
    refused(path, "missing")


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "link", "deeper/../../secret", "", "file:///etc/passwd"])
def test_external_data_outside_an_onnx_model_s_folder(tmp_path, place):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    proto = onnx.load(DATA / ONNX)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    refused(folder / "m.onnx", tensor.name)


# -- memory and time -------------------------------------------------------------


def test_zip_bombs(tmp_path):
    """80 MiB of zeros packed small, in the place of each kind of member."""
    zeros = 80 << 20
    for name, member in (
        (KERAS_ZIP, "config.json"),
        (KERAS_ZIP, "metadata.json"),
        (KERAS_ZIP, "model.weights.h5"),
        (TORCH, TORCH_PROGRAM),
        (TORCH, TORCH_WEIGHTS),
        (TORCH, "mlp/data/weights/weight_0"),
        (own(tmp_path), "header.npy"),
        (own(tmp_path), "array_0.npy"),
    ):
        path = edited(tmp_path, name, ["zip", "zeros", member, zeros])
        assert path.stat().st_size < 1 << 20
        refused(path, f"{member} in the archive takes 83,886,080 bytes", "memory=134217728")


def test_a_zip_bomb_of_data(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 16777216), }\n"
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(1 << 26))
    refused_rows(tmp_path / "x.npz", "unpacks to 67,108,9")


def test_a_zip_member_that_lies_about_its_size(tmp_path):
    """The size in the archive's index is what is read; the rest is never unpacked."""
    path = edited(tmp_path, KERAS_ZIP, ["zip", "zeros", "config.json", 1_000_003])
    data = path.read_bytes().replace(struct.pack("<I", 1_000_003), struct.pack("<I", 100))
    path.write_bytes(data)
    refused(path, "config.json")


def test_a_zip_member_that_lies_about_its_packed_size(tmp_path):
    """It would excuse any size unpacked; and to read so much of a file takes the memory at once."""
    for name, member in ((KERAS_ZIP, "model.weights.h5"), (TORCH, TORCH_WEIGHTS), (own(tmp_path), "array_0.npy")):
        path = lying(edited(tmp_path, name), member)
        refused(path, "says it takes 2,147,483,647 bytes, more than the archive has")
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((3, 4)))
    refused_rows(lying(tmp_path / "x.npz", "x.npy"), "says it takes 2,147,483,647 bytes, more than the archive has")


def lying(path, member):
    """The archive, its index saying that a member takes 2 GiB packed."""
    data = bytearray(path.read_bytes())
    place = data.rindex(member.encode(), 0, data.rindex(b"PK\x05\x06")) - 46  # its entry in the index, from the name
    place = data.rindex(b"PK\x01\x02", 0, place + 4)  # torch's names begin with a folder's
    data[place + 20 : place + 24] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(data)
    return path


def test_a_heap_in_hdf5_that_never_ends(tmp_path):
    """Its free space says that it has no bytes; HDF5 2.0 would look for its end for ever."""
    data = bytearray((DATA / KERAS_H5).read_bytes())
    place = data.index(b"GCOL") + 16
    while index := int.from_bytes(data[place : place + 2], "little"):
        assert index < 100
        place += 16 + -(-int.from_bytes(data[place + 8 : place + 16], "little") // 8) * 8
    data[place + 8 : place + 16] = bytes(8)
    (tmp_path / "m.h5").write_bytes(data)
    refused(tmp_path / "m.h5", "never ends")


@pytest.mark.parametrize("deep", [1000, 100_000])
def test_json_nested_deep(tmp_path, deep):
    for path in ([], ["config"], ["config", "layers", 1, "config", "units"], ["config", "layers", 1, "inbound_nodes"]):
        for name, edit in keras(path, "deep", deep).items():
            refused(edited(tmp_path, name, edit))
    for member, path in ((TORCH_PROGRAM, ["graph_module"]), (TORCH_WEIGHTS, ["config", "0.weight"])):
        refused(edited(tmp_path, TORCH, ["in", member, ["json", path, "deep", deep]]))
    header = ["in", "values", ["json", ["nodes", 1, "layer", "kernel"], "deep", deep]]
    refused(edited(tmp_path, own(tmp_path), ["in", "header.npy", header]))


@pytest.mark.parametrize("sizes", [[2**20, 2**20], [2**40, 2], [2**62, 2**62]], ids=str)
def test_sizes_that_the_file_does_not_hold(tmp_path, sizes):
    shape = [{"as_int": n} for n in sizes]
    meta = ["config", "0.weight", "tensor_meta"]
    for strides in ([0, 0], [1, 1], sizes):
        edits = [["json", [*meta, "sizes"], "set", shape], ["json", [*meta, "strides"], "set", strides]]
        refused(edited(tmp_path, TORCH, *(["in", TORCH_WEIGHTS, edit] for edit in edits)), "'0.weight'")
    refused(edited(tmp_path, own(tmp_path), ["in", "array_0.npy", ["npy", "shape", sizes]]), "array_0.npy")
    (tmp_path / "x.npy").write_bytes(made(saved(np.ones((4, 4))), [["npy", "shape", sizes]], {}))
    refused_rows(tmp_path / "x.npy", "truncated")
    if max(sizes) < 2**62:  # HDF5 itself refuses more
        for chunks in (None, [1, 2]):
            refused(edited(tmp_path, KERAS_H5, ["hdf5", H5_KERNEL, "declare", sizes, "f4", chunks]), "'dense'")


def saved(x):
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_data_that_the_file_does_not_hold(tmp_path, packed):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", (4, 2**31), "f4", chunks=(1, 2**16), compression="gzip" if packed else None)
        x[0, :4] = 1
    refused_rows(tmp_path / "x.h5", "8,589,934,592 bytes")
    zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")
    store = zarr.storage.ZipStore(tmp_path / "x.zip", mode="w")
    x = zarr.open(store, mode="w", shape=(4, 2**31), dtype="f4", chunks=(1, 2**16))
    x[0, :4] = 1
    store.close()
    refused_rows(tmp_path / "x.zip", "8,589,934,592 bytes")


# -- numbers and graphs that make no sense -----------------------------------------


@pytest.mark.parametrize("number", [-1, -(2**63), 2**63, 10**400, 0.5, float("nan"), float("inf"), True, "7"], ids=str)
def test_numbers_of_units_and_shapes(tmp_path, number):
    places = [["config", "layers", 1, "config", "units"]]
    if isinstance(number, int):  # anything else is no shape, and the shape is known from the weights
        places.append(["config", "layers", 0, "config", "batch_input_shape", 1])
    for path in places:
        for name, edit in keras(path, "set", number).items():
            refused(edited(tmp_path, name, edit))
    meta = ["config", "0.weight", "tensor_meta"]
    for path in ([*meta, "sizes", 0, "as_int"], [*meta, "strides", 0, "as_int"], [*meta, "storage_offset", "as_int"]):
        refused(edited(tmp_path, TORCH, ["in", TORCH_WEIGHTS, ["json", path, "set", number]]), "size")


@pytest.mark.parametrize("number", [-1, 0, 2**31, 2**63, 2**100, 1.5, float("nan"), None], ids=str)
def test_numbers_of_strides_and_padding(tmp_path, number):
    path = tmp_path / "m.npz"
    lrpfast.from_layers([lrpfast.layers.Conv(np.ones((2, 2, 1, 1)))], (4, 4, 1)).save(path)
    for key in ("strides", "dilation"):
        edit = ["in", "values", ["json", ["nodes", 1, "layer", key], "set", [number, 1]]]
        refused(edited(tmp_path, path, ["in", "header.npy", edit]), key)


def test_shapes_that_overflow_together(tmp_path):
    """Each size is possible, their product is not."""
    layer = {"class_name": "UpSampling1D", "config": {"name": "up", "size": 2**31 - 1}}
    reshape = {"class_name": "Reshape", "config": {"name": "reshape", "target_shape": [2**40, -(2**40)]}}
    refused(edited(tmp_path, KERAS_H5, keras(["config", "layers", 2], "set", reshape)[KERAS_H5]), "'reshape'")
    refused(edited(tmp_path, KERAS_H5, keras(["config", "layers", 2], "set", layer)[KERAS_H5]), "'up'")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_weights_that_are_not_finite(tmp_path, number):
    refused(edited(tmp_path, KERAS_H5, ["hdf5", H5_KERNEL, "value", number]), "'dense'", "not finite")
    inside = ["in", "model.weights.h5", ["hdf5", ZIP_KERNEL, "value", number]]
    refused(edited(tmp_path, KERAS_ZIP, inside), "'dense'", "not finite")
    bits = struct.pack("<f", number).hex()
    refused(edited(tmp_path, TORCH, ["in", "mlp/data/weights/weight_0", ["set", 4, bits]]), "not finite")
    refused(edited(tmp_path, own(tmp_path), ["in", "array_0.npy", ["in", "values", ["set", 4, bits]]]), "not finite")
    pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    onnx_bits = ["set", 4, bits]
    path = tmp_path / "hostile.bin"
    path.write_bytes(spoiled_onnx(onnx_bits))
    refused(path, "not finite")


def spoiled_onnx(edit):
    import onnx

    proto = onnx.load(DATA / ONNX)
    tensor = proto.graph.initializer[0]
    tensor.raw_data = made(tensor.raw_data, [edit], {})
    return proto.SerializeToString()


@pytest.mark.parametrize("dtype", ["i4", "u1", "c8", "S4", "?"])
def test_weights_of_wrong_types(tmp_path, dtype):
    refused(edited(tmp_path, KERAS_H5, ["hdf5", H5_KERNEL, "typed", dtype]), "floating-point")
    inside = ["in", "model.weights.h5", ["hdf5", ZIP_KERNEL, "typed", dtype]]
    refused(edited(tmp_path, KERAS_ZIP, inside), "floating-point")
    if dtype in ("c8", "S4"):  # whole numbers may be weights of a model from NumPy arrays
        descr = ["npy", "descr", np.dtype(dtype).str]
        refused(edited(tmp_path, own(tmp_path), ["in", "array_0.npy", descr]), "dtype" if dtype == "S4" else "bytes")


def test_graphs_that_feed_themselves(tmp_path):
    for target in ("resnet_add.h5", "branch_concat.h5"):
        with h5py.File(DATA / target) as file:
            config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        last = layers[-1]["config"]["name"]
        first = next(i for i, layer in enumerate(layers) if layer["inbound_nodes"])
        edit = ["json", ["config", "layers", first, "inbound_nodes"], "set", [[[last, 0, 0, {}]]]]
        refused(edited(tmp_path, target, ["in", "/@model_config", edit]), "feeds itself")
    path = ["graph_module", "graph", "nodes", 0, "inputs", 0, "arg", "as_tensor", "name"]
    refused(edited(tmp_path, TORCH, ["in", TORCH_PROGRAM, ["json", path, "set", "linear_2"]]), "linear_2")
    for number in (1, 2, 99, -1):  # a node of lrpfast's own file: itself, a later one, none
        edit = ["in", "values", ["json", ["nodes", 1, "inputs"], "set", [number]]]
        refused(edited(tmp_path, own(tmp_path), ["in", "header.npy", edit]))


def test_two_members_of_one_name(tmp_path):
    """Programs disagree on which of them counts, so that what was checked need not be what is read."""
    for name, member in (
        (KERAS_ZIP, "config.json"),
        (KERAS_ZIP, "model.weights.h5"),
        (TORCH, TORCH_PROGRAM),
        (TORCH, "mlp/data/weights/weight_0"),
        (own(tmp_path), "array_0.npy"),
    ):
        refused(edited(tmp_path, name, ["zip", "twice", member]), "twice", member)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "duplicate name"
        for value in (1, 2):
            archive.writestr("x.npy", saved(np.full((3, 2), value)))
    refused_rows(tmp_path / "x.npz", "twice", "x.npy")


# -- messages --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;owned\x07", "a\nTraceback: fine", "\u202egpj.exe", "y" * 100_000])
def test_names_that_play_tricks_on_a_terminal(tmp_path, name):
    """What a file holds comes out escaped and of bounded length."""
    layer = {"class_name": name, "config": {"name": name}}
    for target, edit in keras(["config", "layers", 2], "set", layer).items():
        path = edited(tmp_path, target, edit)
        with pytest.raises(lrpfast.LrpfastError) as caught:
            lrpfast.load(path)
        message = str(caught.value)
        assert str(path) in message and len(message) < 1500
        assert message.replace("\n", "").isprintable()
