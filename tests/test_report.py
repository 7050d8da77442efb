"""Reports: complete pages of every kind of samples, with the right numbers, and no text of a file as HTML."""

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import InputError, ShapeError
from lrpfast import layers as L
from lrpfast.batch import open_source
from lrpfast.batch.inputs import open_inputs
from lrpfast.cli import main
from lrpfast.reporting import collect, page
from lrpfast.reporting.kept import Kept
from lrpfast.reporting.settings import Labels, ReportSettings

pytest.importorskip("matplotlib", reason="reports draw with matplotlib")

NASTY = "<script>alert('x')</script>\"&\u202e$x^2$"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures are made, but not painted, which takes most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **options: file.write(b"painted"))


class Tags(html.parser.HTMLParser):
    """All tags and attributes of a page, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(path):
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    assert text.startswith("<!DOCTYPE html>") and tags.tags.count("html") == 1
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "svg"} & set(tags.tags)
    for name, value in tags.attributes:
        assert not name.startswith("on"), name
        assert name != "src" or value.startswith("data:image/png;base64,")
        assert name != "href" or value.startswith("#s")
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "\u202e" not in text
    return tags


def dense(rng, inputs, outputs, activation="softmax"):
    layers = [L.Dense(rng.normal(size=(inputs, 24)) / inputs**0.5, activation="relu")]
    return lrpfast.from_layers([*layers, L.Dense(rng.normal(size=(24, outputs)), activation=activation)])


def vectors(rng):
    x = rng.normal(size=(40, 5))
    return dense(rng, 5, 3), x, {"labels": rng.integers(0, 3, 40), "features": ["a", "b", NASTY, "d", "e"]}


def regression(rng):
    x = rng.normal(size=(30, 4))
    return dense(rng, 4, 1, None), x, {"labels": rng.normal(size=30), "target": 0}


def sequences(rng):
    layers = [L.Conv(rng.normal(size=(3, 2, 4)), activation="relu"), L.Flatten(), L.Dense(rng.normal(size=(24, 2)))]
    return lrpfast.from_layers(layers, input_shape=(8, 2)), rng.normal(size=(20, 8, 2)), {"features": ["rain", NASTY]}


def images(rng):
    layers = [L.Conv(rng.normal(size=(3, 3, 3, 2)), activation="relu"), L.Flatten(), L.Dense(rng.normal(size=(72, 2)))]
    model = lrpfast.from_layers(layers, input_shape=(8, 8, 3))
    return model, rng.random(size=(20, 8, 8, 3)), {"class_names": ["cat", NASTY], "labels": rng.integers(0, 2, 20)}


def grids(rng):
    mask = rng.random((4, 6)) < 0.7
    x = rng.normal(size=(25, 4, 6))
    return dense(rng, int(mask.sum()), 3), x, {"mask": mask, "origin": "lower", "normalize": "maxabs"}


def tokens(rng):
    layers = [L.Embedding(rng.normal(size=(9, 4))), L.Flatten(), L.Dense(rng.normal(size=(20, 2)))]
    names = ["<pad>", NASTY, *"abcdefg"]
    return lrpfast.from_layers(layers, input_shape=(5,)), rng.integers(0, 9, (30, 5)), {"tokens": names}


def groups(rng):
    x = rng.normal(size=(20, 4))
    return dense(rng, 4, 3), x, {"labels": np.array(["wet", NASTY])[rng.integers(0, 2, 20)]}


@pytest.mark.parametrize("make", [vectors, regression, sequences, images, grids, tokens, groups])
def test_kinds(make, rng, tmp_path, unpainted):
    model, x, options = make(rng)
    path = tmp_path / "r.html"
    result = lrpfast.report(
        lrpfast.Analyzer(model, "epsilon"), x, path, samples=6, shown=2, title=NASTY, command=NASTY, **options
    )
    assert result == str(path)
    tags = read(path)
    for text in ("How it was made", model.digest(), "Balance of relevance", "Flipped features", "least balanced"):
        assert text in tags.text, text
    assert "alert('x')" in tags.text  # as text
    assert {p.name for p in tmp_path.iterdir()} == {"r.html"}


def test_a_page_with_pictures(rng, tmp_path):
    """Painted, of a file; gradients have no balance."""
    model, x, options = images(rng)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", options["labels"])
    lrpfast.report(
        lrpfast.Analyzer(model, "integrated_gradients"),
        str(tmp_path / "x.npy"),
        tmp_path / "r.html",
        labels=tmp_path / "y.npy",
        samples=4,
        shown=1,
    )
    tags = read(tmp_path / "r.html")
    assert "no balance" in tags.text and "f(baseline)" in tags.text
    assert tags.tags.count("img") == 4 and all(dict(tags.attributes)[name] for name in ("alt", "width"))


def collected(model, x, labels=None, **options):
    analyzer = lrpfast.Analyzer(model, "epsilon", precision="float64")
    settings = ReportSettings(labels=labels, **options)
    with open_source(x) as data:
        true = Labels.of(labels, len(x), collect.class_count(analyzer._core))
        return analyzer, collect.Collector(analyzer._core, data, settings, true).run(lambda count: None)


@pytest.mark.parametrize("rows", [3, 1000])
def test_numbers(rows, rng, monkeypatch):
    """What one pass collects is what whole arrays say, whatever the chunks."""
    monkeypatch.setattr(collect, "rows_of", lambda *_: rows)
    model, x, options = vectors(rng)
    labels = options["labels"]
    analyzer, found = collected(model, x, labels, shown=4)
    relevance, output = analyzer.analyze(x), analyzer.explain(x).output
    predicted = output.argmax(1)
    assert found.confusion[:, 0].tolist() == np.bincount(labels, minlength=3).tolist()
    assert found.confusion[:, 1].tolist() == np.bincount(labels[predicted == labels], minlength=3).tolist()
    for g, label in enumerate(found.groups):
        np.testing.assert_allclose(found.inputs[0].statistics.mean[g], relevance[labels == label].mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.inputs[0].absolute, np.abs(relevance).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.explained, output.max(1), rtol=1e-12)
    np.testing.assert_allclose(found.reached, relevance.sum(1) / output.max(1), rtol=1e-9)
    confidence = model.predict(x, precision="float64").max(1)
    for name, members in (("right", predicted == labels), ("wrong", predicted != labels)):
        at = np.flatnonzero(members)
        expected = at[np.argsort(-confidence[at], kind="stable")[:4]]
        assert found.kept[name].samples.tolist() == expected.tolist()
        assert np.array_equal(found.kept[name].rows["relevance 0"], relevance[expected])
    missing = np.abs(output.max(1) - relevance.sum(1)) / np.abs(output.max(1))
    assert found.kept["unbalanced"].samples.tolist() == np.argsort(-missing, kind="stable")[:4].tolist()


def test_regression_and_tokens(rng):
    model, x, options = regression(rng)
    _, found = collected(model, x, options["labels"], target=0, shown=3)
    error = np.abs(model.predict(x, precision="float64")[:, 0] - options["labels"])
    assert found.error["mean absolute error"] == pytest.approx(error.mean())
    assert found.kept["furthest"].samples.tolist() == np.argsort(-error)[:3].tolist()
    model, x, _ = tokens(rng)
    analyzer, found = collected(model, x)
    relevance = analyzer.analyze(x)
    count, total = found.inputs[0].by_token
    assert count.tolist() == np.bincount(x.ravel(), minlength=9).tolist()
    np.testing.assert_allclose(total, np.bincount(x.ravel(), relevance.ravel(), 9), rtol=1e-9)


def test_kept():
    kept = Kept(2)
    for first in range(0, 6, 2):
        keys = np.array([1.0, 5.0, np.nan, 5.0, 7.0, 0.0])[first : first + 2]
        kept.update(keys, np.array([True, True]), first, {"number": np.arange(first, first + 2)})
    assert kept.samples.tolist() == [4, 1] and kept.rows["number"].tolist() == [4, 1]
    kept.update(np.array([9.0]), np.array([False]), 6, {"number": np.array([6])})
    assert len(kept) == 2 and kept.samples.tolist() == [4, 1]


def test_one_sample_and_one_value(tmp_path, unpainted):
    model = lrpfast.from_layers([L.Dense(np.array([[2.0]]))])
    lrpfast.report(lrpfast.Analyzer(model, "zero"), np.ones((1, 1)), tmp_path / "r.html")
    assert "100.0%" in read(tmp_path / "r.html").text


def test_many_classes_and_values_that_are_missing(rng, tmp_path, unpainted):
    """Of many classes those that occur most have maps; NaN features have no value."""
    model, x = dense(rng, 4, 40), rng.normal(size=(30, 4))
    x[:, 1] = np.nan
    lrpfast.report(lrpfast.Analyzer(model, "epsilon", mask_nan=True), x, tmp_path / "r.html", samples=4, shown=1)
    text = read(tmp_path / "r.html").text
    assert "no value (NaN)" in text and "mask nan" in text


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"labels": [0, 1]}, ["labels", "(40,)"]),
        ({"labels": np.full(40, 3)}, ["labels", "0 to 2"]),
        ({"kind": "tokens"}, ["tokens", "embedding"]),
        ({"kind": "photo"}, ["kind", "photo"]),
        ({"samples": 0}, ["samples"]),
        ({"shown": 99}, ["shown", "24"]),
        ({"normalize": "mean"}, ["normalize", "mean"]),
        ({"features": 3}, ["features"]),
        ({"target": np.zeros((40, 2), int)}, ["target", "40"]),
        ({"mask": np.ones((2, 2), bool)}, ["mask", "4"]),
    ],
)
def test_errors(options, parts, rng, tmp_path):
    model, x, _ = vectors(rng)
    with pytest.raises((InputError, ShapeError)) as error:
        lrpfast.report(lrpfast.Analyzer(model, "epsilon"), x, tmp_path / "r.html", **options)
    assert all(part in str(error.value) for part in parts), error.value
    assert not list(tmp_path.iterdir())


def test_models_and_files_that_do_not_fit(rng, tmp_path):
    model, x, _ = vectors(rng)
    analyzer = lrpfast.Analyzer(model, "epsilon")
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(InputError, match="overwrite=True"):
        lrpfast.report(analyzer, x, tmp_path / "r.html")
    with pytest.raises(ShapeError, match="5"):
        lrpfast.report(analyzer, x[:, :4], tmp_path / "r.html", overwrite=True)
    with pytest.raises(InputError, match="no samples"):
        lrpfast.report(analyzer, x[:0], tmp_path / "r.html", overwrite=True)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=r"x\.npy"):
        lrpfast.report(analyzer, tmp_path / "x.npy", tmp_path / "x.npy", overwrite=True)
    assert (tmp_path / "r.html").read_text() == "mine"
    graph = lrpfast.Graph()
    two = lrpfast.Analyzer(graph.model(graph.add(L.Add(), graph.input((2,), "a"), graph.input((2,), "b"))), "epsilon")
    pair = {"a": x[:, :2], "b": x[:, 2:4]}
    with pytest.raises(InputError, match="a source for each"):
        lrpfast.report(two, x, tmp_path / "s.html")
    with pytest.raises(InputError, match="features: the model has the inputs 'a', 'b'"):
        lrpfast.report(two, pair, tmp_path / "s.html", features=["x", "y"])
    with pytest.raises(InputError, match="names 'c', but the model has the inputs 'a', 'b'"):
        lrpfast.report(two, pair, tmp_path / "s.html", features={"c": ["x", "y"]})
    with pytest.raises(InputError, match="mask is for models of one input"):
        lrpfast.report(two, pair, tmp_path / "s.html", mask=np.ones(2, bool))
    with pytest.raises(ShapeError, match="as many samples"):
        lrpfast.report(two, {"a": x[:, :2], "b": x[:9, 2:4]}, tmp_path / "s.html")
    assert not (tmp_path / "s.html").exists()


def several(rng):
    """Images, a vector, and a text with its mask."""
    graph = lrpfast.Graph()
    image, vector = graph.input((8, 8, 3), "photo"), graph.input((4,), "weather")
    text, mask = graph.input((5,), "text"), graph.input((5,), "seen", kind="truth")
    seen = graph.add(L.Conv(rng.normal(size=(3, 3, 3, 2)), activation="relu"), image)
    embedded = graph.add(L.Embedding(rng.normal(size=(9, 4))), text)
    masked = graph.add(L.Attention(1), embedded, embedded, embedded, mask)
    parts = [graph.add(L.Flatten(), part) for part in (seen, masked)]
    joined = graph.add(L.Concat(), parts[0], vector, parts[1])
    model = graph.model(graph.add(L.Dense(rng.normal(size=(72 + 4 + 20, 2))), joined))
    x = {
        "photo": rng.random(size=(20, 8, 8, 3)),
        "weather": rng.normal(size=(20, 4)),
        "text": rng.integers(0, 9, (20, 5)),
        "seen": np.ones((20, 5)),
    }
    return model, x


def test_several_inputs(rng, tmp_path):
    model, x = several(rng)
    analyzer = lrpfast.Analyzer(model, "cp_lrp")
    options = {"features": {"weather": ["wind", "rain", NASTY, "sun"]}, "tokens": {"text": ["<pad>", *"abcdefgh"]}}
    lrpfast.report(analyzer, x, tmp_path / "r.html", samples=6, shown=2, baseline="mean", normalize="l1", **options)
    tags = read(tmp_path / "r.html")
    for text in ("Input photo", "Input weather", "Input text", "gets no relevance", "Relevance of the inputs", "rain"):
        assert text in tags.text, text
    assert "Most relevant tokens" in tags.text and "The order is not" not in tags.text
    assert tags.text.count("The least confident predictions") == 1 + 3  # a heading, and each input but the mask


def test_numbers_of_several_inputs(rng, monkeypatch):
    model, x = several(rng)
    monkeypatch.setattr(collect, "rows_of", lambda *_: 7)
    analyzer = lrpfast.Analyzer(model, "cp_lrp", precision="float64")
    settings = ReportSettings(shown=3)
    with open_inputs(model, x) as data:
        found = collect.Collector(analyzer._core, data, settings, None).run(lambda count: None)
    relevance, output = analyzer.analyze(x), analyzer.explain(x).output
    for maps, own in zip(found.inputs, relevance.values(), strict=True):
        np.testing.assert_allclose(maps.absolute, np.abs(own).mean(0), rtol=1e-12)
        for g in (0, 1):
            np.testing.assert_allclose(maps.statistics.mean[g], own[output.argmax(1) == g].mean(0), rtol=1e-9)
    total = sum(own.reshape(20, -1).sum(1) for own in relevance.values())
    np.testing.assert_allclose(found.reached, total / output.max(1), rtol=1e-9)
    kept = found.kept["confident"]
    np.testing.assert_array_equal(kept.rows["relevance 1"], relevance["weather"][kept.samples])
    assert found.inputs[2].by_token[0].tolist() == np.bincount(x["text"].ravel(), minlength=9).tolist()


def test_data_are_read_in_pieces(rng, tmp_path, monkeypatch, unpainted):
    """Memory does not grow with the data: no read is larger than a chunk."""
    monkeypatch.setattr(collect, "rows_of", lambda *_: 8)
    model, x, _ = vectors(rng)
    np.save(tmp_path / "x.npy", x)
    largest = []
    with open_source(tmp_path / "x.npy") as data:
        original = type(data).read

        def spied(self, first, stop):
            largest.append(stop - first)
            return original(self, first, stop)

        monkeypatch.setattr(type(data), "read", spied)
        lrpfast.report(lrpfast.Analyzer(model, "epsilon"), data, tmp_path / "r.html", samples=4, shown=1)
    assert max(largest) <= 8 and sum(largest) >= 40


def test_command(rng, tmp_path, capsys, unpainted):
    model, x, _ = vectors(rng)
    paths = {name: str(tmp_path / name) for name in ("m.npz", "x.npy", "y.npy", "r.html", "names.txt")}
    model.save(paths["m.npz"])
    np.save(paths["x.npy"], x)
    np.save(paths["y.npy"], model.predict(x).argmax(1))
    (tmp_path / "names.txt").write_text("first\nsecond\nthird\n", encoding="utf-8")
    arguments = ["report", paths["m.npz"], paths["x.npy"], "--labels", paths["y.npy"], "-o", paths["r.html"]]
    arguments += ["--class-names", paths["names.txt"], "--features", "a,b,c,d,e", "--samples", "4", "--shown", "1"]
    assert main(arguments) == 0
    assert "wrote" in capsys.readouterr().out
    tags = read(tmp_path / "r.html")
    assert "100.0%" in tags.text and "second" in tags.text and "lrpfast report" in tags.text
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force", "--rule", "gradient", "--quiet"]) == 0
    assert "no balance" in read(tmp_path / "r.html").text


def test_command_for_several_inputs(rng, tmp_path, unpainted):
    model, x = several(rng)
    model.save(tmp_path / "m.npz")
    np.savez(tmp_path / "x.npz", **x)
    arguments = ["report", str(tmp_path / "m.npz"), str(tmp_path / "x.npz"), "--rule", "cp_lrp", "--quiet", "--force"]
    arguments += ["-o", str(tmp_path / "r.html"), "--samples", "4", "--features", "weather=wind,rain,fog,sun"]
    assert main(arguments) == 0
    first = read(tmp_path / "r.html").text
    assert "fog" in first and "data of photo" in first
    sources = [f"{name}={tmp_path / 'x.npz'}:{name}" for name in x]
    assert main([arguments[0], arguments[1], *sources, *arguments[3:]]) == 0
    assert "fog" in read(tmp_path / "r.html").text
    assert main(["report", arguments[1], "-o", "r.html"]) == 2


# Several models; latitudes and longitudes


def member(seed):
    rng = np.random.default_rng(seed)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in ((6, 5), (5, 2))]
    layers = [L.Dense(kernels[0], activation="relu"), L.Dense(kernels[1], activation="softmax")]
    return lrpfast.from_layers(layers, name=f"seed_{seed}")


@pytest.mark.parametrize("kind", ["python", "command"])
def test_an_ensemble(kind, rng, tmp_path, monkeypatch, unpainted):
    """The numbers of the table are those of each model's own explanations."""
    from lrpfast.reporting import members

    monkeypatch.chdir(tmp_path)
    x, labels, drawn = rng.normal(size=(50, 6)).astype(np.float32), np.arange(50) % 2, {}
    for seed in range(3):
        member(seed).save(f"seed_{seed}.npz")
    np.save("x.npy", x)
    np.save("labels.npy", labels)
    draw = members.Drawing.maps

    def maps(self, page, values, names, columns, text, quantity="relevance"):
        drawn[quantity] = values
        draw(self, page, values, names, columns, text, quantity)

    monkeypatch.setattr(members.Drawing, "maps", maps)
    if kind == "python":
        ensemble = lrpfast.Ensemble("seed_*.npz", "z_plus")
        lrpfast.report(ensemble, "x.npy", "r.html", labels=labels, class_names=["a", "b"], progress=False)
    else:
        command = ["report", "--models", "seed_*.npz", "x.npy", "--rule", "z_plus", "--labels", "labels.npy"]
        assert main([*command, "--class-names", "a,b", "-o", "r.html", "--quiet"]) == 0
    text = read(tmp_path / "r.html").text
    each = []
    for seed in range(3):
        own = lrpfast.Analyzer(member(seed), "z_plus").analyze(x).astype(np.float64)
        each.append([own[labels == k].mean(0) for k in (0, 1)])
        right = (member(seed).predict(x).argmax(1) == labels).mean()
        zero = int((own == 0).all(1).sum())
        assert re.search(rf"seed_{seed}{member(seed).digest()[:12]}{right:.1%}[\d.%-]+{zero}", text.replace("\n", ""))
    each = np.array(each)
    np.testing.assert_allclose(drawn["relevance"], each.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(drawn["standard deviation"], each.std(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(drawn["agreement"], np.sign(each).mean(0), atol=1e-12)
    assert "3models" in text.replace("\n", "") and "a, 25" not in text  # labels are in the pictures


def test_ensembles_that_do_not_fit(rng, tmp_path, capsys, unpainted):
    x, path = rng.normal(size=(9, 6)), tmp_path / "r.html"
    graph = lrpfast.Graph()
    two = graph.model(graph.add(L.Add(), graph.input((6,), name="a"), graph.input((6,), name="b")))
    with pytest.raises(InputError, match="models of one input"):
        lrpfast.report(lrpfast.Ensemble({"two": two}, "epsilon"), [x, x], path, progress=False)
    other = lrpfast.from_layers([L.Dense(np.ones((7, 2)))])
    with pytest.raises(ShapeError):
        lrpfast.report(lrpfast.Ensemble([member(0), other], "epsilon"), x, path, progress=False)
    assert main(["report", "--models", str(tmp_path / "no_*.npz"), "x.npy", "-o", str(path)]) == 2
    assert "no file matches" in capsys.readouterr().err
    assert main(["report", "m.npz", "-o", str(path)]) == 2
    assert "required: INPUTS" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("masked", [False, True])
def test_north_is_up(masked, rng, tmp_path, monkeypatch, unpainted):
    """Where data have latitudes and longitudes, they decide, as in all other pictures."""
    xarray = pytest.importorskip("xarray")
    from lrpfast.reporting import pictures

    seen, draw = [], pictures.plot.heatmap
    monkeypatch.setattr(pictures.plot, "heatmap", lambda *a, **options: seen.append(options) or draw(*a, **options))
    lat, lon = np.arange(-10.0, 11, 10), np.arange(0.0, 40, 10)
    data = xarray.DataArray(rng.normal(size=(20, 3, 4)), {"lat": lat, "lon": lon}, ("time", "lat", "lon"))
    mask = rng.random((3, 4)) < 0.8
    size = int(mask.sum()) if masked else 12
    layers = [L.Dense(rng.normal(size=(size, 2)))]
    if not masked:
        layers.insert(0, L.Flatten())
    model = lrpfast.from_layers(layers, input_shape=(size,) if masked else (3, 4, 1))
    analyzer = lrpfast.Analyzer(model, "epsilon")
    lrpfast.report(analyzer, data, tmp_path / "r.html", mask=mask if masked else None, progress=False)
    assert len(seen) > 1
    for options in seen:
        np.testing.assert_array_equal(options["coordinates"][0], lat)
        np.testing.assert_array_equal(options["coordinates"][1], lon)


def test_maps_that_are_zero_are_counted(tmp_path, unpainted):
    model = lrpfast.from_layers([L.Dense(np.ones((2, 2)), activation="relu"), L.Dense(np.ones((2, 1)))])
    x = np.array([[1.0, 2.0], [-1.0, -2.0], [-3.0, 1.0], [2.0, 2.0]])
    lrpfast.report(lrpfast.Analyzer(model, "epsilon"), x, tmp_path / "r.html", progress=False)
    text = read(tmp_path / "r.html").text
    assert "Of 4 explanations, 2 are zero everywhere." in text and "2explanations that mean little" in text


def test_text_is_escaped():
    assert page.escaped("<a href='x'>\x00\u202e") == "&lt;a href=&#x27;x&#x27;&gt;\ufffd\ufffd"


def test_the_page_of_the_documentation(tmp_path, monkeypatch, unpainted):
    root = Path(__file__).parents[1]
    (tmp_path / "tests").symlink_to(root / "tests", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    text = (root / "docs" / "report.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "report.md", "exec"), {})  # our own page
    assert "digit 9" in read(tmp_path / "digits.html").text
    (command,) = re.findall(r"\$ (lrpfast .*?)\nwrote", text, re.DOTALL)
    assert main(command.replace("\\\n", " ").split()[1:]) == 0
    assert "Rules by layer" in read(tmp_path / "report.html").text
