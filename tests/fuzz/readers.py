"""What is fuzzed: for each reader, files to start from and how a file is tried."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import lrpfast
from lrpfast.batch.sources import open_source

DATA = Path(__file__).parent.parent / "data"
#: Larger than any model that a small file can honestly describe; it is not computed.
MOST_VALUES = 10_000_000


class Nonsense(Exception):
    """A reader took a file, and what it made of it is wrong."""


@dataclass(frozen=True)
class Reader:
    """One reader: what makes its seeds, by name, and what is done with a file."""

    make: Callable[[], dict[str, bytes]]
    attempt: Callable[[Path], None]


def load(path: Path) -> None:
    """Read a model, show it and compute with it."""
    model = lrpfast.load(path)
    model.summary()
    if model.is_open:
        return
    sizes = [int(np.prod(node.shape, dtype=object)) for node in model.nodes]
    if sum(sizes) > MOST_VALUES:
        return
    shapes = [model.nodes[i].shape for i in model.inputs]
    x = [np.ones((2, *shape), np.float32) for shape in shapes]
    try:
        y = model.predict(x if len(x) > 1 else x[0], threads=1)
    except lrpfast.LrpfastError:
        return
    expected = [(2, *model.nodes[i].shape) for i in model.outputs]
    found = [np.shape(part) for part in (y if len(expected) > 1 else [y])]
    if found != expected:
        raise Nonsense(f"predict made shapes {found}, the model says {expected}")


def rows(path: Path) -> None:
    """Read the first and the last rows of samples in every way."""
    with open_source(path) as source:
        count = source.shape[0]
        source.ahead(0, min(count, 3))
        first = source.read(0, min(count, 3))
        if first.shape != (min(count, 3), *source.shape[1:]) or first.dtype != source.dtype:
            raise Nonsense(f"read gave {first.shape}, {first.dtype}; the source says {source.shape}, {source.dtype}")
        source.read_into(max(0, count - 2), count, np.empty((min(count, 2), *source.shape[1:]), source.dtype))
        source.done(count)
        repr((source.fingerprint, source.labels))


#: a model that is read with custom_objects alone
CUSTOM = "keras_case_custom_sub.keras"


def _files(*patterns: str) -> dict[str, bytes]:
    paths = [path for pattern in patterns for path in sorted(DATA.glob(pattern)) if path.name != CUSTOM]
    return {path.name: path.read_bytes() for path in paths}


def _saved() -> dict[str, bytes]:
    """lrpfast's own files of models that other files hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.npz"
        found = {}
        for name in ("mlp_relu.h5", "cnn_bn_avg.h5", "resnet_add.h5", "keras_layers_2.14.0_merge.h5", "conv1d.h5"):
            lrpfast.load(DATA / name).save(path)
            found[f"{name}.npz"] = path.read_bytes()
    return found


def _arrays() -> dict[str, bytes]:
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    found = {}
    for name, by, given in (
        ("c.npy", np.save, (x,)),
        ("fortran.npy", np.save, (np.asfortranarray(x),)),
        ("big_endian.npy", np.save, (x.astype(">i2"),)),
        ("stored.npz", np.savez, (x,)),
        ("packed.npz", np.savez_compressed, (x,)),
    ):
        file = io.BytesIO()
        by(file, *given)
        found[name] = file.getvalue()
    return found


def _hdf5() -> dict[str, bytes]:
    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    found = {}
    for name, how in {
        "plain": {"data": x},
        "packed": {"data": x, "chunks": (2, 3, 4), "compression": "gzip", "shuffle": True, "fletcher32": True},
        "integers": {"data": x.astype(">i2"), "chunks": (1, 3, 4)},
    }.items():
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            made = h5.create_dataset("group/x", **how)
            if name == "integers":
                made.attrs.update({"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": np.int16(3)})
        found[f"{name}.h5"] = file.getvalue()
    return found


def _netcdf() -> dict[str, bytes]:
    import netCDF4

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA", "NETCDF4"):
            path = Path(folder) / f"{kind}.nc"
            with netCDF4.Dataset(path, "w", format=kind) as file:
                file.createDimension("time", None if kind == "NETCDF3_CLASSIC" else 5)
                file.createDimension("lat", 3)
                for name, dims in (("time", ("time",)), ("lat", ("lat",)), ("area", ("time", "lat"))):
                    file.createVariable(name, "f8", dims)[:] = 1.5
                sst = file.createVariable("sst", "i2", ("time", "lat"), fill_value=-9)
                sst.setncatts({"scale_factor": 0.5, "coordinates": "area", "units": "K"})
                sst[:] = np.arange(15).reshape(5, 3)
            found[path.name] = path.read_bytes()
    return found


def _zarr() -> dict[str, bytes]:
    import zarr

    x = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in (2, 3) if int(zarr.__version__.split(".")[0]) >= 3 else (2,):
            path = Path(folder) / f"{version}.zarr.zip"
            with contextlib.closing(zarr.storage.ZipStore(path, mode="w")) as store:
                key = {"zarr_format": version} if version == 3 else {}
                group = zarr.open_group(store, mode="w", **key)
                group.create_array("x", shape=x.shape, dtype="f4", chunks=(2, 3, 4))[:] = x
            found[path.name] = path.read_bytes()
    return found


