"""Pictures, by their structure: what is drawn where, in which colours and under which names. No pixels."""

import os
import re
import sys
import warnings

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import InputError, ShapeError
from lrpfast.plot import heatmap, save, timeline
from lrpfast.plot.samples import MOST_PANELS

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

RNG = seeds.generator(3)
IMAGES = RNG.normal(size=(5, 6, 7, 3))
SEQUENCES = RNG.normal(size=(3, 20, 2))
VECTORS = RNG.normal(size=(4, 12)).astype(np.float32)
NAN = np.nan
LIMITED = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() != 0


def panels(figure):
    """The samples' axes, without colour bars and input axes."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_ylabel() != "input"]


def drawn(figure):
    """What each panel's image shows, NaN where masked."""
    return [np.ma.filled(ax.images[-1].get_array(), NAN) for ax in panels(figure)]


def ends(figure):
    """The end of each panel's colours, which are symmetric, or begin at zero where nothing is negative."""
    limits = [ax.images[-1].get_clim() for ax in panels(figure)]
    assert all(high > 0 and low in (-high, 0) for low, high in limits)
    return [high for _, high in limits]


def bar(figure):
    (ax,) = (ax for ax in figure.axes if ax.get_label() == "<colorbar>")
    return ax._colorbar


def bars(ax):
    """(feature, height) of each bar of a vector."""
    return [(int(round(p.vertices[:, 0].mean())), p.vertices[:4, 1].sum() / 2) for p in ax.collections[0].get_paths()]


# What is drawn


def test_images():
    figure = heatmap(IMAGES)
    np.testing.assert_allclose(drawn(figure), IMAGES.sum(-1))
    np.testing.assert_allclose(ends(figure), np.abs(IMAGES.sum(-1)).max((1, 2)))
    assert [ax.get_title().split("\n")[0] for ax in panels(figure)] == [f"sample {i}" for i in range(5)]
    assert all("±" in ax.get_title() for ax in panels(figure))
    assert bar(figure).extend == "neither" and bar(figure).ax.get_ylabel().startswith("relevance")
    assert figure.get_suptitle() == ""


def test_summed_channels_are_told():
    def label(*arguments, **keywords):
        return bar(heatmap(*arguments, **keywords)).ax.get_ylabel()

    assert label(IMAGES).split("\n")[:2] == ["relevance", "summed over 3 channels"]
    assert label(IMAGES[:1], scale="shared") == "relevance\nsummed over 3 channels"
    assert "summed over 2 channels" in label(SEQUENCES, channels="sum")
    for one in (label(IMAGES[..., :1]), label(IMAGES, channels=0), label(SEQUENCES), label(SEQUENCES, channels=0)):
        assert "summed" not in one
    assert "summed" not in label(VECTORS, shape=(3, 4)) + label(VECTORS, kind="sequence", channels="sum")


def test_a_channel():
    np.testing.assert_array_equal(drawn(heatmap(IMAGES, channels=1)), IMAGES[..., 1])
    figure = heatmap(SEQUENCES, channels=1)
    np.testing.assert_array_equal(drawn(figure)[0], SEQUENCES[0, :, 1:].T)
    np.testing.assert_allclose(drawn(heatmap(SEQUENCES, channels="sum"))[0], SEQUENCES[0].sum(-1)[None])


CHANNELS_FIRST = np.moveaxis(IMAGES, -1, 1)


def test_channels_first():
    """Where an image's channels are shows in its sizes; of a sequence it must be said."""
    figure = heatmap(CHANNELS_FIRST, CHANNELS_FIRST)
    np.testing.assert_allclose(drawn(figure), IMAGES.sum(-1))
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), IMAGES[0].mean(-1))
    np.testing.assert_array_equal(drawn(heatmap(CHANNELS_FIRST, channels=1)), IMAGES[..., 1])
    figure = heatmap(SEQUENCES.swapaxes(1, 2), channels_first=True, features=["wind", "rain"])
    np.testing.assert_array_equal(drawn(figure), SEQUENCES.swapaxes(1, 2))


@pytest.mark.parametrize(
    "shape",
    [(6, 6, 16), (6, 7, 16), (12, 64, 16), (16, 6, 6), (3, 3, 3), (3, 9, 3), (9, 3, 9), (1, 9, 3), (3, 9, 1)],
    ids=str,
)
def test_channels_that_sizes_do_not_tell(shape):
    r = RNG.normal(size=(2, *shape))
    np.testing.assert_allclose(drawn(heatmap(r, r, channels_first=True)), r.sum(1))
    np.testing.assert_allclose(drawn(heatmap(r, r, channels_first=False)), r.sum(-1))
    message = re.escape(f"relevance of shape (samples, {', '.join(map(str, shape))})") + ".* channels_first=True or"
    with pytest.raises(InputError, match=message):
        heatmap(r)


def test_an_input_has_its_channels_where_the_relevance_has_them():
    r = RNG.normal(size=(2, 6, 7, 1))
    x = RNG.normal(size=(2, 6, 7, 16))
    np.testing.assert_allclose(panels(heatmap(r, x))[0].images[0].get_array(), x[0].mean(-1))
    np.testing.assert_allclose(panels(heatmap(r, x[..., 0]))[0].images[0].get_array(), x[0, ..., 0])


