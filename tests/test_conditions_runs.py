"""Conditions in runs of all kinds: other layers, other arrays, other batches, threads, devices.

What flows through a layer's neurons is derived a second time, by two explanations: one of the layer, and one that
starts at the layer from its relevance without that of other neurons.
"""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import test_row_selection
import test_several_inputs
from lrpfast import InputError
from lrpfast import layers as L
from lrpfast.errors import AmplificationWarning
from lrpfast.kernels import Passes, Start
from lrpfast.kernels.contraction_ops import Contract, Redistribute
from lrpfast.kernels.memory_plan import plan_memory, touched
from lrpfast.kernels.passes import check_passes

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def lstm():
    """A year of days, some of them again, and the last state."""
    layer = L.LSTM(
        normal(1, 3, 16) * 0.5, normal(2, 4, 16) * 0.3, normal(3, 16) * 0.1, return_sequences=True, name="days"
    )
    last = L.LSTM(normal(4, 4, 12) * 0.5, normal(5, 3, 12) * 0.3, normal(6, 12) * 0.1, name="last")
    return lrpfast.from_layers([layer, last, L.Dense(normal(7, 3, 2), name="head")], input_shape=(6, 3))


def images():
    layers = [
        L.Conv(normal(1, 3, 3, 2, 4), normal(2, 4), padding="same", activation="relu", name="low"),
        L.MaxPool((2, 2), name="pool"),
        L.Conv(normal(3, 3, 3, 4, 5), normal(4, 5), padding="same", name="high"),
        L.Activation("relu", name="relu"),
        L.Flatten(name="flat"),
        L.Dense(normal(5, 45, 3), name="head"),
    ]
    return lrpfast.from_layers(layers, input_shape=(6, 6, 2))


MODELS = {
    "images": (images, "gamma"),
    "lstm": (lstm, "epsilon"),
    "two inputs": (test_several_inputs.two_inputs, "epsilon"),
    "class token": (test_row_selection.CASES["class token"], "cp_lrp"),
    "attn_lrp": (test_row_selection.CASES["last position"], "attn_lrp"),
    "mask": (test_row_selection.CASES["mask"], "cp_lrp"),
    "gradient": (images, "gradient"),
    "input times gradient": (images, "input_t_gradient"),
}


def inputs(model, count=3):
    shapes = [model.nodes[i].shape for i in model.inputs]
    arrays = [normal(10 + i, count, *shape) for i, shape in enumerate(shapes)]
    arrays = [
        (a > -0.5) if getattr(model.nodes[j].layer, "kind", None) == "truth" else a
        for a, j in zip(arrays, model.inputs, strict=True)
    ]
    return arrays if len(arrays) > 1 else arrays[0]


def listed(relevance):
    return relevance if isinstance(relevance, list) else [relevance]


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_by_two_explanations(name):
    make, rule = MODELS[name]
    model, rng = make(), np.random.default_rng(5)
    x = inputs(model)
    analyzer = lrpfast.Analyzer(model, rule, target="all", precision="float64", device="cpu")
    whole, layers = analyzer.analyze(x), analyzer.explain(x, layers=True).layers
    for layer, relevance in layers.items():
        if layer in [model.nodes[i].name for i in model.inputs]:
            continue
        part = lrpfast.Analyzer(model, rule, start=layer, target=0, precision="float64", device="cpu")
        masks = [rng.random(relevance.shape[1:]) < 0.5, rng.random(relevance.shape[-1:]) < 0.5]
        got = analyzer.analyze(x, conditions=[{layer: mask} for mask in masks])
        past = analyzer.analyze(x, conditions=[{layer: mask} for mask in masks], parallel=True)
        own = [x[model.inputs.index(i)] if len(model.inputs) > 1 else x for i in reached(model, layer)]
        for k, mask in enumerate(masks):
            through, removed = (
                listed(part.analyze(own if len(own) > 1 else own[0], relevance * m)) for m in (mask, ~mask)
            )
            through, removed = (dict(zip(reached(model, layer), r, strict=True)) for r in (through, removed))
            for i, at in enumerate(model.inputs):
                ours, past_it, everything = (listed(r)[i] for r in (got, past, whole))
                np.testing.assert_allclose(ours[:, k], through.get(at, 0 * everything), **CLOSE)
                rest = everything - removed.get(at, 0 * everything)
                np.testing.assert_allclose(past_it[:, k], rest, rtol=1e-8, atol=1e-10)


def reached(model, layer):
    """The inputs that a layer depends on."""
    return [i for i in model.inputs if i in model.needed(layer)]