#: Small graphs in ONNX's text form: what is folded, matched, and chosen by shapes.
ONNX = {
    "function": """(float[N, 3] x) => (float[N, 3] y)
        <float r = {1.4142135}, float one = {1}, float half = {0.5}, float hi = {64}>
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) e = Mul(d, half) y = Min(e, hi) }""",
    "hard_swish": """(float[N, 3] x) => (float[N, 3] y)
        <float three = {3}, float zero = {0}, float six = {6}>
        { a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) d = Div(c, six) e = Relu(d) y = Min(e, six) }""",
    "layer_norm": """(float[N, 2, 4] x) => (float[N, 2, 4] y)
        <float two = {2}, float small = {0.00001}, float[4] g = {1, 2, 3, 4}, float[2, 1] b = {1, 2}>
        { m = ReduceMean <axes = [-1]> (x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean <axes = [-1]> (q)
          e = Add(v, small) s = Sqrt(e) n = Div(d, s) h = Mul(n, g) y = Add(h, b) }""",
    "affine": """(float[N, 1, 4] x) => (float[N, 3, 4] y)
        <float[3, 1] a = {1, 2, 3}, float[4] b = {1, 2, 3, 4}, float[1, 3, 1] c = {1, 2, 3}, float d = {2}>
        { p = Mul(x, a) q = Sub(b, p) r = Div(q, d) t = Add(r, c) y = Max(t, b) }""",
    "stack": """(float[N, 4] x) => (float[N, 4] y)
        <int64[1] one = {1}>
        { r = Relu(x) a = Unsqueeze(x, one) b = Unsqueeze(r, one) c = Concat <axis = 1> (a, b)
          y = ReduceSum <keepdims = 0> (c, one) }""",
    "shapes": """(float[N, 2, 3] x) => (float[N, 4] y)
        <int64 zero = {0}, int64[1] first = {0}, int64[1] minus = {-1}, int64[3] cut = {1, 0, 2}, int64[1] four = {4},
         int64[1] axis = {1}>
        { s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, first) t = Concat <axis = 0> (u, minus)
          f = Reshape(x, t) y = Slice(f, first, four, axis) }""",
    "images": """(float[N, 2, 4, 4] x) => (float[N, 8] y)
        <float[2] one = {1, 2}, float[4] s = {1, 1, 2, 2}, int64[8] p = {0, 0, 1, 0, 0, 0, 0, 1}, float roi = {0},
         int64[2] parts = {1, 1}>
        { b = BatchNormalization(x, one, one, one, one) r = Resize <mode = "linear"> (b, , s) q = Pad(r, p)
          m = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (q)
          g, h = Split <axis = 1> (m, parts) c = Concat <axis = 1> (g, h)
          a = AveragePool <kernel_shape = [2, 2], strides = [2, 2], pads = [0, 0, 1, 1]> (c)
          l = LRN <size = 3> (a) d = DepthToSpace <blocksize = 1> (l) f = Flatten(d)
          t = Transpose <perm = [0, 1]> (f) k = Softmax(t) y = PRelu(k, roi) }""",
    "choice": """(float[N, 2, 3] x) => (float[N, 2, 3] y)
        <bool c = {1}>
        { i = If (c) <then_branch = t () => (float[N, 2, 3] u) { u = Tanh(x) },
                      else_branch = e () => (float[N, 2, 3] v) { v = Relu(x) }> y = Gelu(i) }""",
}
#: A graph that calls a function of the file's own, of the graph's version of the operators or of another.
ONNX_FUNCTION = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[N, 3] x) => (float[N, 3] y) { y = own.f(x) }
    <domain: "own", opset_import: ["": VERSION]> f (a) => (b) { c = Relu(a) b = Neg(c) }"""


def _onnx() -> dict[str, bytes]:
    from onnx import parser

    head = '<ir_version: 8, opset_import: ["": {}]> g '
    texts = {name: head.format(20 if name == "choice" else 17) + text for name, text in ONNX.items()}
    texts |= {f"own_{version}": ONNX_FUNCTION.replace("VERSION", version) for version in ("17", "18")}
    made = {f"{name}.onnx": parser.parse_model(text).SerializeToString() for name, text in texts.items()}
    return _files("*.onnx") | made


READERS: dict[str, Reader] = {
    "keras_h5": Reader(lambda: _files("[bcmr]*.h5", "keras_*.h5"), load),
    "keras_zip": Reader(lambda: _files("*.keras"), load),
    "onnx": Reader(_onnx, load),
    "torch": Reader(lambda: _files("torch_[cmr]*.pt2"), load),
    "npz": Reader(_saved, load),
    "arrays": Reader(_arrays, rows),
    "hdf5": Reader(_hdf5, rows),
    "netcdf": Reader(_netcdf, rows),
    "zarr": Reader(_zarr, rows),
}


def problem(error: BaseException, path: Path) -> str | None:
    """What is wrong with an error, as the answer to a damaged file; None where it is as it should be."""
    if not isinstance(error, (lrpfast.LrpfastError, OSError)):
        return f"{type(error).__name__}: {error}"
    cause: Any = error
    while cause is not None:
        if isinstance(cause, (MemoryError, RuntimeWarning)):
            return f"{type(cause).__name__} became: {error}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    text = str(error)
    if path.name not in text:
        return f"does not name the file: {text}"
    if len(text) > 1500 + len(str(path)):
        return f"{len(text)} characters: {text[:300]}"
    if not text.replace("\n", "").isprintable():
        return f"unprintable: {text[:300]!r}"
    return None
