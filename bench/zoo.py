"""The networks of keras.applications and torchvision, read from memory and from files, beside their own predictions.

    python bench/real_files.py --zoo [NAME ...]

Every network has random weights and statistics, and a small input, so that nothing is downloaded. The table has the
largest difference from the library's own prediction, relative to the prediction's largest value, for each way in.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lrpfast
from lrpfast.errors import LrpfastError

SAMPLES = 2
#: Sizes of images, where 64 is too small or not allowed.
SIZES = {"InceptionV3": 96, "InceptionResNetV2": 96, "Xception": 96, "NASNetMobile": 96, "inception_v3": 96}
SIZES |= {
    "maxvit_t": 224,
    "vit_b_16": 224,
    "vit_b_32": 224,
    "alexnet": 224,
    "vgg11_bn": 224,
    "squeezenet1_0": 96,
    "squeezenet1_1": 96,
    "googlenet": 96,
}
SIZES |= {name: 128 for name in ("VGG16", "VGG19")}
KERAS = (
    *("VGG16", "VGG19", "Xception", "ResNet50", "ResNet50V2", "InceptionV3", "InceptionResNetV2"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "DenseNet121", "NASNetMobile"),
    *("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny"),
)
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
)
#: A way in: its name, what it makes of the library's network, and whether images have channels first.
Reader = tuple[str, Callable[[], lrpfast.Model]]


def randomized(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray | None:
    """Values of a variable that an untrained network has the same for all channels; None for any other."""
    last = name.rpartition("/")[2].rpartition(".")[2]
    if last in ("moving_variance", "running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if last in ("moving_mean", "running_mean", "beta", "bias"):
        return rng.normal(0, 0.1, shape)
    return None


def keras_network(keras: Any, name: str, folder: Path) -> tuple[np.ndarray, np.ndarray, list[Reader]]:
    """One network of keras.applications, of Keras 2 or 3: samples, its own predictions, and the ways in."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    size = SIZES.get(name, 64)
    network = getattr(keras.applications, name)(
        weights=None, classes=10, input_shape=(size, size, 3), classifier_activation=None
    )
    for variable in network.variables:
        values = randomized(getattr(variable, "path", variable.name).removesuffix(":0"), tuple(variable.shape), rng)
        if values is not None:
            variable.assign(values.astype(np.float32))
    x = rng.random((SAMPLES, size, size, 3), dtype=np.float32) * (255 if "Efficient" in name or "V3" in name else 1)
    y = network(x, training=False)
    expected = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    readers: list[Reader] = [("from memory", lambda: lrpfast.from_keras(network))]
    for ending in ("keras", "h5"):
        path = folder / f"{name}.{ending}"
        network.save(path)
        readers.append((f".{ending}", lambda path=path: lrpfast.load(path)))  # type: ignore[misc]
    return x, expected, readers


def torch_network(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray, list[Reader]]:
    """One classifier of torchvision: samples, its own predictions, and the ways in."""
    import torch
    import torchvision

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    module = torchvision.models.get_model(name, weights=None, num_classes=10, **options).eval()
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        values = randomized(key, tuple(tensor.shape), rng)
        if values is None and tensor.is_floating_point() and not tensor.any():  # the head of a vision transformer
            values = rng.normal(0, 0.1, tuple(tensor.shape))
        if values is not None:
            tensor.data.copy_(torch.from_numpy(values))
    x = rng.random((SAMPLES, 3, size, size), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    example = (torch.zeros(2, 3, size, size),)

    def from_file() -> lrpfast.Model:
        path = folder / f"{name}.pt2"
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(module, example, dynamic_shapes=({0: batch},)), path)
        return lrpfast.load(path)

    def from_onnx() -> lrpfast.Model:
        path = folder / f"{name}.onnx"
        torch.onnx.export(module, example, path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "N"}})
        return lrpfast.load(path)

    return (
        x,
        expected,
        [("from memory", lambda: lrpfast.from_torch(module, example)), (".pt2", from_file), (".onnx", from_onnx)],
    )


def difference(make: Callable[[], lrpfast.Model], x: np.ndarray, expected: np.ndarray) -> tuple[str, Any]:
    """How far a way in's prediction is from the library's, or why there is none; and the model."""
    try:
        model = make()
    except LrpfastError as error:
        return "not read: " + str(error).splitlines()[0][:100], None
    except Exception as error:  # the exporter's own
        return f"not exported: {type(error).__name__}", None
    error = np.abs(model.predict(x) - expected).max() / np.abs(expected).max()
    return f"{error:.1e}", model


def line_of(name: str, build: Callable[[str, Path], Any], folder: Path) -> list[str]:
    """A line of the table."""
    begin = time.perf_counter()
    try:
        x, expected, readers = build(name, folder)
    except Exception as error:  # whatever the library raises, such as NASNet with Keras's torch backend
        return [name, f"not built: {str(error)[:80]}", "", "", "", ""]
    cells, model = [], None
    for _, make in readers:
        cell, result = difference(make, x, expected)
        cells.append(cell)
        model = model or result
    finite = ""
    if model is not None:
        explained = lrpfast.Analyzer(model, "epsilon_plus", target="max").analyze(x)
        finite = "yes" if np.isfinite(explained).all() and np.abs(explained).max() > 0 else "NO"
    return [name, *cells, finite, f"{time.perf_counter() - begin:.0f}"]


def main(names: list[str]) -> None:
    """Print a table for each library that is installed: Keras 3 with any backend, Keras 2 as tf_keras, torchvision."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    for library in ("keras", "tf_keras", "torchvision"):
        chosen = [name for name in (TORCHVISION if library == "torchvision" else KERAS) if not names or name in names]
        if not chosen or importlib.util.find_spec(library) is None:
            continue
        package = importlib.import_module(library)
        build = torch_network if library == "torchvision" else functools.partial(keras_network, package)
        head = ("from memory", ".pt2", ".onnx") if library == "torchvision" else ("from memory", ".keras", ".h5")
        columns = (f"{library} {package.__version__}", *head, "relevance finite", "seconds")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
        for name in chosen:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                print(f"| {' | '.join(line_of(name, build, Path(folder)))} |", flush=True)
        print()
