"""What is no model file: the error says what it is and what to do."""

import struct

import numpy as np
import pytest

import lrpfast

CODE = "can run code"
MODULE = "from_torch(module, example_inputs)"
SAFETENSORS = struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  ' + b"\0" * 4
CORE_ML = b"\x08\x04\x12\x20abc"  # it begins as an ONNX file might
FILES = {
    "empty.h5": (b"", ["empty", "download it again"]),
    "text.h5": (b"hello", ["a text file", "'hello'"]),
    "page.onnx": (b"<!DOCTYPE html><html>", ["a web page"]),
    "pointer.onnx": (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
    "graph.pb": (b"\n\x0e\n\x01x\x12\x0bPlaceholder", ["tf2onnx.convert --graphdef"]),
    "model.tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 20, ["TensorFlow Lite", "tf2onnx.convert --tflite"]),
    "model.pkl": (b"\x80\x04\x95", [CODE, "from_sklearn"]),
    "model.joblib": (b"\0\1\2\3", [CODE, "from_sklearn"]),
    "old.pth": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80", [MODULE, "load_state_dict"]),
    "model.mlmodel": (CORE_ML, ["Core ML"]),
    "model.safetensors": (SAFETENSORS, ["safetensors", "weights without layers", MODULE]),
    "model.gguf": (b"GGUF\x03\0\0\0", ["GGUF", "weights without layers"]),
    "model.caffemodel": (b"\n\x05abc\xff", ["Caffe", "ONNX"]),
    "model.xml": (b'<?xml version="1.0"?><net name="a" version="11"></net>', ["OpenVINO", "ONNX"]),
    "model.json": (b'{"class_name": "Sequential", "config": {}}', ["without their weights", "model_from_json"]),
    "model.onnx.gz": (b"\x1f\x8b\x08", ["gzip", "unpack"]),
    "model.tar": (b"a".ljust(257, b"\0") + b"ustar\0", ["tar archive", "unpack"]),
    "data.nc": (b"CDF\x01\0\0", ["holds data"]),
    "unknown": (b"\x01\x02\x03\x04\xff", ["unknown kind", "01 02 03 04 ff"]),
    "broken.onnx": (b"\x08\x07\x12\xff\xff", ["damaged or truncated ONNX", "download it again"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model(name, tmp_path):
    content, words = FILES[name]
    if name == "broken.onnx":
        pytest.importorskip("onnx")
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, words)


def refused(path, words):
    with pytest.raises(lrpfast.ModelFormatError) as caught:
        lrpfast.load(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and len(text) < 1000 + len(str(path))
    for word in words:
        assert word in text


def test_directories(tmp_path):
    cases = (
        ((), ["a directory"]),
        (("saved_model.pb", "variables.index"), ["SavedModel", 'save("model.keras")', "tf2onnx.convert --saved-model"]),
        (("a.keras", "b.onnx", "c.txt"), ["a.keras, b.onnx"]),
        (("config.json", "model.safetensors"), ["Hugging Face", "from_torch"]),
        (tuple(f"{i}.onnx" for i in range(9)), ["and 4 more"]),
    )
    for number, (names, words) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"")
        refused(folder, words)
    (tmp_path / "model.mlpackage").mkdir()
    refused(tmp_path / "model.mlpackage", ["Core ML"])


def test_a_name_that_is_nearly_that_of_a_file(tmp_path):
    lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))]).save(tmp_path / "network.npz")
    with pytest.raises(lrpfast.ModelNotFoundError, match="no such file; did you mean network.npz"):
        lrpfast.load(tmp_path / "netwrk.npz")
    with pytest.raises(lrpfast.ModelNotFoundError, match="no such file; there is no directory .*none either"):
        lrpfast.load(tmp_path / "none" / "network.npz")
    with pytest.raises(lrpfast.ModelNotFoundError, match="no such file$"):
        lrpfast.load(tmp_path / "another")
    with pytest.raises(lrpfast.InputError, match="empty"):
        lrpfast.load("")


def test_objects_in_a_paths_place():
    with pytest.raises(lrpfast.InputError, match="a path, not ndarray; from_keras, from_onnx"):
        lrpfast.load(np.zeros(3))
    onnx = pytest.importorskip("onnx")
    with pytest.raises(lrpfast.InputError, match=r"a path, not ModelProto; use lrpfast.from_onnx\(model\)"):
        lrpfast.load(onnx.ModelProto())