def test_images_without_channels():
    np.testing.assert_array_equal(drawn(heatmap(IMAGES[..., 0], kind="image")), IMAGES[..., 0])


def test_vectors_folded_into_images():
    np.testing.assert_array_equal(drawn(heatmap(VECTORS, shape=(3, 4))), VECTORS.reshape(4, 3, 4))
    np.testing.assert_allclose(drawn(heatmap(VECTORS, shape=(2, 6, 1))), VECTORS.reshape(4, 2, 6, 1).sum(-1), rtol=1e-6)
    figure = heatmap(VECTORS, shape=(6, 2), kind="sequence")
    np.testing.assert_array_equal(drawn(figure)[1], VECTORS[1].reshape(6, 2).T)


def test_points_of_a_grid():
    mask = np.zeros((4, 5), bool)
    mask.ravel()[[0, 2, 3, 4, 6, 7, 9, 11, 12, 15, 17, 19]] = True
    figure = heatmap(VECTORS, VECTORS, mask=mask, origin="lower")
    for got, row in zip(drawn(figure), VECTORS, strict=True):
        np.testing.assert_array_equal(got[mask], row)
        assert np.isnan(got[~mask]).all()
    image = panels(figure)[0].images[-1]
    assert image.origin == "lower"
    image = panels(heatmap(VECTORS, mask=mask))[0].images[-1]
    assert image.origin == "upper" and image.get_cmap().get_bad()[0] == pytest.approx(0.8)


def test_sequences():
    figure = heatmap(SEQUENCES, SEQUENCES, features=["wind", "rain"])
    np.testing.assert_array_equal(drawn(figure), SEQUENCES.swapaxes(1, 2))
    for ax, sample in zip(panels(figure), SEQUENCES, strict=True):
        assert [t.get_text() for t in ax.get_yticklabels()] == ["wind", "rain"]
        for c, line in enumerate(ax.lines):  # each over its own row, upwards, on the channel's scale over all samples
            every = SEQUENCES[..., c]
            share = (sample[:, c] - every.min()) / np.ptp(every)
            np.testing.assert_allclose(line.get_ydata(), c + 0.4 - 0.8 * share)
    assert panels(figure)[-1].get_xlabel() == "step"
    assert not heatmap(SEQUENCES).axes[0].lines
    np.testing.assert_array_equal(drawn(heatmap(VECTORS, kind="sequence")), VECTORS[:, None])


def test_vectors():
    figure = heatmap(VECTORS)
    assert len(figure.axes) == len(VECTORS) and figure.get_supylabel() == "relevance"
    for ax, row in zip(figure.axes, VECTORS, strict=True):
        assert [k for k, _ in bars(ax)] == list(range(12))
        np.testing.assert_allclose([height for _, height in bars(ax)], row, rtol=1e-6)
        colours = ax.collections[0].get_facecolor()
        red = colours[:, 0] > colours[:, 2]
        np.testing.assert_array_equal(red, row > 0)
        low, high = ax.get_ylim()
        assert low == -high and high > np.abs(row).max()


def test_vectors_with_inputs_and_names():
    names = [f"f{i}" for i in range(12)]
    figure = heatmap(VECTORS, VECTORS * 3, features=names, labels=list("abcd"))
    assert [t.get_text() for t in panels(figure)[-1].get_xticklabels()] == names
    twins = [ax for ax in figure.axes if ax.get_ylabel() == "input"]
    assert len(twins) == 4
    for ax, row in zip(twins, VECTORS, strict=True):
        np.testing.assert_allclose(ax.patches[0].get_data().values, row * 3, rtol=1e-6)
        assert ax.get_ylim()[0] == -ax.get_ylim()[1]  # its zero is the bars' zero
    assert [ax.get_title() for ax in panels(figure)] == list("abcd")


def test_an_input_beneath_an_image():
    x = np.abs(IMAGES)
    figure = heatmap(IMAGES, x)
    for ax, sample in zip(panels(figure), x, strict=True):
        below, above = ax.images
        np.testing.assert_allclose(below.get_array(), sample.mean(-1))
        colours = above.get_cmap()
        assert [colours(v)[3] for v in (0.0, 0.5, 1.0)] == [1, 0, 1]  # opaque at the ends, clear in the middle
        assert colours(0.75)[3] == pytest.approx(0.5, abs=0.01)
        assert colours(0.9)[0] > colours(0.9)[2] and colours(0.1)[2] > colours(0.1)[0]
    np.testing.assert_allclose(drawn(figure), IMAGES.sum(-1))
    for inputs in (x, np.moveaxis(x, -1, 1)):  # relevance summed before, inputs in colour
        figure = heatmap(IMAGES[..., 0], inputs, kind="image")
        np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), x[0].mean(-1))