def test_masked_features():
    model = lrpfast.from_layers([L.Dense(normal(1, 5, 4), normal(2, 4), "relu", name="a"), L.Dense(normal(3, 4, 2))])
    x = normal(4, 6, 5)
    x[::2, 1] = np.nan
    analyzer = lrpfast.Analyzer(model, "epsilon", mask_nan=True, precision="float64", device="cpu")
    got = analyzer.analyze(x, conditions=[{"a": 0}, {"a": 1}, {"a": {2, 3}}])
    np.testing.assert_allclose(got.sum(1), analyzer.analyze(x), **CLOSE)
    assert np.isnan(got[::2, :, 1]).all() and np.isfinite(got[1::2]).all()


def test_arrays_of_all_kinds(tmp_path):
    model = images()
    analyzer, x = lrpfast.Analyzer(model, "epsilon", device="cpu"), inputs(model)
    conditions = [{"high": 1}, {"low": {0, 2}}, {"high": 1}, {"relu": 3, "low": 1}]
    got = analyzer.analyze(x, conditions=conditions)
    np.testing.assert_array_equal(got[:, 0], got[:, 2])
    out = np.empty_like(got)
    assert analyzer.analyze(x, conditions=conditions, out=out) is out
    np.testing.assert_array_equal(out, got)
    with pytest.raises(lrpfast.ShapeError, match=r"out must have shape \(3, 4, 6, 6, 2\)"):
        analyzer.analyze(x, conditions=conditions, out=np.empty(x.shape, np.float32))
    np.testing.assert_array_equal(analyzer.analyze({"input": x}, conditions=conditions)["input"], got)
    assert analyzer.analyze(x[:0], conditions=conditions).shape == (0, 4, 6, 6, 2)
    several = lrpfast.Analyzer(test_several_inputs.two_inputs(), "epsilon", device="cpu")
    a, b = several.analyze(inputs(several.model), 1, conditions=[{"dense": 1}, {"dense": 2}])
    assert a.shape == (3, 2, 3, 2) and b.shape == (3, 2, 4)


def test_tensors():
    torch = pytest.importorskip("torch")
    analyzer, x = lrpfast.Analyzer(images(), "epsilon", device="cpu"), inputs(images())
    got = analyzer.analyze(torch.tensor(x), conditions={"high": 1})
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), analyzer.analyze(x, conditions={"high": 1}))


def test_a_model_with_several_outputs():
    graph = lrpfast.Graph()
    hidden = graph.add(L.Dense(normal(1, 4, 5), activation="relu", name="hidden"), graph.input(4))
    heads = [graph.add(L.Dense(normal(2 + i, 5, 2 + i), name=f"head{i}"), hidden) for i in range(2)]
    model, x = graph.model(*heads), normal(9, 3, 4)
    analyzer = lrpfast.Analyzer(model, "epsilon", precision="float64", device="cpu")
    got = analyzer.analyze(x, {"head1": 2}, conditions=[{"hidden": i} for i in range(5)])
    np.testing.assert_allclose(got.sum(1), analyzer.analyze(x, {"head1": 2}), **CLOSE)
    through = analyzer.analyze(x, {"head1": 2}, conditions={"head1": 2, "hidden": 1})
    np.testing.assert_allclose(through, got[:, 1], **CLOSE)
    assert not analyzer.analyze(x, {"head1": 2}, conditions={"head0": slice(None)}).any()


@pytest.mark.parametrize("parallel", [False, True])
def test_batches_threads_and_memory_do_not_matter(parallel):
    x = normal(3, 70, 6, 6, 2)
    conditions = [{"high": 1, "low": i} for i in range(4)] + [{"low": {0, 2}}, {"high": 4}]
    options = {"conditions": conditions, "parallel": parallel}
    expected = lrpfast.Analyzer(images(), "gamma", threads=1, device="cpu").analyze(x, **options)
    for settings in ({"threads": 3}, {"threads": 2, "memory": 200_000}, {"threads": 1, "memory": 100_000}):
        analyzer = lrpfast.Analyzer(images(), "gamma", device="cpu", **settings)
        np.testing.assert_array_equal(analyzer.analyze(x, **options), expected)
        np.testing.assert_array_equal(analyzer.analyze(x[3:4], **options), expected[3:4])
    with pytest.raises(InputError, match="memory=1,000 bytes is too little"):
        lrpfast.Analyzer(images(), "gamma", memory=1000, device="cpu").analyze(x, **options)


