"""Small files that ask for gigabytes or minutes: what they take is counted before it is made, over all of it together.

Each is refused with lrpfast's own error. Memory is held against `tracemalloc`, work against counted calls; nothing here
looks at a clock.
"""

import io
import json
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.budget import ENVIRONMENT, held_bytes
from lrpfast.engine import tables
from lrpfast.readers import hdf5

DATA = Path(__file__).parent / "data"
KERNEL = "kernel:0"


def refused(path, *words, most=160e6, error=lrpfast.ModelFormatError, read=lrpfast.load):
    """Refused with lrpfast's own error, which says the words; Python and NumPy took no more than ``most`` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak:,} bytes"
    for word in words:
        assert word in str(caught.value)


# -- HDF5 ------------------------------------------------------------------------


def dense(name, units, inputs=None):
    shape = {} if inputs is None else {"batch_input_shape": [None, inputs]}
    settings = {"name": name, "units": units, "activation": "linear", "use_bias": False, **shape}
    return {"class_name": "Dense", "config": settings}


def legacy(file, layers):
    """The weights' group of a Keras file with these layers."""
    settings = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    file.attrs["model_config"] = json.dumps(settings)
    return file.create_group("model_weights")


def group(weights, name):
    made = weights.create_group(name)
    made.attrs["weight_names"] = np.array([KERNEL.encode()])
    return made


def one_kernel(path, make):
    """A model of one dense layer, whose kernel is made in its group."""
    with h5py.File(path, "w") as file:
        make(group(legacy(file, [dense("d", 16, 16)]), "d"))
    return path


def packed(chunk, *filters):
    """Makes a kernel of one stored chunk, with deflate so many times."""

    def make(where, data=b"x\x9c"):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk(chunk)
        for _ in filters:
            plan.set_deflate(9)
        space = h5py.h5s.create_simple((16, 16), (h5py.h5s.UNLIMITED,) * 2)
        made = h5py.h5d.create(where.id, KERNEL.encode(), h5py.h5t.IEEE_F32LE, space, plan)
        made.write_direct_chunk((0, 0), data)

    return make


@pytest.mark.parametrize("linked", [True, False])
def test_many_layers_of_zeros(tmp_path, linked):
    """One dataset linked into every layer, or one for each: their sum counts."""
    n, count = 1024, 20
    with h5py.File(tmp_path / "m.h5", "w") as file:
        weights = legacy(file, [dense(f"d{i}", n, n if i == 0 else None) for i in range(count)])
        shared = file.create_dataset("z", data=np.zeros((n, n), "f4"), chunks=(n, n), compression="gzip")
        for i in range(count):
            where = group(weights, f"d{i}")
            if linked:
                where[KERNEL] = shared
            else:
                file.copy(shared, where, KERNEL)
    assert (tmp_path / "m.h5").stat().st_size < 1 << 20
    refused(tmp_path / "m.h5", "were taken before it", "lrpfast.load(path, memory=")
    assert len(lrpfast.load(tmp_path / "m.h5", memory=1 << 28).layers) == count + 1


def test_a_chunk_larger_than_its_dataset(tmp_path):
    refused(one_kernel(tmp_path / "m.h5", packed((16384, 16384), 1)), "takes 1,073,74", most=5e6)


def test_a_chunk_that_unpacks_to_more_than_it_is(tmp_path):
    bomb = zlib.compress(bytes(80 << 20), 1)
    path = one_kernel(tmp_path / "m.h5", lambda where: packed((16, 16), 1)(where, bomb))
    refused(path, "does not unpack to 1,024 bytes", most=5e6)


def test_a_chunk_that_is_deflated_twice(tmp_path):
    twice = zlib.compress(zlib.compress(bytes(80 << 20), 1))
    path = one_kernel(tmp_path / "m.h5", lambda where: packed((16, 16), 1, 1)(where, twice))
    assert path.stat().st_size < 20_000
    refused(path, "filters [1, 1]", "h5repack", most=5e6)


def test_filters_that_may_be_plug_ins(tmp_path):
    """What is not gzip, shuffle or fletcher32 is refused before HDF5 looks for it; these three are read."""
    kernel = np.arange(256, dtype="f4").reshape(16, 16)
    path = one_kernel(tmp_path / "m.h5", lambda where: where.create_dataset(KERNEL, data=kernel, compression="lzf"))
    refused(path, "filters [32000]", "h5repack")
    path = one_kernel(
        tmp_path / "good.h5",
        lambda where: where.create_dataset(
            KERNEL, data=kernel, chunks=(5, 7), compression="gzip", shuffle=True, fletcher32=True
        ),
    )
    assert np.array_equal(lrpfast.load(path).layers[1].kernel, kernel)