def test_nan_over_an_input_is_none_of_its_greys():
    """Land is told from ocean: both layers are clear there, and what lies beneath is hatched."""
    r, x = IMAGES[..., 0].copy(), IMAGES[..., 1]
    r[:, 2:4, 1] = NAN
    (ax, *_) = panels(heatmap(r, x, kind="image"))
    for image in ax.images:
        assert image.get_cmap()(np.ma.masked)[3] == 0
        np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), np.isnan(r[0]))
    red, _, blue, _ = ax.patch.get_facecolor()
    assert ax.patch.get_hatch() and red - blue > 0.2
    assert not panels(heatmap(r, kind="image"))[0].patch.get_hatch()


# Scales


def test_a_scale_for_all():
    figure = heatmap(IMAGES, scale="shared")
    assert set(ends(figure)) == {np.abs(IMAGES.sum(-1)).max()}
    assert bar(figure).vmax == np.abs(IMAGES.sum(-1)).max() == -bar(figure).vmin
    assert not any("±" in ax.get_title() for ax in panels(figure))


def test_one_sample_has_its_numbers_at_the_bar():
    figure = heatmap(IMAGES[:1])
    assert bar(figure).vmax == np.abs(IMAGES[0].sum(-1)).max() and panels(figure)[0].get_title() == "sample 0"


@pytest.mark.parametrize("scale", ["sample", "shared"])
def test_percentile(scale):
    r = IMAGES[..., :1]
    figure = heatmap(r, percentile=80, scale=scale)
    expected = [np.percentile(np.abs(r if scale == "shared" else sample), 80) for sample in r]
    np.testing.assert_allclose(ends(figure), expected)
    np.testing.assert_array_equal(drawn(figure), r[..., 0])  # clipped by the colours alone
    assert bar(figure).extend == "both"


@pytest.mark.parametrize(("sign", "extend"), [(1, "max"), (-1, "min")])
def test_clipped_on_one_side(sign, extend):
    r = np.full((1, 4, 4, 1), -0.1 * sign)
    r[0, 0, 0, 0] = 5 * sign
    assert bar(heatmap(r, percentile=90)).extend == extend


def test_a_percentile_leaves_out_zeros():
    """Sparse relevance is not blown up: zeros and masked features do not count."""
    r = np.zeros((1, 10, 10, 1))
    r[0, 0, :4, 0] = [1, 2, 3, NAN]
    assert ends(heatmap(r, percentile=50)) == [2]


def test_clipped_bars_have_a_mark():
    ax = heatmap(VECTORS[:1], percentile=50).axes[0]
    end = np.percentile(np.abs(VECTORS[0].astype(float)), 50)
    assert max(abs(height) for _, height in bars(ax)) == pytest.approx(end)
    marks = {line.get_marker(): set(line.get_xdata()) for line in ax.lines if line.get_marker() in ("^", "v")}
    assert marks == {"^": set(np.flatnonzero(VECTORS[0] > end)), "v": set(np.flatnonzero(VECTORS[0] < -end))}


@pytest.mark.parametrize("scale", ["sample", "shared"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 1), (2, 9, 2), (2, 5)], ids=["image", "sequence", "vector"])
@pytest.mark.parametrize("value", [0.0, -0.0, NAN, 1e-40, 3e38], ids=str)
def test_extremes(value, shape, scale, tmp_path):
    """All zero, all masked, tiny and huge relevance and inputs can be drawn."""
    r = np.full(shape, value, np.float32)
    figure = heatmap(r, r, scale=scale, percentile=99)
    save(figure, tmp_path / "r.png")
    if len(shape) > 2:
        size = abs(float(np.float32(value))) if np.isfinite(value) and value else 1.0
        assert ends(figure) == [size, size]
        if scale == "sample" and size == 1:
            assert panels(figure)[0].get_title() == "sample 0\nall 0"


def test_masked_features_of_a_vector():
    r = VECTORS[:1].copy()
    r[0, 3] = NAN
    ax = heatmap(r).axes[0]
    assert 3 not in [k for k, _ in bars(ax)]
    assert len(ax.patches) == 1  # the grey stripe


def test_many_features(tmp_path):
    """Of very many features the largest are drawn, by name; all of them on request."""
    values = RNG.normal(size=(1, 31_811))
    names = [f"point {i}" for i in range(31_811)]
    ax = heatmap(values, values, features=names).axes[0]
    order = np.argsort(-np.abs(values[0]))[:20]
    np.testing.assert_array_equal([bar.get_width() for bar in ax.patches], values[0, order])
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"point {i} = {values[0, i]:.3g}" for i in order]
    assert ax.get_xlabel() == "relevance" and ax.get_ylim()[0] > ax.get_ylim()[1]
    figure = heatmap(values, largest=False)
    assert figure.axes[0].collections[0].get_rasterized()
    save(figure, tmp_path / "r.svg")
    assert (tmp_path / "r.svg").stat().st_size < 500_000
    assert len(heatmap(VECTORS, largest=True).axes[0].patches) == 12


# The grid and its names


def test_samples_left_out_are_told():
    figure = heatmap(np.tile(VECTORS, (5, 1)), shape=(3, 4))
    assert len(panels(figure)) == 16 and figure.get_suptitle() == "first 16 of 20 samples"
    figure = heatmap(VECTORS, limit=2, title="gamma", labels=["a", "b", "c", "d"])
    assert figure.get_suptitle() == "gamma: first 2 of 4 samples"
    assert [ax.get_title() for ax in panels(figure)] == ["a", "b"]