def test_threads_that_share_a_sample(monkeypatch):
    from lrpfast.kernels import cpu

    x, conditions = normal(3, 2, 6, 6, 2), [{"high": 1}, {"low": 2}, {"flat": normal(1, 45) > 0}]
    expected = lrpfast.Analyzer(images(), "gamma", threads=1, device="cpu").analyze(x, conditions=conditions)
    monkeypatch.setattr(cpu, "FLOPS_TO_SHARE", 0)
    monkeypatch.setattr(cpu, "FLOPS_PER_THREAD", 1)
    monkeypatch.setattr(cpu, "CACHE_BYTES", 1)
    got = lrpfast.Analyzer(images(), "gamma", threads=3, device="cpu").analyze(x, conditions=conditions)
    np.testing.assert_array_equal(got, expected)


def test_amplified_relevance_is_warned_of():
    layers = [
        L.Dense(np.array([[1.0, 1.0], [1.0, -1.0]]), name="a"),
        L.Dense(np.array([[1.0], [-1.0]]), np.array([1e-7])),
    ]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers), "zero", precision="float64", device="cpu")
    with pytest.warns(AmplificationWarning, match=r"in 2 of 2 explanations"):
        analyzer.analyze(np.array([[1.0, 0.0]]), conditions=[{"a": 0}, {"a": 1}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.analyze(np.array([[1.0, 1.0]]), conditions={"a": np.zeros(2, bool)})


def test_averages_have_no_hidden_relevance():
    with pytest.raises(InputError, match="averages gradients at the input"):
        lrpfast.Analyzer(images(), "integrated_gradients", device="cpu").analyze(
            inputs(images()), conditions={"low": 0}
        )


# On a GPU


@pytest.mark.parametrize("parallel", [False, True])
def test_on_a_gpu(standin, parallel):
    x = normal(3, 5, 6, 6, 2)
    conditions = [{"high": 1, "low": i} for i in range(4)] + [{"low": {0, 2}}, {"flat": normal(1, 45) > 0}, {"high": 4}]
    results = []
    for device in ("cpu", "gpu"):
        analyzer = lrpfast.Analyzer(images(), "gamma", precision="float64", device=device)
        results += [analyzer.analyze(x, 1, conditions=conditions, parallel=parallel) for _ in range(3)]
    for got in results[1:]:
        np.testing.assert_allclose(got, results[0], **CLOSE)
    on_device = analyzer.analyze(standin_array(x), 1, conditions=conditions, parallel=parallel)
    np.testing.assert_allclose(on_device.get(), results[0], **CLOSE)
    starts = np.eye(3)[np.arange(5) % 3]
    both = [
        lrpfast.Analyzer(images(), "gamma", precision="float64", device=d).analyze(x, starts, conditions=conditions)
        for d in ("cpu", "gpu")
    ]
    np.testing.assert_allclose(*both, **CLOSE)


def standin_array(x):
    import cupy

    return cupy.asarray(x)


def test_what_a_gpu_launches(standin, monkeypatch):
    """One forward pass and partial backward passes, as `test_what_conditions_cost` has them."""
    from lrpfast.kernels.cuda import contractions

    launched = []
    launch = contractions.Contraction.launch
    made = contractions.Contraction.__init__

    def init(self, operation, *arguments):
        made(self, operation, *arguments)
        self.operation = operation

    def counted(self, chunk):
        launched.append(type(self.operation))
        return launch(self, chunk)

    monkeypatch.setattr(contractions.Contraction, "__init__", init)
    monkeypatch.setattr(contractions.Contraction, "launch", counted)
    sizes = [6, 7, 8, 7, 6, 3]
    chain = [L.Dense(normal(i, *s), activation="relu", name=f"d{i}") for i, s in enumerate(itertools.pairwise(sizes))]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers(chain), "epsilon", device="gpu")
    starts = normal(2, 4, 3)  # for these nothing but the run itself is computed
    for parallel in (False, True):
        analyzer.analyze(normal(1, 4, 6), starts, conditions=[{"d2": i} for i in range(5)], parallel=parallel)
        assert (launched.count(Contract), launched.count(Redistribute)) == (5, 2 + 5 * 3)
        launched.clear()


# Programs


def conditional_program():
    analyzer = lrpfast.Analyzer(images(), "gamma", device="cpu")
    analyzer.analyze(inputs(images()), conditions=[{"high": 1, "low": 0}, {"low": 1}, {"head": 1}])
    ((conditional, _),) = analyzer._core._programs._conditional.values()
    return conditional.program


def test_what_several_segments_use_has_memory_of_its_own():
    program = conditional_program()
    offsets, _ = plan_memory(program)
    parts = [(*program.forward,), *(program.backward[low:high] for low, high in program.parts)]
    users = {}
    for i, part in enumerate(parts):
        for operation in part:
            for b in set.union(*touched(operation)):
                users.setdefault(b, set()).add(i)
    shared = {b for b, of in users.items() if len(of) > 1 and offsets[b] >= 0}
    assert any(min(users[b]) > 0 for b in shared)  # from one segment to another
    for b, other in itertools.product(shared, users):
        in_backward = max(users[other]) > 0
        if b != other and offsets[other] >= 0 and in_backward and program.sizes[other]:
            apart = (
                offsets[b] + program.sizes[b] <= offsets[other] or offsets[other] + program.sizes[other] <= offsets[b]
            )
            assert apart, (b, other)


ONES = np.ones(4, np.uint8)


def passes(steps=((0, 0, 4),), first=(0, 1), masks=ONES):
    return Passes(np.array(steps, np.int64).reshape(-1, 3), np.array(first, np.int64), masks)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "needs passes"),
        (passes(steps=[(9, 0, 4)]), "none of"),
        (passes(steps=[(-1, 0, 4)]), "none of"),
        (passes(steps=[(0, 1, 4)]), "does not fit"),
        (passes(steps=[(0, 0, 0)]), "does not fit"),
        (passes(steps=[(0, 0, 5)], masks=np.ones(5, np.uint8)), "does not fit"),
        (passes(steps=[(0, -1, 4)]), "does not fit"),
        (passes(first=(0, 2)), "each target's passes"),
        (passes(first=(1, 1)), "each target's passes"),
        (passes(first=(0, 1, 0, 1)), "each target's passes"),
        (passes(masks=np.ones(4)), "contiguous arrays"),
        (passes(masks=np.ones(8, np.uint8)[::2]), "contiguous arrays"),
    ],
)
def test_wrong_passes(wrong, message):
    """No kernel reads outside of masks or runs what is no segment."""
    with pytest.raises(ValueError, match=message):
        check_passes(wrong, conditional_program())


