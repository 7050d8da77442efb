"""What a path is that is no model file which lrpfast reads, and what makes one of it: for error messages alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PICKLE = (
    "a Python pickle, which is never opened, since it can run code. Load it where you trust it, and give the object to "
    "lrpfast.from_sklearn, lrpfast.from_torch or lrpfast.from_keras"
)
#: What PyTorch writes where it pickles a module or its weights.
PICKLED_MODULE = (
    "a PyTorch file with pickled code inside, which is never opened. Where the module is in memory, "
    'lrpfast.from_torch(module, example_inputs) reads it, and torch.export.save(program, "model.pt2") writes a file of '
    "data alone. Weights alone (a state_dict) need the module that they are for: module.load_state_dict(weights)"
)
_WEIGHTS = (
    "holds weights without layers. Build the module in PyTorch, load the weights, and give it to "
    "lrpfast.from_torch(module, example_inputs)"
)
_FROZEN = (
    "a file of TensorFlow's graphs. Convert it: python -m tf2onnx.convert --graphdef {path} --output model.onnx "
    "--inputs NAME:0 --outputs NAME:0"
)
_CORE_ML = "a Core ML model. Export the model it was converted from, to ONNX for example"
#: What files begin with.
_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page (the download failed?)"),
    (b"<html", "a web page (the download failed?)"),
    (b"\x93NUMPY", "a NumPy .npy array, not a model"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"GGUF", f"a GGUF file, which {_WEIGHTS}"),
    (b"CDF", "a NetCDF file, which holds data, not a model"),
    # the number that torch.save began with before its zip archives
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", PICKLED_MODULE),
    *((bytes([0x80, version]), _PICKLE) for version in (2, 3, 4, 5)),
)
#: What files are by their names, where their beginning does not say.
_ENDINGS = {
    ".pb": _FROZEN,
    ".pbtxt": _FROZEN,
    ".mlmodel": _CORE_ML,
    ".caffemodel": "a Caffe model. Convert it to ONNX",
    ".params": "weights of MXNet. Export the network: mxnet.onnx.export_model",
    ".joblib": _PICKLE,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".rknn": "a model compiled for one device. Take the ONNX file it was made of",
    ".engine": "a model compiled for one device. Take the ONNX file it was made of",
    ".trt": "a model compiled for one device. Take the ONNX file it was made of",
}
#: Endings of files that are models.
_MODELS = (".keras", ".h5", ".hdf5", ".onnx", ".pt2", ".npz")


def kind_of_directory(path: Path) -> str:
    """What a directory is, and what to do."""
    if any((path / name).is_file() for name in ("saved_model.pb", "keras_metadata.pb")):
        return (
            "a TensorFlow SavedModel directory, which holds a program rather than layers. Convert it with Keras 2 "
            f'(TensorFlow up to 2.15): tf.keras.models.load_model("{path}").save("model.keras"); or to ONNX: '
            f"python -m tf2onnx.convert --saved-model {path} --output model.onnx"
        )
    if path.suffix == ".mlpackage":
        return _CORE_ML
    names = sorted(item.name for item in path.iterdir()) if path.is_dir() else []
    models = [name for name in names if name.endswith(_MODELS)]
    if models:
        more = f" and {len(models) - 5} more" if len(models) > 5 else ""
        return f"a directory, not a model file. Name one of those in it: {', '.join(models[:5])}{more}"
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
        return (
            "a directory of Hugging Face's transformers, which holds weights without layers. Load it there, and give "
            "the module to lrpfast.from_torch(module, example_inputs)"
        )
    return "a directory, not a model file"


def kind_by_name(path: Path) -> str | None:
    """What a file is by the ending of its name, and what to do; None where that says nothing."""
    kind = _ENDINGS.get(path.suffix.lower())
    return None if kind is None else kind.format(path=path)


def kind_of_file(path: Path, head: bytes) -> str:
    """What a file is that begins like this, and what to do."""
    if not head:
        return "the file is empty. Copy or download it again"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"TFL3":
        return (
            "a TensorFlow Lite model. Save the Keras model it came from, or convert it: python -m tf2onnx.convert "
            f"--tflite {path} --output model.onnx"
        )
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[8:10] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") < 1 << 30:
        return f"a safetensors file, which {_WEIGHTS}"
    return (
        kind_by_name(path)
        or _kind_of_text(path, head)
        or f"a file of unknown kind (it begins with the bytes {head[:8].hex(' ')})"
    )


def _kind_of_text(path: Path, head: bytes) -> str:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = "" if error.start < len(head) - 3 else head[: error.start].decode()  # a character cut by the end
    if not text or not all(c.isprintable() or c in "\t\r\n\f" for c in text):
        return ""
    if text.lstrip().startswith("{") and '"class_name"' in text:
        return (
            "the layers of a Keras model without their weights. Save both in Keras: model = "
            f'keras.models.model_from_json(open({json.dumps(str(path))}).read()); model.load_weights("…"); '
            'model.save("model.keras")'
        )
    if text.lstrip().startswith("<?xml") and "<net" in text:
        return "an OpenVINO model. Take the ONNX file it was made of"
    first: Any = text.strip().splitlines()[:1]
    return f"a text file, not a model (it begins with {first[0][:40]!r})" if first else "a text file, not a model"