def test_only_the_samples_shown_are_read(tmp_path):
    np.save(tmp_path / "r.npy", np.zeros((3, 4)))
    mapped = np.load(tmp_path / "r.npy", mmap_mode="r")
    endless = np.broadcast_to(mapped[0], (10**12, 4))
    assert heatmap(endless, limit=2).get_suptitle() == "first 2 of 1,000,000,000,000 samples"


def test_rows_and_columns():
    r = RNG.normal(size=(6, 12))
    figure = heatmap(r, shape=(3, 4), rows=["cat", "dog"], columns=["epsilon", "gamma", "flat"], scale="shared")
    axes = panels(figure)
    assert axes[0].get_subplotspec().get_geometry()[:2] == (2, 3)
    assert [ax.get_title() for ax in axes] == ["epsilon", "gamma", "flat", "", "", ""]
    assert [ax.get_ylabel() for ax in axes] == ["cat", "", "", "dog", "", ""]
    assert panels(heatmap(r, shape=(3, 4), columns=4))[0].get_subplotspec().get_geometry()[:2] == (2, 4)


def test_names_are_not_read_as_formulas(tmp_path):
    figure = heatmap(VECTORS[:2], labels=["$x^", "_{$"], features=["$a"] * 12, title="$$")
    save(figure, tmp_path / "r.png")
    save(heatmap(SEQUENCES[:2], rows=["$a", "b$^"], columns=["$"], features=["$", "%"]), tmp_path / "r.png")
    assert figure.axes[0].get_title() == "$x^"


# It touches nothing else


def test_it_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    heatmap(VECTORS, VECTORS)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    assert dict(matplotlib.rcParams) == before


def test_arguments_are_left_as_they_were():
    r = IMAGES.copy()
    r.flags.writeable = False
    heatmap(r, r, percentile=50)
    np.testing.assert_array_equal(r, IMAGES)


def test_what_explains_is_what_is_drawn():
    model = lrpfast.from_layers([lrpfast.layers.Dense(RNG.normal(size=(6, 3)))])
    relevance = lrpfast.Analyzer(model, "epsilon").analyze(RNG.normal(size=(2, 6)))
    np.testing.assert_array_equal(drawn(lrpfast.plot.heatmap(relevance, shape=(2, 3))), relevance.reshape(2, 2, 3))


def test_explanations():
    model = lrpfast.from_layers([lrpfast.layers.Dense(RNG.normal(size=(6, 3)))])
    explanation = lrpfast.Analyzer(model, "epsilon").explain(RNG.normal(size=(2, 6)))
    np.testing.assert_array_equal(drawn(heatmap(explanation, kind="sequence")), explanation.relevance[:, None])


def test_an_explanation_of_several_inputs():
    graph = lrpfast.Graph()
    total = graph.add(lrpfast.layers.Add(), graph.input(3), graph.input(3))
    explanation = lrpfast.Analyzer(graph.model(total), "epsilon").explain([np.ones((2, 3)), np.ones((2, 3))])
    with pytest.raises(InputError, match=r"a model with 2 inputs; draw one of them: explanation\.relevance\[0\]"):
        heatmap(explanation)
    heatmap(explanation.relevance[0])


def test_arrays_of_pytorch():
    torch = pytest.importorskip("torch")
    r = torch.tensor(VECTORS, requires_grad=True)
    figure = heatmap(r, r.bfloat16(), kind="sequence", labels=torch.arange(4))
    np.testing.assert_array_equal(drawn(figure), VECTORS[:, None])
    assert [ax.get_title().split("\n")[0] for ax in panels(figure)] == list("0123")


def test_arrays_of_xarray():
    xarray = pytest.importorskip("xarray")
    r = xarray.DataArray(VECTORS, dims=("sample", "feature"), coords={"feature": [f"f{i}" for i in range(12)]})
    figure = heatmap(r, r, features=r.coords["feature"])
    assert [t.get_text() for t in panels(figure)[-1].get_xticklabels()] == [f"f{i}" for i in range(12)]


def test_of_lazy_arrays_only_the_samples_shown_are_computed():
    dask = pytest.importorskip("dask.array")

    def block(info):
        assert info[0]["array-location"][0][0] < 4
        return VECTORS

    chunks = dask.zeros((4_000_000, 12), chunks=(4, 12), dtype=np.float32)[:400]
    lazy = dask.map_blocks(lambda part, block_info: block(block_info), chunks, dtype=np.float32)
    np.testing.assert_array_equal(drawn(heatmap(lazy, limit=3, kind="sequence")), VECTORS[:3, None])


def test_arrays_on_a_gpu(standin):
    cupy = sys.modules["cupy"]
    r = cupy.asarray(VECTORS)
    mask = cupy.asarray(np.ones((3, 4), bool))
    np.testing.assert_array_equal(drawn(heatmap(r, r, mask=mask)), VECTORS.reshape(4, 3, 4))