def test_starts_keep_their_passes():
    start = Start("index", np.arange(3), step=1).with_passes(passes(steps=[(0, 0, 4)] * 2, first=(0, 1, 2)))
    part = start.part(slice(1, 2))
    assert part.passes is start.passes and part.count == 2 and part.starts == 1
    assert part.passes.of(1) == [[0, 0, 4]]


# Data sets


CONDITIONS = [{"high": 1}, {"low": {0, 2}, "high": slice(0, 3)}, {"high": 1}, {"flat": normal(1, 45) > 0}]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", ["npy", "h5", "nc", "zarr", "npz"])
def test_streams(kind, parallel, tmp_path):
    """Files, statistics and the arrays beside the relevance, chunk by chunk."""
    if kind in ("nc", "zarr"):
        pytest.importorskip({"nc": "netCDF4", "zarr": "zarr"}[kind])
    x, options = normal(3, 20, 6, 6, 2), {"parallel": parallel, "progress": False}
    analyzer = lrpfast.Analyzer(images(), "gamma", precision="float64", device="cpu")
    expected = analyzer.analyze(x, conditions=CONDITIONS, parallel=parallel)
    if kind == "npz":
        done = analyzer.stream(x, statistics=tmp_path / "s.npz", conditions=CONDITIONS, batch_size=6, **options)
        np.testing.assert_allclose(done.statistics.mean[0], expected.mean(0), atol=1e-12)
        return
    path = tmp_path / f"r.{kind}"
    done = analyzer.stream(x, path, conditions=CONDITIONS, batch_size=6, statistics=True, **options)
    with lrpfast.batch.open_source(path) as source:
        np.testing.assert_array_equal(source.read(0, 20), expected)
    np.testing.assert_allclose(done.statistics.mean[0], expected.mean(0), atol=1e-12)
    assert done.explanations == 80
    single = tmp_path / f"one.{kind}"
    analyzer.stream(x, single, conditions=CONDITIONS[1], normalize="l1", **options)
    with lrpfast.batch.open_source(single) as source:
        maps = source.read(0, 20)
    sizes = np.abs(expected[:, 1]).sum((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(maps, expected[:, 1] / sizes, atol=1e-12)


def test_what_files_of_conditions_hold(tmp_path):
    xarray, h5py = pytest.importorskip("xarray"), pytest.importorskip("h5py")
    x = xarray.DataArray(normal(3, 9, 6, 6, 2), dims=("time", "y", "x", "channel"), coords={"time": np.arange(9)})
    analyzer = lrpfast.Analyzer(images(), "epsilon", precision="float64", device="cpu")
    analyzer.stream(x, tmp_path / "r.h5", conditions=CONDITIONS, progress=False)
    with h5py.File(tmp_path / "r.h5") as file:
        relevance = file["relevance"]
        assert [dim[0].name for dim in list(relevance.dims)[:1]] == ["/time"]
        assert relevance.dims[1].label == "condition"
        assert file["explained_output"].shape == (9,) and file["target"].shape == (9,)
        share = relevance[:].sum((2, 3, 4)) / file["explained_output"][:][:, None]
        np.testing.assert_allclose(file["relevance_share"][:], share, rtol=1e-9)
        assert file.attrs["conditions"].startswith("high=1 | low=0,2; high=0:3 | high=1 | flat=")


def test_a_stream_under_conditions_goes_on(tmp_path):
    """With the same conditions; not with others, or without."""

    class Stop(Exception):
        pass

    def stop(count):
        raise Stop

    x, path = normal(3, 40, 6, 6, 2), tmp_path / "r.npy"
    analyzer = lrpfast.Analyzer(images(), "epsilon", device="cpu")
    with pytest.raises(Stop):
        analyzer.stream(x, path, conditions=CONDITIONS, batch_size=7, progress=stop)
    for options in ({"conditions": CONDITIONS[:2]}, {"conditions": CONDITIONS, "parallel": True}, {}):
        with pytest.raises(InputError, match="unfinished"):
            analyzer.stream(x, path, batch_size=7, progress=False, **options)
    done = analyzer.stream(x, path, conditions=CONDITIONS, batch_size=7, progress=False)
    assert done.resumed > 0
    np.testing.assert_array_equal(np.load(path), analyzer.analyze(x, conditions=CONDITIONS))


def test_wrong_options_of_streams(tmp_path):
    analyzer, x = lrpfast.Analyzer(images(), "epsilon", device="cpu"), normal(3, 4, 6, 6, 2)
    for options, message in (
        ({"parallel": True}, "parallel goes with conditions"),
        ({"conditions": {"high": 1}, "layers": "low"}, "layers= replaces"),
        ({"conditions": 3}, "conditions must map"),
        ({"conditions": {"nope": 1}}, "unknown layer 'nope'"),
        ({"conditions": {"high": 1}, "target": np.zeros((4, 2), int)}, "one target per sample"),
    ):
        with pytest.raises(InputError, match=message):
            analyzer.stream(x, tmp_path / "r.npy", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    from lrpfast.cli import main

    paths = {name: str(tmp_path / name) for name in ("m.npz", "x.npy", "r.npy", "mask.npy")}
    x, mask = normal(3, 5, 6, 6, 2), normal(1, 45) > 0
    images().save(paths["m.npz"])
    np.save(paths["x.npy"], x)
    np.save(paths["mask.npy"], mask)
    command = [
        "explain",
        paths["m.npz"],
        paths["x.npy"],
        "--rule",
        "epsilon",
        "--quiet",
        "--force",
        "-o",
        paths["r.npy"],
    ]
    analyzer = lrpfast.Analyzer(images(), "epsilon")
    for texts, conditions in (
        (["high=1"], {"high": 1}),
        (["high=-1,2; low=0:2"], {"high": [-1, 2], "low": slice(0, 2)}),
        (["high=1", "high=:3", f"flat={paths['mask.npy']}"], [{"high": 1}, {"high": slice(3)}, {"flat": mask}]),
    ):
        for parallel in (False, True):
            options = [part for text in texts for part in ("--condition", text)] + ["--parallel"] * parallel
            assert main([*command, *options]) == 0
            expected = analyzer.analyze(x, conditions=conditions, parallel=parallel)
            np.testing.assert_array_equal(np.load(paths["r.npy"]), expected)
    capsys.readouterr()
    for options, message in (
        (["--condition", "high"], "LAYER=CHANNELS"),
        (["--condition", "hihg=1"], "did you mean 'high'"),
        (["--condition", "high=x"], "5, 5,7 or 0:8"),
        (["--condition", "high=1;high=2"], "names 'high' twice"),
        (["--condition", "high=9"], "has channels 0 to 4"),
        (["--parallel"], "parallel goes with conditions"),
        (["--condition", "high=1", "--condition", "high=2", "--plot", "p.png"], "one --condition"),
    ):
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err, options