def test_one_long_string_many_times(tmp_path):
    """The elements of an attribute may all be the same string of the heap."""
    length, count = 300_000, 400
    with h5py.File(tmp_path / "m.h5", "w", libver="earliest") as file:
        where = legacy(file, [dense("d", 2, 2)]).create_group("d")
        names = ["Q" * length, *(f"x{i}" for i in range(count))]
        where.attrs.create("weight_names", names, dtype=h5py.string_dtype())
    data = bytearray((tmp_path / "m.h5").read_bytes())
    place = data.index(struct.pack("<I", length))
    for i in range(1, count + 1):  # each a length, an address and an index of 16 bytes
        data[place + 16 * i : place + 16 * i + 16] = data[place : place + 16]
    (tmp_path / "m.h5").write_bytes(data)
    refused(tmp_path / "m.h5", "'weight_names'", "takes 120,300,000 bytes", most=5e6)


def test_a_text_of_no_kind(tmp_path):
    """HDF5 2.0 reads such an attribute through a null pointer; in a process apart, since that ends it."""
    with h5py.File(tmp_path / "m.h5", "w", libver="earliest") as file:
        group(legacy(file, [dense("d", 2, 2)]), "d")[KERNEL] = np.ones((2, 2), "f4")
    data = bytearray((tmp_path / "m.h5").read_bytes())
    at = data.index(bytes((0x19, 1)), data.index(b"model_config"))  # a datatype of variable length, a string
    data[at + 1] = 5
    (tmp_path / "m.h5").write_bytes(data)
    code = (
        "import sys, lrpfast\n"
        "try: lrpfast.load(sys.argv[1])\n"
        "except lrpfast.ModelFormatError as error: print('refused', error)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "m.h5"], capture_output=True, text=True)
    assert run.returncode == 0 and "refused" in run.stdout and "should hold text" in run.stdout


def test_names_of_groups_that_are_compressed(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        weights = legacy(file, [dense("d", 2, 2)])
        group(weights, "d")[KERNEL] = np.ones((2, 2), "f4")
        for i in range(20):  # more than a few are in a heap
            weights.create_group(f"other{i}")
    assert lrpfast.load(tmp_path / "m.h5").output_shape == (2,)
    data = bytearray((tmp_path / "m.h5").read_bytes())
    data[data.index(b"FRHP\0") + 7] = 12  # the length of its filters
    (tmp_path / "m.h5").write_bytes(data)
    refused(tmp_path / "m.h5", "names are compressed")


def test_false_marks_of_heaps_take_time_that_grows_with_the_file(tmp_path, monkeypatch):
    steps = []

    class Counted:
        @staticmethod
        def unpack(*given):
            steps[-1] += 1
            return struct.unpack(*given)

    monkeypatch.setattr(hdf5, "struct", Counted)
    for n in (500, 1000):
        mark = b"GCOL\x01\0\0\0" + struct.pack("<Q", 1 << 40) + struct.pack("<HHIQ", 1, 1, 0, 16)
        (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8) + mark * n)
        steps.append(0)
        refused(tmp_path / "m.h5", "overlap")
    assert steps[1] < 4 * steps[0] and steps[1] < 10_000


# -- archives --------------------------------------------------------------------


def archive_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_many_arrays_of_zeros_in_lrpfast_s_own_file(tmp_path):
    lrpfast.from_layers([L.Dense(np.ones((4, 2)))]).save(tmp_path / "m.npz")
    stored = io.BytesIO()
    np.save(stored, np.zeros(7 << 20, "f4"))
    members = members_of(tmp_path / "m.npz") | {f"array_{i}.npy": stored.getvalue() for i in range(1, 4)}
    refused(archive_of(tmp_path / "many.npz", members), "were taken before it", most=5e6)


def test_a_member_packed_by_another_method(tmp_path):
    members = members_of(DATA / "mlp_relu.keras")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused(archive_of(tmp_path / "m.keras", members, method), "packed by method")


def test_a_large_text(tmp_path):
    """Six megabytes of empty lists, which Python makes hundreds of."""
    text = b"[" + b"[]," * (2 << 20) + b"[]]"
    members = members_of(DATA / "mlp_relu.keras") | {"metadata.json": text}
    refused(archive_of(tmp_path / "m.keras", members), "metadata.json takes 2", most=40e6)


@pytest.mark.parametrize("stride", [0, 1], ids=["stride 0", "one weight many times"])
def test_weights_of_a_pt2_made_of_one_member(tmp_path, stride):
    members = members_of(DATA / "torch_mlp.pt2")
    place = next(name for name in members if name.endswith("model_weights_config.json"))
    document = json.loads(members[place])
    entry = next(iter(document["config"].values()))
    values = 1 << 18
    if stride:
        members[place.rsplit("/", 1)[0] + "/large"] = bytes(4 * values)
        entry = entry | {"path_name": "large"}
    sizes = {"sizes": [{"as_int": values}], "strides": [{"as_int": stride}], "storage_offset": {"as_int": 0}}
    for i in range(200):
        document["config"][f"evil{i}"] = entry | {"tensor_meta": entry["tensor_meta"] | sizes}
    members[place] = json.dumps(document).encode()
    refused(archive_of(tmp_path / "m.pt2", members), "were taken before it")


# -- ONNX ------------------------------------------------------------------------


def onnx_file(path, nodes, constants=None, functions=(), size=(4,)):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    made, tensor = onnx.helper, onnx.TensorProto.FLOAT
    graph = made.make_graph(
        nodes,
        "g",
        [made.make_tensor_value_info("x", tensor, ["N", *size])],
        [made.make_tensor_value_info("y", tensor, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()],
    )
    opsets = [made.make_opsetid("", 17), made.make_opsetid("own", 1)]
    model = made.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def node(op, inputs, outputs, **attributes):
    from onnx import helper

    return helper.make_node(op, inputs, outputs, **attributes)


def doubling(depth):
    """Functions that call the one before twice."""
    from onnx import helper

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = [helper.make_function("own", "F0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)]
    for i in range(1, depth + 1):
        calls = [node(f"F{i - 1}", [a], [b], domain="own") for a, b in (("a", "t"), ("t", "b"))]
        made.append(helper.make_function("own", f"F{i}", ["a"], ["b"], calls, opsets))
    return made


def test_functions_that_double(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    call = [node("F30", ["x"], ["y"], domain="own")]
    path = onnx_file(tmp_path / "m.onnx", call, functions=doubling(30))
    refused(path, "counted at every use, are 1,073,741,824", most=20e6)
    itself = doubling(0)[0]
    itself.node[0].CopyFrom(node("F0", ["a"], ["b"], domain="own"))
    path = onnx_file(tmp_path / "m.onnx", [node("F0", ["x"], ["y"], domain="own")], functions=[itself])
    refused(path, "calls itself", most=20e6)


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "edge pads", "Tile", "Resize"])
def test_onnx_nodes_that_make_much_of_nothing(tmp_path, kind):
    pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    n, size, constants = 2048, (4,), {}
    if kind in ("ConstantOfShape", "Expand"):
        n, size, last, nodes, constants = 2048, (2048,), "x", [], {"shape": np.array([n, n]), "one": np.ones(1, "f4")}
        for i in range(6):
            inputs = ["shape"] if kind == "ConstantOfShape" else ["one", "shape"]
            nodes += [node(kind, inputs, [f"w{i}"]), node("MatMul", [last, f"w{i}"], [f"m{i}"])]
            last = f"m{i}"
    elif kind == "edge pads":
        size, nodes = (1, 4), []
        constants = {"pads": np.array([0, 0, 0, 0, 0, (1 << 20) - 1])}
        last = "x"
        for i in range(10):
            nodes.append(node("Pad", [last, "pads"], [f"p{i}"], mode="edge"))
            last = f"p{i}"
    elif kind == "Tile":
        nodes, constants, last = [node("Tile", ["x", "times"], ["t"])], {"times": np.array([1, 1 << 40])}, "t"
    else:
        size, constants = (1, 1, 2000), {"up": np.float32([1, 1, 1, 1.9]), "down": np.float32([1, 1, 1, 1 / 1.9])}
        nodes, last = [], "x"
        for i in range(6):
            nodes.append(node("Resize", [last, "", "down" if i % 2 else "up"], [f"r{i}"], mode="linear"))
            last = f"r{i}"
    path = onnx_file(tmp_path / "m.onnx", [*nodes, node("Relu", [last], ["y"])], constants, size=size)
    refused(path, "lrpfast.load(path, memory=", most=250e6)


def test_a_hole_in_the_place_of_external_data(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[onnx] brings it")
    path = onnx_file(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])])
    model = onnx.load(path)
    for i in range(20):
        tensor = model.graph.initializer.add(name=f"w{i}", data_type=1, dims=[1 << 20], data_location=1)
        tensor.external_data.add(key="location", value="hole.bin")
    path.write_bytes(model.SerializeToString())
    with open(tmp_path / "hole.bin", "wb") as file:
        file.truncate(1 << 28)
    if held_bytes(tmp_path / "hole.bin") == 1 << 28:
        pytest.skip("this file system has no holes in files, or does not say where")
    refused(path, "were taken before it", most=100e6)
    data = np.random.default_rng(0).bytes(1 << 22)
    (tmp_path / "hole.bin").write_bytes(data)  # 4 MiB: 64 MiB and 128 more may come of it
    assert lrpfast.load(path).output_shape == (4,)


def planned(layers, shape):
    return lambda: lrpfast.Analyzer(lrpfast.from_layers(layers, shape), "epsilon")


# -- limits --------------------------------------------------------------------


def test_budgets_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FREE_TABLES", 1000)
    make = planned([L.Permute((1, 0))], (20, 30))
    with pytest.raises(lrpfast.InputError, match=r"memory=16384\) or LRPFAST_MODEL_MEMORY"):
        make()
    model = lrpfast.from_layers([L.Permute((1, 0))], (20, 30))
    assert lrpfast.Analyzer(model, "epsilon", memory=1 << 24).output_shape == (30, 20)
    with pytest.raises(lrpfast.InputError, match=ENVIRONMENT):
        model.predict(np.ones((1, 20, 30)))
    still_open = lrpfast.from_layers([L.UpSample((2, 2))], (None, None, 1))  # its data say how large it is
    assert still_open.predict(np.ones((1, 30, 20, 1))).shape == (1, 60, 40, 1)
    assert lrpfast.Analyzer(still_open, "epsilon", target=0).analyze(np.ones((1, 30, 20, 1))).shape == (1, 30, 20, 1)
    monkeypatch.setenv(ENVIRONMENT, "20000")
    assert make().output_shape == (30, 20)
    assert model.predict(np.ones((1, 20, 30))).shape == (1, 30, 20)
    model.save(tmp_path / "m.npz")
    for text in ("1e9", "-5", "2G", "9" * 40):
        monkeypatch.setenv(ENVIRONMENT, text)
        with pytest.raises(lrpfast.InputError, match=ENVIRONMENT):
            lrpfast.load(tmp_path / "m.npz")
    for memory in (0, -1, 1.5, "2G", True):
        with pytest.raises(lrpfast.InputError, match="memory must be a number of bytes"):
            lrpfast.load(tmp_path / "m.npz", memory=memory)


def test_large_weights_load_as_they_are_stored(tmp_path):
    """What a file holds itself it may take, in every way of storing it."""
    n = 4400  # 77 MB
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group(legacy(file, [dense("d", n, n)]), "d").create_dataset(KERNEL, (n, n), "f4", fillvalue=1)[0] = 2
    model = lrpfast.load(tmp_path / "m.h5")
    model.save(tmp_path / "m.npz")
    assert lrpfast.load(tmp_path / "m.npz").digest() == model.digest()
    assert lrpfast.Analyzer(model, "epsilon").input_shape == (n,)


def test_the_process_apart_of_the_security_page(tmp_path):
    pytest.importorskip("resource", reason="this system has no limits of processes")
    page = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    (tmp_path / "apart.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    shutil.copy(DATA / "mlp_relu.h5", tmp_path / "model.h5")
    crash = (
        "import os, apart, lrpfast\n"
        "def abort(path): os._exit(-6)\n"
        "if __name__ == '__main__':\n"
        "    lrpfast.load = abort\n"
        "    try: apart.load_separately('x.h5')\n"
        "    except lrpfast.ModelFormatError as error: print(error)"
    )
    (tmp_path / "crash.py").write_text(crash)
    for script, said in (("apart.py", "(12,) -> (5,)"), ("crash.py", "crashed")):
        run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
        assert said in run.stdout, run.stderr