def test_save(tmp_path):
    figure = heatmap(VECTORS)
    for name, head in {"a.png": b"\x89PNG", "a.PDF": b"%PDF", "a.svg": b"<?xml"}.items():
        save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(InputError, match=r"ends in \.png, \.pdf, \.svg"):
        save(figure, tmp_path / "a.jpeg")
    before = (tmp_path / "a.png").read_bytes()
    wrong = {
        "figure must be a matplotlib Figure": {"figure": None},
        "figure must be": {"figure": figure.axes[0]},
        "dpi must be a number above 0, not 0": {"dpi": 0},
        "dpi must be": {"dpi": "100"},
        "dpi must be a number above 0, not nan": {"dpi": NAN},
        "path must be a file's name, not None": {"path": None},
        "path must be": {"path": b"a.png"},
        "there is no folder": {"path": tmp_path / "no" / "a.png"},
    }
    for message, arguments in wrong.items():
        with pytest.raises(InputError, match=message):
            save(**{"figure": figure, "path": tmp_path / "a.png", **arguments})
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(not LIMITED, reason="nothing is forbidden to root")
def test_a_folder_that_must_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="is not writeable"):
        save(heatmap(VECTORS), tmp_path / "a.png")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(lrpfast.errors.MissingPackageError, match=re.escape("pip install matplotlib")) as caught:
        heatmap(VECTORS)
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, lrpfast.LrpfastError)


# What is wrong

WRONG = {
    "one sample": (ShapeError, lambda: heatmap(VECTORS[0]), "x[None]"),
    "one image": (ShapeError, lambda: heatmap(IMAGES[0, ..., 0], kind="image"), "x[None]"),
    "one folded": (ShapeError, lambda: heatmap(IMAGES[0, ..., 0], shape=(6, 7)), "x[None]"),
    "a number": (ShapeError, lambda: heatmap(3.0), "(samples, …)"),
    "flat images": (ShapeError, lambda: heatmap(VECTORS, kind="image"), "shape=(height, width)"),
    "volumes": (ShapeError, lambda: heatmap(np.zeros((2, 3, 3, 3, 1))), "give a slice"),
    "vectors of images": (ShapeError, lambda: heatmap(IMAGES, kind="vector"), "(samples, features)"),
    "no samples": (InputError, lambda: heatmap(VECTORS[:0]), "nothing to draw"),
    "complex": (InputError, lambda: heatmap(VECTORS * 1j), "real numbers"),
    "text": (InputError, lambda: heatmap("relevance.npy"), "relevance"),
    "texts": (InputError, lambda: heatmap([["a", "b"]]), "relevance must be real numbers"),
    "nothing": (InputError, lambda: heatmap(None), "relevance"),
    "complex input": (InputError, lambda: heatmap(VECTORS, VECTORS * 1j), "input must be real numbers"),
    "ragged input": (InputError, lambda: heatmap(VECTORS, [[1.0], [1.0, 2.0]]), "input cannot be made an array"),
    "ragged mask": (InputError, lambda: heatmap(VECTORS, mask=[[True], [True, False]]), "mask cannot be made"),
    "labels of labels": (InputError, lambda: heatmap(VECTORS, labels=np.ones((4, 2))), "labels must be a sequence"),
    "a label": (InputError, lambda: heatmap(VECTORS, labels=np.array("a")), "labels must be a sequence"),
    "ragged": (InputError, lambda: heatmap([[1.0], [1.0, 2.0]]), "array"),
    "infinite": (InputError, lambda: heatmap([[1.0, np.inf]]), "relevance[0, 1] is infinite"),
    "kind": (InputError, lambda: heatmap(VECTORS, kind="picture"), "kind must be one of"),
    "scale": (InputError, lambda: heatmap(VECTORS, scale="log"), "scale must be one of"),
    "origin": (InputError, lambda: heatmap(VECTORS, origin="left"), "origin must be one of"),
    "origin of a sequence": (InputError, lambda: heatmap(SEQUENCES, origin="lower"), "origin is for images"),
    "origin of a vector": (InputError, lambda: heatmap(VECTORS, origin="lower"), "as kind 'vector'; kind='image'"),
    "percentile": (InputError, lambda: heatmap(VECTORS, percentile=0), "percentile must be"),
    "percentile nan": (InputError, lambda: heatmap(VECTORS, percentile=NAN), "percentile must be"),
    "percentile text": (InputError, lambda: heatmap(VECTORS, percentile="99"), "percentile must be"),
    "limit": (InputError, lambda: heatmap(VECTORS, limit=0), "limit must be"),
    "limit too high": (InputError, lambda: heatmap(VECTORS, limit=MOST_PANELS + 1), "100 panels at most"),
    "limit text": (InputError, lambda: heatmap(VECTORS, limit="all"), "limit must be"),
    "shape": (ShapeError, lambda: heatmap(VECTORS, shape=(3, 5)), "(samples, 3, 5)"),
    "shape text": (InputError, lambda: heatmap(VECTORS, shape="3x4"), "shape must be"),
    "shape of zero": (InputError, lambda: heatmap(VECTORS, shape=(0, 4)), "shape must be"),
    "mask of numbers": (InputError, lambda: heatmap(VECTORS, mask=np.ones((3, 4))), "boolean grid"),
    "mask of others": (ShapeError, lambda: heatmap(VECTORS, mask=np.ones((3, 5), bool)), "(samples, 15)"),
    "mask and shape": (ShapeError, lambda: heatmap(VECTORS, mask=np.ones((3, 4), bool), shape=(4, 3)), "shape differ"),
    "mask and kind": (InputError, lambda: heatmap(VECTORS, mask=np.ones((3, 4), bool), kind="vector"), "for images"),
    "channel": (InputError, lambda: heatmap(IMAGES, channels=3), "channels 0 to 2"),
    "channels": (InputError, lambda: heatmap(IMAGES, channels="mean"), "sum, each or an index"),
    "each of images": (InputError, lambda: heatmap(IMAGES, channels="each"), "for sequences"),
    "channels of vectors": (InputError, lambda: heatmap(VECTORS, channels=0), "not for vectors"),
    "channels first of vectors": (InputError, lambda: heatmap(VECTORS, channels_first=True), "not for vectors"),
    "channels first": (InputError, lambda: heatmap(IMAGES, channels_first="yes"), "channels_first must be True"),
    "features of images": (InputError, lambda: heatmap(IMAGES, features=["a"]), "images have none"),
    "features": (InputError, lambda: heatmap(VECTORS, features=["a"]), "1 features are named, but there are 12"),
    "labels": (InputError, lambda: heatmap(VECTORS, labels=["a"]), "1 labels for 4 samples"),
    "one label": (InputError, lambda: heatmap(VECTORS, labels="abcd"), "must be a sequence"),
    "rows": (InputError, lambda: heatmap(VECTORS, rows=["a", "b", "c"], columns=["x", "y"]), "3 rows"),
    "columns": (InputError, lambda: heatmap(VECTORS, columns=0), "columns must be"),
    "labels and columns": (InputError, lambda: heatmap(VECTORS, labels=list("abcd"), columns=["x"]), "one of them"),
    "inputs of others": (ShapeError, lambda: heatmap(VECTORS, VECTORS[:, :5]), "input"),
    "fewer inputs": (ShapeError, lambda: heatmap(VECTORS, VECTORS[:3]), "4 relevances, but 3 inputs"),
    "input images": (ShapeError, lambda: heatmap(IMAGES, IMAGES[:, :5]), "input"),
    "colour map": (InputError, lambda: heatmap(VECTORS, cmap="red"), "no colour map named 'red'"),
    "no colour map": (InputError, lambda: heatmap(VECTORS, cmap=3), "cmap must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case):
    error, call, message = WRONG[case]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


# Timelines


def test_a_timeline_has_the_sum_and_every_series():
    inputs = RNG.normal(size=SEQUENCES.shape)
    dates = [f"day {i}" for i in range(20)]
    figure = timeline(
        SEQUENCES, inputs, features=["rain", "snow"], steps=dates, limit=2, labels=["one", "two", "three"]
    )
    first, rain, snow, second, *_ = figure.axes
    assert len(figure.axes) == 6 and first.get_title() == "one" and second.get_title() == "two"
    np.testing.assert_allclose([height for _, height in bars(first)], SEQUENCES[0].sum(1))
    np.testing.assert_allclose(rain.lines[0].get_ydata(), inputs[0, :, 0])
    assert (rain.get_ylabel(), snow.get_ylabel()) == ("rain", "snow")
    points = rain.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 1], inputs[0, points[:, 0].astype(int), 0])
    texts = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert texts[0] == "day 0" and texts[-1] == "day 19" and len(texts) <= 12


def test_a_timeline_without_input_or_relevance():
    figure = timeline(np.zeros((1, 5)))
    assert len(figure.axes) == 1 and figure.axes[0].get_xlabel() == "step"
    with_input = timeline(np.zeros((1, 1)), np.ones((1, 1)))
    assert len(with_input.axes) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((IMAGES,), {}, r"must have shape \(samples, steps, features\)"),
        ((SEQUENCES, SEQUENCES[:2]), {}, "input must be shaped like relevance"),
        ((SEQUENCES,), {"features": ["a"]}, "1 features are named, but there are 2"),
        ((SEQUENCES,), {"steps": ["a"]}, "1 steps are named, but there are 20"),
        ((SEQUENCES,), {"labels": ["a"]}, "1 labels for 3 samples"),
        ((SEQUENCES,), {"cmap": "none"}, "no colour map named"),
    ],
)
def test_timelines_that_cannot_be_drawn(arguments, options, message):
    with pytest.raises(lrpfast.LrpfastError, match=message):
        timeline(*arguments, **options)


# Maps, scales, and pictures for a paper

LAT, LON = np.linspace(60, -60, 13), np.arange(0, 360, 30.0)


def seasons(dims=("season", "lat", "lon"), values=None):
    xarray = pytest.importorskip("xarray")
    values = RNG.normal(size=(4, 13, 12)) if values is None else values
    coords = {"season": ["DJF", "MAM", "JJA", "SON"], "lat": LAT, "lon": LON}
    return xarray.DataArray(values, coords, ("season", "lat", "lon")).transpose(*dims)


def degrees(axis):
    axis.figure.draw_without_rendering()
    return [text.get_text() for text in axis.get_ticklabels() if text.get_visible()]


@pytest.mark.parametrize("dims", [("season", "lat", "lon"), ("lon", "season", "lat")], ids=str)
def test_coordinates_make_a_map(dims):
    """By name, whatever the order: north is up, with degrees at the outer panels, and one scale for all."""
    array = seasons(dims)
    figure = heatmap(array, title="by season", colorbar_label="mean relevance")
    expected = array.transpose("season", "lat", "lon").values[:, ::-1]
    np.testing.assert_array_equal(drawn(figure), expected)
    assert [ax.get_title() for ax in panels(figure)] == ["DJF", "MAM", "JJA", "SON"]
    assert len(set(ends(figure))) == 1 and bar(figure).ax.get_ylabel() == "mean relevance"
    image = panels(figure)[0].images[0]
    assert image.origin == "lower" and image.get_extent() == [-15, 345, -65, 65]
    assert {"30°N", "0°", "30°S"} <= set(degrees(panels(figure)[0].yaxis))
    assert {"60°E", "180°", "120°W"} <= set(degrees(panels(figure)[2].xaxis))


def test_one_map_and_coordinates_of_plain_arrays():
    array = seasons()[0]
    figure = heatmap(array)
    np.testing.assert_array_equal(drawn(figure)[0], array.values[::-1])
    assert panels(figure)[0].get_title() == ""
    again = heatmap(array.values, coordinates=(LAT, LON))
    np.testing.assert_array_equal(drawn(again), drawn(figure))
    uneven = heatmap(array.values[None], coordinates=(LAT**3 / 60**2, LON))
    (mesh,) = panels(uneven)[0].collections
    assert mesh.get_rasterized() and mesh.get_array().shape == (13, 12)
    shifted = heatmap(array.values, coordinates=(LAT, (LON + 180) % 360 - 180))  # the wrap is in the middle
    np.testing.assert_array_equal(drawn(shifted)[0], np.roll(array.values[::-1], 6, 1))
    with pytest.raises(ShapeError, match="the coordinates are those of a grid"):
        heatmap(array.values, coordinates=(LAT, LON[:3]))


def test_other_axes_have_their_names_and_depths_grow_downwards():
    xarray = pytest.importorskip("xarray")
    coords = {
        "depth": ("depth", [5.0, 50, 500], {"units": "m", "positive": "down"}),
        "t": ("t", [0, 1, 2, 3], {"long_name": "day"}),
    }
    figure = heatmap(xarray.DataArray(RNG.normal(size=(2, 3, 4)), coords, ("x", "depth", "t")), kind="image")
    ax = panels(figure)[0]
    assert ax.get_ylabel() == "depth [m]" and ax.get_ylim()[0] > ax.get_ylim()[1]
    assert panels(figure)[1].get_xlabel() == "day" or ax.get_xlabel() == "day"


def test_channels_of_a_map_are_summed():
    xarray = pytest.importorskip("xarray")
    values = RNG.normal(size=(2, 13, 12, 3))
    array = xarray.DataArray(values, {"lat": LAT, "lon": LON}, ("time", "lat", "lon", "channel"))
    np.testing.assert_allclose(drawn(heatmap(array)), values.sum(-1)[:, ::-1])
    figure = heatmap(array, array)
    np.testing.assert_allclose(panels(figure)[0].images[0].get_array(), values[0].mean(-1)[::-1])


def test_maps_with_cartopy_and_without(monkeypatch):
    """Without coast lines on this computer there is a warning, and nothing is downloaded."""
    array = seasons()
    monkeypatch.setitem(sys.modules, "cartopy", None)
    monkeypatch.setitem(sys.modules, "cartopy.crs", None)
    np.testing.assert_array_equal(drawn(heatmap(array, kind="map")), drawn(heatmap(array)))
    with pytest.raises(lrpfast.errors.MissingPackageError, match="a projection needs cartopy"):
        heatmap(array, kind="map", projection="Robinson")
    with pytest.raises(InputError, match="a map needs its latitudes and longitudes"):
        heatmap(array.values, kind="map")
    with pytest.raises(InputError, match="projection is for kind='map'"):
        heatmap(array, projection="Robinson")


def test_projections(tmp_path):
    cartopy = pytest.importorskip("cartopy", reason="projections need cartopy")
    import cartopy.crs as crs

    array = seasons()
    cartopy.config["data_dir"] = cartopy.config["pre_existing_data_dir"] = str(tmp_path)
    with pytest.warns(UserWarning, match="downloads nothing"):
        figure = heatmap(array, kind="map", projection="Robinson")
    assert all(isinstance(ax.projection, crs.Robinson) for ax in panels(figure))
    with pytest.warns(UserWarning, match="downloads nothing") as caught:  # once, not for every panel
        figure = heatmap(array, kind="map")
    assert len([one for one in caught if "coast lines" in str(one.message)]) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(drawn(figure), array.values[:, ::-1])  # its own pixels, in any file
    left, right, low, high = panels(figure)[0].images[0].get_extent()
    assert (left, right, low, high) == (-180, 180, -65, 65)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        region = heatmap(array.isel(lon=slice(2, 5)), kind="map")
    assert list(panels(region)[0].images[0].get_extent()) == [45, 135, -65, 65]
    with pytest.raises(InputError, match="projection must be"):
        heatmap(array, kind="map", projection="flat")


@pytest.mark.parametrize(("sign", "name"), [(1, "Reds"), (-1, "Blues_r")])
def test_relevance_of_one_sign_has_colours_that_begin_at_zero(sign, name):
    image = panels(heatmap(sign * abs(IMAGES)))[0].images[0]
    assert image.get_cmap().name == name and 0 in image.get_clim()
    assert bar(heatmap(sign * abs(IMAGES))).ax.get_ylabel().endswith("(end: above each panel)")
    low, high = panels(heatmap(sign * abs(IMAGES), cmap="PuOr"))[0].images[0].get_clim()
    assert low == -high  # a diverging map has its middle at zero
    assert 0 in panels(heatmap(sign * abs(IMAGES), cmap="viridis"))[0].images[0].get_clim()


def test_limits_of_the_caller():
    def clim(*arguments, **keywords):
        return panels(heatmap(*arguments, **keywords))[0].images[0].get_clim()

    assert (
        clim(IMAGES, vmax=2) == (-2, 2)
        and clim(IMAGES, vmin=-3) == (-3, 3)
        and clim(IMAGES, vmin=-1, vmax=3) == (-1, 3)
    )
    assert clim(abs(IMAGES), vmax=2) == (0, 2) and clim(-abs(IMAGES), vmin=-2) == (-2, 0)
    assert bar(heatmap(IMAGES, vmax=0.5)).extend == "both"
    for options, text in (
        ({"vmin": 1, "vmax": 1}, "vmin must be below vmax"),
        ({"vmax": "1"}, "vmax must be a number"),
        ({"vmax": 1, "percentile": 99}, "give one of them"),
    ):
        with pytest.raises(InputError, match=text):
            heatmap(IMAGES, **options)


def test_axes_of_the_caller():
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert heatmap(IMAGES[:1], ax=left, title="mine", colorbar=False) is figure
    assert left.get_title() == "mine" and len(left.images) == 1 and len(figure.axes) == 2
    heatmap(VECTORS[:2], ax=[left, right])
    assert right.get_ylabel() == "relevance"
    with pytest.raises(InputError, match="2 samples to draw on 1 axes"):
        heatmap(VECTORS[:2], ax=left)
    with pytest.raises(InputError, match="ax must be"):
        heatmap(VECTORS, ax="left")


@pytest.mark.parametrize("size", [4, 10, 30])
@pytest.mark.parametrize("kind", ["image", "map", "sequence", "vector", "largest"])
def test_nothing_is_cut_off(kind, size):
    import matplotlib

    with matplotlib.rc_context({"font.size": size}):
        figure = {
            "image": lambda: heatmap(IMAGES[:2], title="a title", labels=["a long label"] * 2),
            "map": lambda: heatmap(seasons(), title="a title"),
            "sequence": lambda: heatmap(SEQUENCES, features=["precipitation", "temperature"]),
            "vector": lambda: heatmap(VECTORS, features=[f"feature {i}" for i in range(12)]),
            "largest": lambda: heatmap(VECTORS, VECTORS, largest=True),
        }[kind]()
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert box.x0 > -0.01 and box.y0 > -0.01 and box.x1 < width + 0.01 and box.y1 < height + 0.01


def test_vector_formats_hold_text_and_native_pixels(tmp_path):
    figure = heatmap(RNG.normal(size=(1, 61, 97)), kind="image", title="relevance of one map")
    save(figure, tmp_path / "r.svg")
    save(figure, tmp_path / "r.pdf")
    text = (tmp_path / "r.svg").read_text()
    assert ">relevance of one map</text>" in text
    pdf = (tmp_path / "r.pdf").read_bytes()
    assert b"/Width 97" in pdf and b"/Height 61" in pdf and b"/Type3" not in pdf.replace(b" ", b"")
    assert panels(figure)[0].images[0].get_interpolation() != "none"


def test_photographs_are_no_negatives():
    photograph = np.linspace(0, 1, 64).reshape(1, 8, 8, 1)
    strokes = np.zeros((1, 8, 8, 1))
    strokes[0, 3] = 1

    def lightness(x):
        image = panels(heatmap(x[..., :1] * 0 + 1e-9, x))[0].images[0]
        return image.get_cmap()(image.norm(float(image.get_array().max())))[0]

    assert lightness(photograph) == lightness(np.repeat(strokes, 3, -1)) == 1.0
    assert lightness(strokes) < 0.7


def test_a_window_of_a_sequence():
    figure = heatmap(SEQUENCES, SEQUENCES, window=(5, 9))
    np.testing.assert_array_equal(drawn(figure)[0], SEQUENCES[0, 5:9].T)
    ax = panels(figure)[0]
    assert ax.get_xlim() == (4.5, 8.5)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(5, 9))
    for window, data in (((5, 90), SEQUENCES), ((3, 3), SEQUENCES), ("ab", SEQUENCES), ((0, 2), VECTORS)):
        with pytest.raises(InputError, match="window"):
            heatmap(data, window=window)


def test_a_notebook_shows_the_figure():
    assert heatmap(VECTORS)._repr_png_().startswith(b"\x89PNG")
